"""VAR's tokenizer against outputs of the official code."""

from pathlib import Path
from typing import Any

import pytest
import torch
from golden import Vectors, float32, folders, load

from official_settings import vae_config
from smalti.interop.projects.var import vae_state
from smalti.tokenizers.multiscale_vqvae import MultiScaleVQVAE


@pytest.mark.parametrize("folder", folders("var_vqvae"))
@torch.no_grad()
def test_var_vqvae(folder: Path):
    config, weights, io = load(folder)
    model = MultiScaleVQVAE(
        vae_config(config["constructor"], **config.get("encoder_decoder_overrides", {}))
    ).eval()
    model.load_state_dict(vae_state(float32(weights)))
    check(model, config, io)


def check(model: MultiScaleVQVAE, config: dict[str, Any], io: Vectors) -> None:
    """Compare a tokenizer with every golden tensor."""
    quantizer = model.quantize
    phis = io.get("phi_choice_per_scale")
    if phis is not None and list(quantizer.phi.parameters()):  # else which one changes nothing
        assert quantizer.phi_of == phis.tolist()
    if "image" in io:
        check_images(model, config["constructor"].get("beta", 0.25), io)
    if "rand_idx_0" in io:
        drawn = torch.cat(io.series("rand_idx_"), 1)
        io.check("rand_fhat", quantizer.decode(drawn))
        for codes in (drawn, quantizer.embed(drawn)):
            io.clamped("rand_decode_last", model.decode(codes), -1, 1)
        io.clamped("rand_decode_first", model.decode(drawn[:1], scales=1), -1, 1)
        io.check("rand_var_input", quantizer.inputs(drawn))
    io.done()


def check_images(model: MultiScaleVQVAE, beta: float, io: Vectors) -> None:
    images, quantizer = io["image"], model.quantize
    assert model.config.size == tuple(images.shape[2:])
    io.check("encoder_out", model.encoder(images))
    io.check("latent_f", model.latent(images))
    codes = model.encode(images)
    for k, part in enumerate(codes.split(quantizer.sizes, 1)):
        io.check(f"idx_{k}", part)
        io.check(f"fhat_after_{k}", quantizer.decode(codes, k + 1))
    io.clamped("rec_last", model.decode(codes), -1, 1)
    io.check("var_input", quantizer.inputs(codes))

    out = model(images)
    assert torch.equal(out.quantized.codes, codes)
    io.check("latent_f", out.latent)
    io.check("train_fhat_st", out.quantized.latent)
    io.clamped("rec_last", out.images, -1, 1)
    losses = out.quantized.losses
    io.check("train_vq_loss", losses["codebook"] + beta * losses["commitment"])
