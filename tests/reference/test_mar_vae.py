"""MAR's KL-VAE against outputs of the official code. Tolerance 3e-5, relative to the largest."""

from pathlib import Path
from typing import Any

import pytest
import torch
from golden import Vectors, folders, load

from smalti.interop.mar_vae import kl_config, kl_state
from smalti.tokenizers.kl_vae import KLVAE, Posterior, kl16


def close(ours: torch.Tensor, golden: torch.Tensor) -> None:
    atol = 3e-5 * max(1.0, golden.abs().max().item())
    torch.testing.assert_close(ours, golden, rtol=0, atol=atol)


@pytest.mark.parametrize("folder", folders("mar_vae"))
@torch.no_grad()
def test_mar_vae(folder: Path):
    config, weights, io = load(folder)
    height, width = io["image"].shape[2:]
    shape = kl_config(
        config["constructor"],
        config.get("encoder_decoder_overrides"),
        (height, width),
        scale=config["scale_factor"],
    )
    model = KLVAE(shape).eval()
    model.load_state_dict(kl_state({k: v.float() for k, v in weights.items()}))
    check(model, config, io)


def check(model: KLVAE, config: dict[str, Any], io: Vectors) -> None:
    """Compare a tokenizer with every golden tensor."""
    images, latent = io["image"], io["latent"]
    close(model.encoder(images), io["encoder_out"])
    close(model.quant_conv(model.encoder(images)), io["moments"])
    posterior = model.posterior(images)
    mean, logvar = io["moments"].chunk(2, 1)
    close(posterior.mean, io["mean"])
    assert torch.equal(mean, io["mean"])
    close(posterior.logvar, logvar.clamp(-30, 20))
    close(posterior.std, io["std"])
    assert torch.equal(Posterior(mean, logvar.clamp(-30, 20)).std, io["std"])
    close(posterior.kl(), io["kl"])
    sample = posterior.sample(io["eps"])
    close(sample, io["sample"])
    close(model.codes(sample), io["scaled_sample"].flatten(2).transpose(1, 2))
    close(model.encode(images), model.config.scale * io["mean"].flatten(2).transpose(1, 2))
    close(model.render(latent), io["decoded"])
    close(model.decode(model.codes(latent)), io["decoded"])
    close(model.decode(model.encode(images[:1])), io["rec_mode_first"])
    io.done()


def test_kl16_has_the_published_size():
    with torch.device("meta"):
        model = KLVAE(kl16())
    assert sum(p.numel() for p in model.parameters()) == 66_456_019
    names = [n for n in model.state_dict() if ".attn." in n]
    assert {n.split(".attn.")[0] for n in names} == {"encoder.conv_blocks.4"}
    assert model.spec.shape(1) == (1, 256, 16) and model.config.factor == 16
