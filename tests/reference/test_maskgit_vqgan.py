"""MaskGIT-VQGAN against outputs of the official code, which speaks of images in [0, 1]."""

from pathlib import Path
from typing import Any

import pytest
import torch
from golden import Vectors, float32, folders, grid_of, load, size_of

from official_settings import maskgit_config
from smalti.interop.projects.maskgit_vqgan import maskgit_state
from smalti.tokenizers.maskgit_vqgan import MaskGITVQGAN


@pytest.mark.parametrize("folder", folders("maskgit_vqgan"))
@torch.no_grad()
def test_maskgit_vqgan(folder: Path):
    config, weights, io = load(folder)
    made, size = config["constructor"], size_of(io["image"])
    model = MaskGITVQGAN(maskgit_config(made["conf"], made["quantizer"], size)).eval()
    model.load_state_dict(maskgit_state(float32(weights)))
    check_maskgit(model, config, io)


def check_maskgit(model: MaskGITVQGAN, config: dict[str, Any], io: Vectors) -> None:
    """Compare a tokenizer with every golden tensor."""
    assert model.config.factor == config["downsample"]
    images = io["image"] * 2 - 1
    io.check("latent_pre_quant", model.latent(images))
    codes = model.encode(images)
    io.check("indices", codes)
    out = model(images)
    assert torch.equal(out.quantized.codes.flatten(1), codes)
    for pictures in (model.render(model.quantize.decode(out.quantized.codes)), out.images):
        io.clamped("decode_indices_image", (pictures + 1) / 2, 0, 1)

    cost = config["constructor"]["quantizer"]["commitment_cost"]
    losses = out.quantized.losses  # upstream weights the codebook's loss, not the encoder's
    io.check("quantizer_loss", losses["commitment"] + cost * losses["codebook"])
    if "codes" in io:
        grid = io["codes"]
        if grid.dim() == 2:  # upstream takes it for a square
            grid = grid.unflatten(1, grid_of(grid.shape[1]))
        latent = model.quantize.decode(grid)
        io.check("decode_codes_latent", latent)
        unclamped = (model.render(latent) + 1) / 2
        io.check("decode_codes_unclamped", unclamped)
        io.clamped("decode_codes_image", unclamped, 0, 1)
        if tuple(grid.shape[1:]) == model.spec.grids[0]:
            decoded = (model.decode(grid.flatten(1)) + 1) / 2
            size = unclamped.abs().max().item()
            io.check("decode_codes_image", decoded.clamp(0, 1), size=size)
    io.done()
