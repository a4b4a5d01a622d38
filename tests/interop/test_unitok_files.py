"""The file of UniTok's trainer becomes a tokenizer."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from official import write
from smalti import modules
from smalti.cli.main import main
from smalti.modules import load_module
from smalti.tokenizers.unitok import UniTok, UniTokConfig, tiny

CONFIG = replace(tiny(), size=(32, 32), widths=(8, 16), blocks=(1, 2), features=6)


def theirs(name: str, stages: int) -> str:
    """The official name of one of ours."""
    for part in ("stem", "stages", "pool"):
        if name.startswith(f"encoder.{part}."):
            return name.replace("encoder.", "encoder.patch_embed.backbone.")
    if name.startswith("decoder.up."):
        return name.replace("decoder.up.", "decoder.up_conv1.")
    if name.startswith("decoder.out."):
        return name.replace("decoder.out.", f"decoder.up_conv{stages + 2}.")
    if name.startswith("decoder.stages."):
        part, _, rest = name.removeprefix("decoder.stages.").partition(".")
        return f"decoder.up_conv{int(part) + 2}.{rest}"
    return name


def official(model: UniTok) -> dict[str, Tensor]:
    """The state dict of the official class, with what of it our tokenizer has not."""
    config, state = model.config, dict(model.state_dict())
    tables = state.pop("quantize.embedding.weight").chunk(config.depth)
    found = {theirs(n, len(config.widths)): t for n, t in state.items()}
    for k, rows in enumerate(tables):
        found[f"quantizer.codebooks.{k}.codebook.weight"] = rows.clone()
        found[f"quantizer.codebooks.{k}.vocab_usage"] = torch.rand(config.vocab)
    for name in ("quant_proj", "post_quant_proj"):
        found[f"{name}.attn.zero_k_bias"] = torch.zeros(config.width)
    return found | {
        "encoder.pos_embed": torch.zeros(1, 1, config.width),
        "text_encoder.token_embedding.weight": torch.rand(9, 4),
        "logit_scale": torch.tensor(2.6),
    }


def saved(state: dict[str, Tensor], folder: Path) -> Path:
    held = {"trainer": {"unitok": state}, "args": {"num_codebooks": 2}, "epoch": 1}
    return write(held, folder / "unitok_tokenizer.pth")


def model_of(config: UniTokConfig) -> UniTok:
    torch.manual_seed(0)
    return UniTok(config).eval()


@pytest.mark.parametrize("causal", [False, True])
@torch.no_grad()
def test_a_file_is_converted(causal: bool, tmp_path: Path):
    model = model_of(replace(CONFIG, causal=causal))
    words = ["--tokenizer", str(saved(official(model), tmp_path)), "--heads", "2", "--size", "32"]
    main(["convert", "unitok", *words, *["--causal"] * causal, "--out", str(tmp_path / "t")])
    found, _ = load_module(tmp_path / "t", modules.TOKENIZERS)
    assert found.config == model.config
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    codes = model.encode(images)
    assert torch.equal(found.encode(images), codes)
    torch.testing.assert_close(found.decode(codes), model.decode(codes))
    latent = model.quantize.decode(codes.unflatten(1, model.config.grid))
    torch.testing.assert_close(found.features(latent), model.features(latent))


BAD = {
    "encoder.reg_token": (torch.ones(1, 4, 16), "num_query must be 0"),
    "encoder.pos_embed": (torch.ones(1, 1, 16), "encoder.pos_embed must be zeros"),
    "quant_proj.attn.zero_k_bias": (torch.ones(16), "zero_k_bias must be zeros"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_our_tokenizer_does_not_have_is_refused(name: str, tmp_path: Path, capsys):
    tensor, why = BAD[name]
    given = saved(official(model_of(CONFIG)) | {name: tensor}, tmp_path)
    words = ["--tokenizer", str(given), "--heads", "2", "--size", "32"]
    with pytest.raises(SystemExit) as end:
        main(["convert", "unitok", *words, "--out", str(tmp_path / "t")])
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert why in error and error.strip().count("\n") == 0


def test_heads_that_nothing_tells_are_asked_for(tmp_path: Path, capsys):
    given = saved(official(model_of(CONFIG)), tmp_path)
    with pytest.raises(SystemExit) as end:
        main(["convert", "unitok", "--tokenizer", str(given), "--out", str(tmp_path / "t")])
    assert end.value.code == 2
    assert "give --heads" in capsys.readouterr().err
