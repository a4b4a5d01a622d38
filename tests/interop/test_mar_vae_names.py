"""Settings and names of MAR's KL-VAE, beside those of the golden vectors."""

import pytest
import torch

from official_settings import kl_config
from smalti.interop.projects.mar import kl_state
from smalti.tokenizers.kl_vae import KLVAE, kl16

PUBLISHED = {"embed_dim": 16, "ch_mult": [1, 1, 2, 2, 4]}


def test_the_published_settings_are_kl16():
    assert kl_config(PUBLISHED, scale=0.2325) == kl16()
    assert kl_config(PUBLISHED | {"ckpt_path": "kl16.ckpt"}, None, (512, 512)).size == (512, 512)


@pytest.mark.parametrize(
    ("multipliers", "overrides", "levels"),
    [
        ([1, 1, 2, 2], {}, set()),
        ([1, 1, 2, 2, 4, 4], {}, {4}),
        ([1, 2], {"resolution": 32}, {1}),
        ([1, 2, 2], {"attn_resolutions": [256, 64]}, {0, 2}),
    ],
)
def test_attention_is_where_an_image_of_the_resolution_has_so_many_cells(
    multipliers, overrides, levels
):
    config = kl_config(
        {"embed_dim": 4, "ch_mult": multipliers}, {"ch": 32, "num_res_blocks": 1} | overrides
    )
    with torch.device("meta"):
        names = KLVAE(config).state_dict()
    found = {n.split(".")[2] for n in names if ".attn." in n and n.startswith("encoder.")}
    assert found == {str(level) for level in levels}
    assert not [n for n in names if ".attn." in n and n.startswith("decoder.")]


@pytest.mark.parametrize(
    ("constructor", "overrides", "words"),
    [
        ({"depth": 3}, {}, "unknown settings depth"),
        ({}, {"double_z": False}, "unknown settings double_z"),
        ({"use_variational": False}, {}, "unknown settings use_variational=False"),
    ],
)
def test_settings_that_we_do_not_know(constructor, overrides, words):
    with pytest.raises(ValueError, match=f"MAR AutoencoderKL: {words}"):
        kl_config(PUBLISHED | constructor, overrides)


def test_names():
    one, loss = torch.ones(1), "loss.perceptual_loss.lin0.model.1.weight"
    names = {
        "encoder.down.4.attn.0.q.weight": "encoder.conv_blocks.4.attn.0.q.weight",
        "encoder.mid.attn_1.proj_out.bias": "encoder.mid.1.proj_out.bias",
        "decoder.mid.block_2.conv1.weight": "decoder.mid.2.conv1.weight",
        "decoder.up.0.block.2.conv1.weight": "decoder.conv_blocks.1.res.2.conv1.weight",
        "decoder.up.1.upsample.conv.bias": "decoder.conv_blocks.0.upsample.conv.bias",
        "quant_conv.weight": "quant_conv.weight",
    }
    assert kl_state(dict.fromkeys([*names, loss], one)).keys() == set(names.values())
