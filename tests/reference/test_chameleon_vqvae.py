"""Chameleon's tokenizer against outputs of the official code."""

from pathlib import Path
from typing import Any

import pytest
import torch
from golden import Vectors, float32, folders, load, size_of

from official import write
from smalti import modules
from smalti.cli.main import main
from smalti.interop.projects.rq import attended
from smalti.interop.projects.var import vae_state
from smalti.modules import load_module
from smalti.tokenizers.vqgan import VQGAN, VQGANConfig


def config_of(told: dict[str, Any], size: tuple[int, int]) -> VQGANConfig:
    """Our settings of official ones."""
    shape = told["ddconfig"]
    assert (shape["in_channels"], shape["out_ch"], shape["double_z"]) == (3, 3, False)
    return VQGANConfig(
        size=size,
        channels=shape["ch"],
        multipliers=tuple(shape["ch_mult"]),
        blocks=shape["num_res_blocks"],
        latent=shape["z_channels"],
        vocab=told["n_embed"],
        dim=told["embed_dim"],
        l2_norm=False,
        deep_attention=False,
        attention_at=attended(shape["resolution"], shape),
    )


@torch.no_grad()
def check(model: VQGAN, io: Vectors) -> None:
    """Compare with every golden tensor. Upstream weighs the loss of the table, not that of the
    encoder."""
    io.check("latent", model.latent(io["image"]))
    io.check("indices", model.encode(io["image"]))
    out = model(io["image"])
    io.check("quantized", out.quantized.latent)
    losses = out.quantized.losses
    io.check("emb_loss", losses["commitment"] + 0.25 * losses["codebook"])
    rows = model.quantize.decode(io["indices"].unflatten(1, model.spec.grids[0]))
    io.check("codes", rows)
    io.check("decoded", model.render(rows))
    io.check("decoded", model.decode(io["indices"]))


@pytest.mark.parametrize("folder", folders("chameleon_vqvae"))
def test_chameleon_vqvae(folder: Path):
    config, weights, io = load(folder)
    model = VQGAN(config_of(config["constructor"], size_of(io["image"]))).eval()
    model.load_state_dict(vae_state(float32(weights)))
    check(model, io)
    io.done()


@pytest.mark.parametrize("folder", folders("chameleon_vqvae"))
def test_a_file_of_its_weights_is_converted(folder: Path, tmp_path: Path):
    """As published: in a state_dict, beside the weights of its losses."""
    config, weights, io = load(folder)
    lost = {"loss.discriminator.main.0.weight": torch.ones(2)}
    file = write({"state_dict": weights | lost}, tmp_path / "vqgan.ckpt")
    height, width = size_of(io["image"])
    words = ["--tokenizer", str(file), "--size", f"{height}x{width}"]
    main(["convert", "chameleon", *words, "--out", str(tmp_path / "t")])
    model, _ = load_module(tmp_path / "t", modules.TOKENIZERS, dtype=torch.float32)
    assert model.config == config_of(config["constructor"], (height, width))
    check(model, io)
    io.done()
