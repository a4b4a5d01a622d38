"""Infinity's golden weights as released files: `smalti convert`, `smalti.load`, golden tensors."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from golden import float32, folders, load
from test_infinity_transformer import check, head_of, model_of
from test_rar_convert import same
from torch import Tensor

import smalti
from builders import build
from official import official, shards, wrapped, write
from smalti import modules
from smalti.cli.main import main
from smalti.interop.projects.infinity import model_state
from smalti.modules import load_module
from smalti.tokenizers.infinity import InfinityVAE, InfinityVAEConfig

LAYOUTS = ["bare", "numbered", "old", "trainer", "fsdp", "flash", "shards"]


def numbered(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Layers without chunks."""
    chunk = {name.split(".")[3] for name in weights if name.startswith("block_chunks.0.")}

    def plain(found: re.Match[str]) -> str:
        return f"blocks.{int(found[1]) * len(chunk) + int(found[2])}."

    pattern = r"block_chunks\.(\d+)\.module\.(\d+)\."
    return {re.sub(pattern, plain, name): tensor for name, tensor in weights.items()}


def files(weights: dict[str, Tensor], layout: str, folder: Path) -> Path:
    """A file, or a folder, of this layout."""
    if layout == "shards":
        (folder / "infinity_weights").mkdir()
        return shards(weights, folder / "infinity_weights")
    content: Any = weights
    if layout == "numbered":
        content = numbered(weights)
    elif layout in ("trainer", "fsdp"):
        state = wrapped(weights, "_fsdp_wrapped_module") if layout == "fsdp" else weights
        content = {"epoch": 1, "args": {"depth": 4}, "trainer": {"gpt_fsdp": state, "it": 3}}
    elif layout == "flash":  # another axis for the heads
        content = {
            k: t.transpose(1, 2) if k.endswith("scale_mul_1H11") else t for k, t in weights.items()
        }
    return write(content, folder / "infinity.pth", old=layout == "old")


def tokenizer_file(bits: int, folder: Path) -> Path:
    """A small tokenizer whose codes a golden transformer could have learned."""
    small = InfinityVAEConfig(
        size=(2, 2), channels=4, multipliers=(1, 2), blocks=1, scales=((1, 1),), bits=bits
    )
    return write({"vae": official(build(InfinityVAE, small))}, folder / "infinity_vae.pth")


def convert(folder: Path, config: dict[str, Any], model: Path, *more: object) -> Path:
    made = config["constructor"]
    tokenizer = tokenizer_file(made["vae_local"]["embed_dim"], folder)
    words = ["--tokenizer", tokenizer, "--model", model, "--out", folder / "p"]
    words += ["--cells", 2 if made.get("apply_spatial_patchify") else 1]
    words += ["--ratio", config["h_div_w"], "--budget", config["pn"]]
    words += ["--heads", made["num_heads"], "--norm-eps", made.get("norm_eps", 1e-6), *more]
    main(["convert", "infinity", *map(str, words)])
    return folder / "p"


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("folder", folders("infinity_transformer"))
def test_transformers(folder: Path, layout: str, tmp_path: Path):
    config, weights, io = load(folder)
    out = convert(tmp_path, config, files(weights, layout, tmp_path))
    pipe = smalti.load(out, "cpu", torch.float32)
    wanted = model_of(config, weights)
    assert same(pipe.model, wanted.state_dict())
    grids = tuple((h, w) for _, h, w in config["scale_schedule"])
    assert pipe.model.spec.grids == pipe.tokenizer.spec.grids == grids
    settings = pipe.sampling
    assert (settings.guidance.scale, settings.filters.temperature) == (4.0, 0.5)
    assert settings.filters.top_p == 0.97
    text, made = pipe.text, config["constructor"]
    assert text is not None and text.config.model == "google/flan-t5-xl"
    assert (text.config.length, text.config.dim) == (made["text_maxlen"], made["text_channels"])
    if layout == "bare":
        pipe.model.config = replace(pipe.model.config, flip=0.0)
        for layer in pipe.model.layers:
            layer.drop_path = 0.0  # as in the golden losses
        check(pipe.model.requires_grad_(True), head_of(weights), config, io)


@pytest.mark.parametrize("folder", folders("infinity_transformer"))
def test_null_words_are_cut_and_added(folder: Path, tmp_path: Path):
    config, weights, _ = load(folder)
    model = files(weights, "bare", tmp_path)
    null = weights["cfg_uncond"]
    for length in (max(len(null) - 3, 1), len(null) + 5):
        where = tmp_path / str(length)
        where.mkdir()
        out = convert(where, config, model, "--text-length", length)
        pipe = smalti.load(out, "cpu", torch.float32)
        found = pipe.model.null
        common = min(length, len(null))
        assert len(found) == length == pipe.text.config.length
        assert torch.equal(found[:common], null[:common])
        rest = found[common:]
        if len(rest):
            assert 0.5 < rest.norm(dim=1).mean() < 2


@pytest.mark.parametrize("folder", folders("infinity_transformer"))
def test_half_precision_is_kept(folder: Path, tmp_path: Path):
    """Differences of a head in bfloat16 are taken in float32, and rounded once."""
    config, weights, _ = load(folder)
    half = {name: tensor.bfloat16() for name, tensor in weights.items()}
    out = convert(tmp_path, config, files(half, "bare", tmp_path))
    model, _ = load_module(out / "model", modules.MODELS)
    assert {t.dtype for t in model.state_dict().values()} == {torch.bfloat16}
    zeros, ones = float32(half)["head.weight"].unflatten(0, (-1, 2)).unbind(1)
    assert torch.equal(model.head.proj.weight, (ones - zeros).bfloat16())


@pytest.mark.parametrize("folder", folders("infinity_transformer"))
def test_every_tensor_has_a_place(folder: Path):
    config, weights, _ = load(folder)
    model = model_of(config, weights)
    assert model_state(float32(weights), model.config).keys() == model.state_dict().keys()
    assert model.state_dict().keys() == model_state(official(model), model.config).keys()


@pytest.mark.parametrize("folder", folders("infinity_transformer"))
def test_mistakes_are_one_line(folder: Path, tmp_path: Path, capsys: Any):
    config, weights, _ = load(folder)
    model = files(weights, "bare", tmp_path)
    heads = config["constructor"]["num_heads"]

    def mistake(*more: object) -> str:
        with pytest.raises(SystemExit) as stop:
            convert(tmp_path, config, model, *more)
        assert stop.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    if config["constructor"].get("cos_attn", True):
        assert f"has {heads} heads, got --heads {heads + 1}" in mistake("--heads", heads + 1)
    bits = config["constructor"]["vae_local"]["embed_dim"]
    cells = 2 if config["constructor"].get("apply_spatial_patchify") else 1
    reads, other = bits * cells**2, 3 - cells
    said = f"reads {reads} bits, the tokenizer has {bits * other**2}"
    assert said in mistake("--cells", other)
    assert "ratio (height / width) must be one of" in mistake("--ratio", 0.9)
    assert "0.06M" in mistake("--budget", "2M")
    assert "text_length must be at least 1, got 0" in mistake("--text-length", 0)
    vae = tokenizer_file(bits, tmp_path)
    assert f"{vae} looks like an Infinity tokenizer" in mistake("--model", vae)
