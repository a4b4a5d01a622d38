"""The golden weights as released files: `smalti convert`, `smalti.load`, and the golden tensors."""

from pathlib import Path

import pytest
import torch
from golden import folders, load
from test_llamagen import check_gpt, check_vq

import smalti
from builders import build
from official import layouts, official, write
from smalti import registry
from smalti.cli import main
from smalti.interop.llamagen import gpt_state, vq_state
from smalti.models.llamagen import LlamaGen, LlamaGenConfig
from smalti.storage import load_module
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


@pytest.mark.parametrize("layout", [*LAYOUTS, "safetensors", "old"])
@pytest.mark.parametrize("folder", folders("llamagen_gpt"))
@torch.no_grad()
def test_generators(folder, layout, tmp_path):
    config, weights, io = load(folder)
    given, grid = config["constructor"], config["derived"]["grid"]
    args = {
        "image_size": 2 * grid, "downsample_size": 2, "gpt_model": "GPT-small",
        "num_classes": 1000, "dropout_p": 0.2,
    }  # fmt: skip
    args |= {k: given[k] for k in ("vocab_size", "cls_token_num", "num_classes") if k in given}
    known = layouts(weights, args) | {"safetensors": (weights, [])}
    content, options = known.get(layout, known["ddp"])
    name = "model.safetensors" if layout == "safetensors" else "model.pt"
    model = write(content, tmp_path / name, old=layout == "old")
    if "args" not in content:
        options += ["--grid", grid]
    tokenizer = tokenizer_file(given["vocab_size"], tmp_path)
    out = convert(tokenizer, tmp_path / "p", "--model", model, "--heads", given["n_head"], *options)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([name, "p", "vq_ds2.pt"])

    pipe = smalti.load(out, "cpu", torch.float32)
    if layout == "ddp":
        check_gpt(pipe.model, config, io)
    assert same(pipe.model, gpt_state(weights, pipe.model.config))
    assert pipe.model.config.dropout == (0.2 if "args" in content else 0.1)
    assert pipe.tokenizer.config.size == (2 * grid, 2 * grid)
    assert pipe.classes == [str(i) for i in range(args["num_classes"] * ("caption" not in io))]
    if "caption" in io:
        assert (pipe.sampling.guidance, pipe.sampling.top_k) == (7.5, 1000)
        assert pipe.text is not None and pipe.text.config.length == given["cls_token_num"]


@pytest.mark.parametrize("layout", ["ddp", "ema", "flat-views", "wrapped", "safetensors"])
@pytest.mark.parametrize("folder", folders("llamagen_vq"))
@torch.no_grad()
def test_tokenizers(folder, layout, tmp_path):
    config, weights, io = load(folder)
    height, width = io["image"].shape[2:]
    known = layouts(weights, {"codebook_l2_norm": True}) | {"safetensors": (weights, [])}
    content, options = known[layout]
    name = "vq.safetensors" if layout == "safetensors" else "vq.pt"
    vq = write(content, tmp_path / name)
    out = convert(vq, tmp_path / "t", "--size", f"{height}x{width}", *options)
    tokenizer, info = load_module(out, registry.TOKENIZERS)
    if layout == "ddp":
        check_vq(tokenizer, config, io)
    assert same(tokenizer, vq_state({k: v.float() for k, v in weights.items()}))
    assert list(info["files"]) == [name]


@pytest.mark.parametrize("folder", folders("llamagen_vq"))
@torch.no_grad()
def test_a_pipeline_of_the_tokenizer(folder, tmp_path):
    config, weights, io = load(folder)
    vq = write({"model": weights}, tmp_path / "vq.pt")
    height, width = io["image"].shape[2:]
    settings = LlamaGenConfig(
        grid=(height // config["downsample"], width // config["downsample"]),
        vocab=config["constructor"]["ModelArgs"]["codebook_size"],
        classes=3, layers=1, heads=2, dim=16,
    )  # fmt: skip
    model = build(LlamaGen, settings)
    file = write(official(model), tmp_path / "c2i.pt")
    options = ["--model", file, "--size", f"{height}x{width}", "--heads", 2]
    pipe = smalti.load(convert(vq, tmp_path / "p", *options), "cpu", torch.float32)
    check_vq(pipe.tokenizer, config, io)
    assert pipe.model.config == settings and same(pipe.model, model.state_dict())
