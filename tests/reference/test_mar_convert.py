"""MAR's and KL-16's golden weights as released files: `smalti convert`, `smalti.load`, and the
golden tensors."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from golden import float32, folders, load
from test_mar import check_mar, epsilon
from test_mar_vae import check as check_vae
from test_mar_vae import pixels
from test_rar_convert import content, same

import smalti
from builders import build
from official import official, other, write
from official_settings import MAR_DEFAULTS as DEFAULTS
from smalti import modules
from smalti.cli.main import main
from smalti.interop.projects.mar import kl_state, mar_state
from smalti.models import mar
from smalti.models.mar import MAR
from smalti.modules import load_module
from smalti.pipeline.sampling import Sampling
from smalti.tokenizers import kl_vae
from smalti.tokenizers.kl_vae import KLVAE

LAYOUTS = ["checkpoint", "as-trained", "flat", "flat-views", "compiled", "safetensors", "old"]


def stored(weights: dict[str, Any], layout: str, args: dict[str, Any]) -> tuple[Any, list[str]]:
    """A file's content, and the options with which its weights are these."""
    beside = {"optimizer": {}, "epoch": 799, "scaler": {}, "args": argparse.Namespace(**args)}
    if layout == "checkpoint":
        return {"model": other(weights), "model_ema": weights, **beside}, []
    if layout == "as-trained":
        return {"model": weights, "model_ema": other(weights)}, ["--weights", "model"]
    return content(weights, layout), []


@pytest.mark.filterwarnings("ignore:.*has no moving average")
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("folder", folders("mar"))
def test_generators(folder: Path, layout, tmp_path):
    config, weights, io = load(folder)
    given = DEFAULTS | config["constructor"]
    shape = replace(kl_vae.tiny(), latent=given["vae_embed_dim"])
    vae = write({"model": official(build(KLVAE, shape))}, tmp_path / "kl.ckpt")
    suffix = ".safetensors" if layout == "safetensors" else ".pth"
    state, options = stored(weights, layout, given)
    model = write(state, tmp_path / f"checkpoint-last{suffix}", old=layout == "old")
    options += ["--heads", str(given["encoder_num_heads"])]
    options += ["--decoder-heads", str(given["decoder_num_heads"])]
    options += [part for _, eps in epsilon(config).items() for part in ("--norm-eps", str(eps))]
    files = ["--tokenizer", str(vae), "--model", str(model), "--scale", "0.5", *options]
    main(["convert", "mar", *files, "--out", str(tmp_path / "p")])
    pipe = smalti.load(tmp_path / "p", "cpu", torch.float32)
    assert same(pipe.model, mar_state(float32(weights)))
    if layout == "checkpoint":
        check_mar(pipe.model.requires_grad_(True), config, io)
        assert pipe.model.config.head.repeat == given["diffusion_batch_mul"]
        assert pipe.model.config.attention_dropout == given["attn_dropout"]
    height, width = pipe.model.config.grid
    cell = 4 * given["patch_size"]
    assert pipe.tokenizer.config.size == (cell * height, cell * width)
    assert pipe.sampling == Sampling.of(
        guidance=3.0, schedule="linear", steps=min(256, height * width)
    )


@pytest.mark.parametrize("layout", ["checkpoint", "losses", "flat", "safetensors", "old"])
@pytest.mark.parametrize("folder", folders("mar_vae"))
@torch.no_grad()
def test_tokenizers(folder: Path, layout, tmp_path):
    config, weights, io = load(folder)
    suffix = ".safetensors" if layout == "safetensors" else ".ckpt"
    losses = {"loss.logvar": torch.zeros(()), "loss.discriminator.main.0.weight": torch.ones(2)}
    state = {"model": weights | losses if layout == "losses" else weights, "epoch": 7}
    state = state if layout in ("checkpoint", "losses") else content(weights, layout)
    vae = write(state, tmp_path / f"kl{suffix}", old=layout == "old")
    height, width = pixels(io)
    scale = config["scale_factor"]
    options = ["--size", f"{height}x{width}", "--scale", str(scale), "--out", str(tmp_path / "t")]
    main(["convert", "mar", "--tokenizer", str(vae), *options])
    tokenizer, info = load_module(tmp_path / "t", modules.TOKENIZERS)
    assert same(tokenizer, kl_state(float32(weights)))
    assert tokenizer.config.scale == scale and list(info["files"]) == [vae.name]
    if layout == "checkpoint":
        check_vae(tokenizer, config, io)


@pytest.mark.parametrize("folder", folders("mar_vae"))
@torch.no_grad()
def test_a_pipeline_of_the_tokenizer(folder: Path, tmp_path):
    config, weights, io = load(folder)
    vae = write({"model": weights}, tmp_path / "kl.ckpt")
    height, width = pixels(io)
    if height != width:
        pytest.skip("MAR draws square images")
    side = height // 2 ** (len(config["constructor"]["ch_mult"]) - 1)
    shape = replace(mar.tiny(), grid=(side, side), channels=config["constructor"]["embed_dim"])
    model = build(MAR, shape)
    file = write({"model_ema": official(model), "model": {}}, tmp_path / "mar.pth")
    options = ["--scale", str(config["scale_factor"]), "--heads", str(shape.heads)]
    files = ["--tokenizer", str(vae), "--model", str(file), *options]
    main(["convert", "mar", *files, "--out", str(tmp_path / "p")])
    pipe = smalti.load(tmp_path / "p", "cpu", torch.float32)
    check_vae(pipe.tokenizer, config, io)
    assert same(pipe.model, model.state_dict())
