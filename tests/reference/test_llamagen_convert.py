"""The golden weights as released files: `smalti convert`, `smalti.load`, and the golden tensors."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from golden import Vectors, float32, folders, load
from test_llamagen import check_gpt, check_vq

import smalti
from builders import build
from official import layouts, official, write
from official_settings import GPT_DEFAULTS, VQ_DEFAULTS
from smalti import modules
from smalti.cli.main import main
from smalti.interop.projects.llamagen import gpt_state, vq_state
from smalti.models.llamagen import LlamaGen, LlamaGenConfig
from smalti.modules import load_module
from smalti.tokenizers.vqgan import VQGAN, VQGANConfig

LAYOUTS = list(layouts({"x": torch.ones(1)}, {}))


def convert(tokenizer: Path, out: Path, *options: object) -> Path:
    main(
        ["convert", "llamagen", "--tokenizer", str(tokenizer), "--out", str(out)]
        + [*map(str, options)]
    )
    return out


def same(module: torch.nn.Module, wanted: dict[str, torch.Tensor]) -> bool:
    state = module.state_dict()
    return state.keys() == wanted.keys() and all(torch.equal(state[k], wanted[k]) for k in state)


def tokenizer_file(vocab: int, folder: Path) -> Path:
    """A small tokenizer of 2 pixels a code, whose codes a golden generator could have learned."""
    config = VQGANConfig(
        size=(2, 2), channels=4, multipliers=(1, 2), blocks=1, latent=4, vocab=vocab, dim=4
    )
    return write({"model": official(build(VQGAN, config))}, folder / "vq_ds2.pt")


def settings(constructor: dict[str, Any], *names: str) -> list[object]:
    """The options of settings that no file tells, where a folder has them."""
    return [part for name in names if name in constructor
            for part in ("--" + name.replace("_", "-"), constructor[name])]  # fmt: skip


@pytest.mark.parametrize("layout", [*LAYOUTS, "safetensors", "old"])
@pytest.mark.parametrize("folder", folders("llamagen_gpt"))
@torch.no_grad()
def test_generators(folder, layout, tmp_path):
    config, weights, io = load(folder)
    made = GPT_DEFAULTS | config["constructor"]
    if len(weights.get("cls_embedding.uncond_embedding", [])) not in (0, made["cls_token_num"]):
        pytest.skip(
            "the unconditional text is longer than the text, of which the file says nothing"
        )
    if not made.get("class_dropout_prob", 0.1):
        pytest.skip("no null class, which smalti refuses")
    grid = math.isqrt(made["block_size"])
    args = {
        "image_size": 2 * grid, "downsample_size": 2, "gpt_model": "GPT-small",
        "num_classes": 1000, "dropout_p": 0.2,
    }  # fmt: skip
    args |= {k: made[k] for k in ("vocab_size", "cls_token_num", "num_classes")}
    known = layouts(weights, args) | {"safetensors": (weights, [])}
    content, options = known.get(layout, known["ddp"])
    name = "model.safetensors" if layout == "safetensors" else "model.pt"
    model = write(content, tmp_path / name, old=layout == "old")
    options += ["--heads", made["n_head"], *settings(made, "rope_base", "norm_eps")]
    if "args" not in content:
        options += ["--grid", grid]
    tokenizer = tokenizer_file(made["vocab_size"], tmp_path)
    out = convert(tokenizer, tmp_path / "p", "--model", model, *options)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([name, "p", "vq_ds2.pt"])

    pipe = smalti.load(out, "cpu", torch.float32)
    assert same(pipe.model, gpt_state(float32(weights), pipe.model.config))
    if layout == "ddp":
        check_gpt(pipe.model, config, io)
    assert pipe.model.config.dropout == (0.2 if "args" in content else 0.1)
    assert pipe.tokenizer.config.size == (2 * grid, 2 * grid)
    assert pipe.classes == [str(i) for i in range(args["num_classes"] * ("caption" not in io))]
    if "caption" in io:
        assert (pipe.sampling.guidance.scale, pipe.sampling.filters.top_k) == (7.5, 1000)
        assert pipe.text is not None and pipe.text.config.length == made["cls_token_num"]


def vq_options(config: dict[str, Any], io: Vectors) -> list[str]:
    """Image size, and whether codes are normalised, which is told where they are not."""
    height, width = io["image"].shape[2:]
    plain = not (VQ_DEFAULTS | config["constructor"].get("ModelArgs", {}))["codebook_l2_norm"]
    return ["--size", f"{height}x{width}", *(["--no-l2-norm"] if plain else [])]


@pytest.mark.parametrize("layout", ["ddp", "ema", "flat-views", "wrapped", "safetensors"])
@pytest.mark.parametrize("folder", folders("llamagen_vq"))
@torch.no_grad()
def test_tokenizers(folder, layout, tmp_path):
    config, weights, io = load(folder)
    known = layouts(weights, {"codebook_l2_norm": True}) | {"safetensors": (weights, [])}
    content, options = known[layout]
    name = "vq.safetensors" if layout == "safetensors" else "vq.pt"
    vq = write(content, tmp_path / name)
    out = convert(vq, tmp_path / "t", *vq_options(config, io), *options)
    tokenizer, info = load_module(out, modules.TOKENIZERS)
    assert same(tokenizer, vq_state(float32(weights)))
    if layout == "ddp":
        check_vq(tokenizer, config, io)
    assert list(info["files"]) == [name]


@pytest.mark.parametrize("folder", folders("llamagen_vq"))
@torch.no_grad()
def test_a_pipeline_of_the_tokenizer(folder, tmp_path):
    config, weights, io = load(folder)
    vq = write({"model": weights}, tmp_path / "vq.pt")
    height, width = io["image"].shape[2:]
    shape = LlamaGenConfig(
        grid=(height // config["downsample"], width // config["downsample"]),
        vocab=(VQ_DEFAULTS | config["constructor"].get("ModelArgs", {}))["codebook_size"],
        classes=3, layers=1, heads=2, dim=16,
    )  # fmt: skip
    model = build(LlamaGen, shape)
    file = write(official(model), tmp_path / "c2i.pt")
    options = ["--model", file, "--heads", 2, *vq_options(config, io)]
    pipe = smalti.load(convert(vq, tmp_path / "p", *options), "cpu", torch.float32)
    check_vq(pipe.tokenizer, config, io)
    assert pipe.model.config == shape and same(pipe.model, model.state_dict())
