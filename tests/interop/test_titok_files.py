"""TiTok's files: from tensors back to the config, small ones and published; mistakes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import smalti
from builders import build, tokenizers
from official import official, write
from smalti import modules
from smalti.cli.main import main
from smalti.interop.hub import find, find_tokenizer
from smalti.interop.pickles import Checkpoint
from smalti.interop.projects.titok import (
    PROJECT,
    PUBLISHED,
    TiTokFiles,
    generator_sizes,
    generator_state,
    tokens_sizes,
    tokens_state,
)
from smalti.models import titok as generators
from smalti.models.titok import S128, SHORT, TiTokGenerator
from smalti.modules import load_module
from smalti.recipes import RECIPES
from smalti.tokenizers import titok, titok_vae
from smalti.tokenizers.kinds import tokenizer_of
from smalti.tokenizers.titok import TiTok

TINY = titok.tiny()
FIRST = replace(tokenizers()["titok-first"][1], size=(16, 16))
OPTIONS = TiTokFiles(Path("x.bin"), tokenizer_heads=2)
BERT = replace(generators.tiny(), grid=(1, 6), dropout=0.1)


def bare(state: dict[str, Any]) -> dict[str, Any]:
    """As `smalti convert` hands it on."""
    return {name.removeprefix("model."): tensor for name, tensor in state.items()}


def checkpoint(module: Any, **changes: Any) -> Checkpoint:
    return Checkpoint(Path("x.bin"), bare(official(module)) | changes, {})


def unfilled(config: Any) -> Any:
    with torch.device("meta"):
        return modules.module_of(config, modules.TOKENIZERS | modules.MODELS)


def equal(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "config",
    [
        TINY,
        FIRST,
        replace(TINY, l2_norm=False, decoder_patch=2, text_length=3, text_dim=5),
        replace(titok_vae.tiny(), tokens=3),
        titok_vae.TiTokVAEConfig(
            **{name: getattr(FIRST, name) for name in ("size", "patch", "decoder_patch", "tokens")},
            **{name: getattr(FIRST, name) for name in ("dim", "encoder", "decoder", "proxy")},
            scrambled=True,
        ),
    ],
    ids=["pixels", "first", "text", "vae", "first-vae"],
)
def test_tokenizers_come_back(config):
    model = build(tokenizer_of, config)
    stored, norm = checkpoint(model), getattr(config, "l2_norm", True)
    found = tokens_sizes(stored, replace(OPTIONS, l2_norm=norm))
    assert found == config
    counted = {"quantize.embed_prob": torch.ones(3)}  # of a codebook whose codes are counted
    equal(tokens_state(stored.state | counted, found), model.state_dict())


@pytest.mark.parametrize("changes", [{}, {"network": "uvit"}, {"layers": 4, "classes": 3}])
def test_generators_come_back(changes):
    config = replace(BERT, **changes)
    model = build(TiTokGenerator, config)
    stored = checkpoint(model)
    assert generator_sizes(stored, 2) == config
    equal(generator_state(stored.state), model.state_dict())


@pytest.mark.parametrize("name", ["l32", "b64", "s128", "bl64", "bl128", "sl256"])
def test_the_published_tokenizers(name):
    config = RECIPES[f"titok_{name}_tokenizer"]().model
    assert tokens_sizes(checkpoint(unfilled(config)), TiTokFiles(Path("x.bin"))) == config


@pytest.mark.parametrize("name", ["ll32", "bl64", "bl128"])
def test_the_published_vaes(name):
    config = RECIPES[f"titok_{name}_vae"]().model
    assert tokens_sizes(checkpoint(unfilled(config)), TiTokFiles(Path("x.bin"))) == config


@pytest.mark.parametrize("config", [SHORT, replace(SHORT, grid=(1, 64)), S128])
def test_the_published_generators(config):
    assert generator_sizes(checkpoint(unfilled(config))) == config
    drawn, tokens = PROJECT.sampling(config), config.spec.positions
    assert drawn == PUBLISHED[tokens] and drawn.reveal.schedule == "arccos"
    assert drawn.reveal.steps == (64 if tokens == 128 else 8)
    if tokens == 32:
        assert drawn.guidance.scales == tuple(1 + 4.5 * step / 8 for step in range(8))


def test_what_is_on_the_hub():
    released = find("yucornetto/generator_titok_l32_imagenet/model.safetensors")
    assert released is not None and released.project is PROJECT
    assert released.home == "yucornetto/tokenizer_titok_l32_imagenet"
    assert released.tokenizer == "model.safetensors"
    for name in (
        "yucornetto/tokenizer_titok_l32_imagenet",
        "yucornetto/tokenizer_titok_sl256_vq8k_imagenet",
        "yucornetto/tokenizer_titok_ll32_vae_c16_imagenet",
        "turkeyju/tokenizer_tatitok_sl128_vae",
    ):
        alone = find_tokenizer(f"{name}/model.safetensors")
        assert alone is not None and alone.project is PROJECT and alone.repo == name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"encoder.positional_embedding": torch.ones(16, 16)},
            "must be squares, got 15 in e",
        ),
        ({"pixel_decoder.conv_in.weight": None}, "predicts codes and has no pixel_decoder of them"),
        ({"latent_tokens": torch.ones(3)}, r"x.bin is no such file of TiTok: it has shape \(3,\)"),
    ],
)
def test_tokenizers_whose_tensors_do_not_agree(changes, message):
    stored = checkpoint(build(TiTok, FIRST), **changes)
    for name in [name for name, tensor in changes.items() if tensor is None]:
        del stored.state[name]
    with pytest.raises(ValueError, match=message):
        tokens_sizes(stored, OPTIONS)


def test_sizes_that_were_never_published():
    with pytest.raises(ValueError, match="no published model has width 16; give --tokenizer-heads"):
        tokens_sizes(checkpoint(build(TiTok, TINY)), TiTokFiles(Path("x.bin")))
    stored = checkpoint(build(TiTokGenerator, BERT))
    with pytest.raises(ValueError, match="no published model has width 32; give --heads"):
        generator_sizes(stored)
    with pytest.raises(ValueError, match="embeds 34 codes, mask and classes, for 32 codes"):
        name = "embeddings.word_embeddings.weight"
        generator_sizes(checkpoint(build(TiTokGenerator, BERT), **{name: torch.ones(34, 32)}), 2)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    write(official(build(TiTok, FIRST)), folder / "first.safetensors")
    write(official(build(TiTok, TINY)), folder / "tokenizer.bin")
    write(official(build(tokenizer_of, titok_vae.tiny())), folder / "vae.bin")
    write(official(build(TiTokGenerator, BERT)), folder / "bert.bin")
    uvit = official(build(TiTokGenerator, replace(BERT, network="uvit")))
    write({name: t.contiguous() for name, t in uvit.items()}, folder / "uvit.safetensors")
    write(official(build(TiTokGenerator, replace(BERT, grid=(1, 7)))), folder / "other.bin")
    return folder


def command(files: Path, out: Path, tokenizer: str, model: str = "", *options: str) -> list[str]:
    given = ["--tokenizer", str(files / tokenizer), "--tokenizer-heads", "2"]
    if model:
        given += ["--model", str(files / model), "--heads", "2"]
    return ["convert", "titok", *given, "--out", str(out), *options]


@pytest.mark.parametrize("model", ["bert.bin", "uvit.safetensors"])
def test_a_pipeline_is_drawn(files, tmp_path, model):
    main(command(files, tmp_path / "p", "tokenizer.bin", model))
    pipe = smalti.load(tmp_path / "p", "cpu", torch.float32)
    network = model.split(".")[0].replace("bert", "vit")
    wanted = build(TiTokGenerator, replace(BERT, network=network))
    equal(pipe.model.state_dict(), wanted.state_dict())
    assert pipe.tokenizer.config == TINY and pipe.sampling.reveal.confidence == 9.5
    assert [picture.size for picture in pipe(n=2, seed=1, steps=4)] == [(16, 16)] * 2


@pytest.mark.parametrize(
    ("file", "config"),
    [("first.safetensors", replace(FIRST, l2_norm=False)), ("vae.bin", titok_vae.tiny())],
)
def test_a_tokenizer_alone(files, tmp_path, file, config):
    main(command(files, tmp_path / "t", file, "", "--l2-norm", "False"))
    tokenizer, info = load_module(tmp_path / "t", modules.TOKENIZERS)
    assert tokenizer.config == config and list(info["files"]) == [file]


def test_options_that_do_not_fit(files, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(command(files, tmp_path / "p", "tokenizer.bin", "other.bin"))
    (line,) = [e for e in capsys.readouterr().err.splitlines() if "names begin with" not in e]
    assert stop.value.code == 2 and not list(tmp_path.iterdir())
    assert "other.bin draws 7 codes out of 32; the tokenizer has 6 out of 32" in line
