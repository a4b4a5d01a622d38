"""Official names and settings of VAR's tokenizer."""

from dataclasses import replace

import pytest
import torch

from official_settings import vae_config
from smalti.interop.projects.var import vae_state
from smalti.tokenizers.multiscale_vqvae import MultiScaleVQVAE, var256, var512


def test_published_settings():
    given = {"ch": 160, "vocab_size": 4096, "z_channels": 32, "test_mode": True}
    assert vae_config(given) == var256()
    assert vae_config(given | {"v_patch_nums": [1, 2, 3, 4, 6, 9, 13, 18, 24, 32]}) == var512()


def test_other_settings():
    given = {
        "ch": 32, "z_channels": 8, "dropout": 0.25, "beta": 0.5, "using_znorm": True,
        "quant_conv_ks": 1, "quant_resi": -0.25, "share_quant_resi": 0, "v_patch_nums": [1, 3],
    }  # fmt: skip
    wanted = replace(
        var256(), size=(6, 6), channels=32, multipliers=(1, 2), blocks=3, scales=((1, 1), (3, 3)),
        dim=8, phis=0, phi_ratio=0.25, l2_norm=True, kernel=1, dropout=0.25,
    )  # fmt: skip
    assert vae_config(given, (1, 2), 3) == wanted
    assert vae_config(given | {"default_qresi_counts": 7}, (1, 2), 3) == replace(wanted, phis=7)
    with pytest.raises(ValueError, match="unknown settings z_channel .*z_channels"):
        vae_config({"z_channel": 3})


def names(module: str) -> dict[str, torch.Tensor]:
    return {f"{module}.weight": torch.randn(6, 2), f"{module}.bias": torch.randn(6)}


def test_names():
    given = {
        **names("encoder.mid.attn_1.qkv"),
        **names("decoder.mid.block_2.conv1"),
        **names("encoder.down.1.block.0.nin_shortcut"),
        **names("encoder.down.0.downsample.conv"),
        **names("decoder.up.0.block.2.norm1"),
        **names("decoder.up.1.attn.0.qkv"),
        **names("decoder.up.1.upsample.conv"),
        **names("quant_conv"),
        "quantize.ema_vocab_hit_SV": torch.zeros(3, 4),
    }
    found = vae_state(given)
    modules = {name.rpartition(".")[0] for name in found}
    assert modules == {
        *(f"encoder.mid.1.{part}" for part in "qkv"),
        *(f"decoder.conv_blocks.0.attn.0.{part}" for part in "qkv"),
        "decoder.mid.2.conv1",
        "encoder.conv_blocks.1.res.0.nin_shortcut",
        "encoder.conv_blocks.0.downsample.conv",
        "decoder.conv_blocks.1.res.2.norm1",
        "decoder.conv_blocks.0.upsample.conv",
        "quant_conv",
    }
    fused = given["encoder.mid.attn_1.qkv.weight"]
    parts = [found[f"encoder.mid.1.{part}.weight"] for part in "qkv"]
    assert torch.equal(torch.cat(parts), fused)


@pytest.mark.parametrize(
    ("share", "official"),
    [(4, "qresi_ls.{}"), (1, "qresi"), (0, "{}")],
)
def test_names_of_phi(share, official):
    config = vae_config({"share_quant_resi": share, "ch": 32})
    with torch.device("meta"):
        phi = MultiScaleVQVAE(config).quantize.phi
    given = {
        f"quantize.quant_resi.{official.format(i)}.{name}": torch.empty(0)
        for i in range(len(phi))
        for name in ("weight", "bias")
    }
    wanted = {f"quantize.phi.{name}" for name in phi.state_dict()}
    assert vae_state(given).keys() == wanted and len(wanted) == 2 * len(given) // 2
