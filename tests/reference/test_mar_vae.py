"""MAR's KL-VAE against outputs of the official code."""

from pathlib import Path
from typing import Any

import pytest
import torch
from golden import Vectors, close, float32, folders, load, size_of

from official_settings import kl_config
from smalti.interop.projects.mar import kl_state
from smalti.tokenizers.kl_vae import KLVAE, Posterior, kl16


@pytest.mark.parametrize("folder", folders("mar_vae"))
@torch.no_grad()
def test_mar_vae(folder: Path):
    config, weights, io = load(folder)
    made, overrides = config["constructor"], config.get("encoder_decoder_overrides")
    shape = kl_config(made, overrides, pixels(io), scale=config["scale_factor"])
    model = KLVAE(shape).eval()
    model.load_state_dict(kl_state(float32(weights)))
    check(model, config, io)


def pixels(io: Vectors) -> tuple[int, int]:
    """Height and width of the images that are encoded, or else of those that are decoded."""
    return size_of(io["image"] if "image" in io else io["decoded"])


def check(model: KLVAE, config: dict[str, Any], io: Vectors) -> None:
    """Compare a tokenizer with every golden tensor."""
    if "image" in io:
        check_encoder(model, io)
    if "latent" in io:
        latent = io["latent"]
        io.check("decoded", model.render(latent))
        if latent.shape[2:] == tuple(s // model.config.factor for s in model.config.size):
            io.check("decoded", model.decode(model.codes(latent)))
    io.done()


def check_encoder(model: KLVAE, io: Vectors) -> None:
    images = io["image"]
    io.check("encoder_out", model.encoder(images))
    io.check("moments", model.quant_conv(model.encoder(images)))
    posterior = model.posterior(images)
    mean, logvar = io["moments"].chunk(2, 1)
    io.check("mean", posterior.mean)
    io.check("mean", mean, 0)
    close(posterior.logvar, logvar.clamp(-30, 20), size=logvar.abs().max().item())
    io.check("std", posterior.std)
    io.check("std", Posterior(mean, logvar.clamp(-30, 20)).std)
    io.check("kl", posterior.kl())
    if "eps" in io:
        sample = posterior.sample(io["eps"])
        io.check("sample", sample)
        if "scaled_sample" in io:
            close(model.codes(sample), io["scaled_sample"].flatten(2).transpose(1, 2))
    close(model.encode(images), model.config.scale * mean.flatten(2).transpose(1, 2))
    io.check("rec_mode_first", model.decode(model.codes(mean[:1])))


def test_kl16_has_the_published_size():
    with torch.device("meta"):
        model = KLVAE(kl16())
    assert sum(p.numel() for p in model.parameters()) == 66_456_019
    names = [n for n in model.state_dict() if ".attn." in n]
    assert {n.split(".attn.")[0] for n in names} == {"encoder.conv_blocks.4"}
    assert model.spec.shape(1) == (1, 256, 16) and model.config.factor == 16
