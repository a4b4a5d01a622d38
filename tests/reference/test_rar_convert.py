"""RAR's and MaskGIT-VQGAN's golden weights as released files: `smalti convert`, `smalti.load`, and
the golden tensors."""

from dataclasses import replace

import pytest
import torch
from golden import float32, folders, grid_of, load
from test_maskgit_vqgan import check_maskgit
from test_rar import check_rar

import smalti
from builders import build
from official import layouts, official, write
from smalti import modules
from smalti.cli.main import main
from smalti.interop.projects.maskgit_vqgan import maskgit_state
from smalti.interop.projects.rar import rar_state
from smalti.models import rar
from smalti.models.rar import RAR
from smalti.modules import load_module
from smalti.pipeline.sampling import Sampling
from smalti.tokenizers import maskgit_vqgan
from smalti.tokenizers.maskgit_vqgan import MaskGITVQGAN

LAYOUTS = ["flat", "ddp", "flat-views", "compiled", "safetensors", "old"]


def content(state, layout):
    return layouts(state, {}).get(layout, (state, []))[0]


def same(module, wanted) -> bool:
    state = module.state_dict()
    return state.keys() == wanted.keys() and all(torch.equal(state[k], wanted[k]) for k in state)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("folder", folders("rar"))
def test_generators(folder, layout, tmp_path):
    config, weights, io = load(folder)
    tokenizer = replace(
        maskgit_vqgan.tiny(), vocab=config["constructor"]["vq_model"]["codebook_size"]
    )
    vq = write(official(build(MaskGITVQGAN, tokenizer)), tmp_path / "vq.bin")
    suffix = ".safetensors" if layout == "safetensors" else ".bin"
    model = write(content(weights, layout), tmp_path / f"rar{suffix}", old=layout == "old")
    out = tmp_path / "p"
    height, width = grid_of(config["constructor"]["generator"]["image_seq_len"])
    grid = ["--grid", f"{height}x{width}"] if height != width else []
    files = ["--tokenizer", str(vq), "--model", str(model), "--out", str(out)]
    main(["convert", "rar", *files, *grid])
    pipe = smalti.load(out, "cpu", torch.float32)
    assert same(pipe.model, rar_state(float32(weights), pipe.model.config))
    if layout == "flat":
        check_rar(pipe.model, io)
    assert pipe.model.config.grid == (height, width)
    assert pipe.tokenizer.config == replace(tokenizer, size=(4 * height, 4 * width))
    assert pipe.sampling == Sampling.of(guidance=4.0)
    assert pipe.classes == [str(i) for i in range(pipe.model.config.classes)]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("folder", folders("maskgit_vqgan"))
@torch.no_grad()
def test_tokenizers(folder, layout, tmp_path):
    config, weights, io = load(folder)
    suffix = ".safetensors" if layout == "safetensors" else ".bin"
    vq = write(content(weights, layout), tmp_path / f"vq{suffix}", old=layout == "old")
    out, (height, width) = tmp_path / "t", io["image"].shape[2:]
    options = ["--size", f"{height}x{width}", "--out", str(out)]
    main(["convert", "maskgit-vqgan", "--tokenizer", str(vq), *options])
    tokenizer, info = load_module(out, modules.TOKENIZERS)
    assert same(tokenizer, maskgit_state(float32(weights)))
    if layout == "flat":
        check_maskgit(tokenizer, config, io)
    assert list(info["files"]) == [vq.name]


@pytest.mark.parametrize("folder", folders("maskgit_vqgan"))
@torch.no_grad()
def test_a_pipeline_of_the_tokenizer(folder, tmp_path):
    config, weights, io = load(folder)
    vq = write(weights, tmp_path / "vq.bin")
    grid = tuple(s // config["downsample"] for s in io["image"].shape[2:])
    vocab = config["constructor"]["quantizer"]["num_embeddings"]
    model = build(RAR, replace(rar.tiny(), grid=grid, vocab=vocab))
    file = write(official(model), tmp_path / "rar.bin")
    out = tmp_path / "p"
    files = ["--tokenizer", str(vq), "--model", str(file), "--out", str(out)]
    main(["convert", "rar", *files, "--grid", f"{grid[0]}x{grid[1]}"])
    pipe = smalti.load(out, "cpu", torch.float32)
    check_maskgit(pipe.tokenizer, config, io)
    assert same(pipe.model, model.state_dict())
