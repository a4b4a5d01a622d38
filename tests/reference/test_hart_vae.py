"""HART's tokenizer against outputs of the official code."""

from pathlib import Path
from typing import Any

import pytest
import torch
from golden import Vectors, float32, folders, load

from official_settings import hart_vae_config
from smalti.interop.projects.hart import vae_state
from smalti.tokenizers.hart_vae import HARTVAE


def tokenizer_of(config: dict[str, Any], weights: dict[str, torch.Tensor]) -> HARTVAE:
    model = HARTVAE(hart_vae_config(config["constructor"])).eval()
    model.load_state_dict(vae_state(float32(weights)))
    return model


@pytest.mark.parametrize("folder", folders("hart_vae"))
@torch.no_grad()
def test_hart_vae(folder: Path):
    config, weights, io = load(folder)
    check(tokenizer_of(config, weights), config, io)


def check(model: HARTVAE, config: dict[str, Any], io: Vectors) -> None:
    """Compare a tokenizer with every golden tensor."""
    images, quantizer = io["image"], model.quantize
    assert model.config.size == tuple(images.shape[2:])
    latent = model.latent(images)
    io.check("latent_f", latent)
    vectors = model.encode(images)
    parts, codes = vectors.split(quantizer.sizes, 1), model.discrete(vectors)
    for k, part in enumerate(codes.split(quantizer.sizes, 1)):
        io.check(f"idx_{k}", part)
    io.check("frest_before_last_discrete", parts[-1])
    io.check("var_input", quantizer.inputs(vectors))
    io.check("rec_continuous", model.decode(vectors))
    quantizer.train().discrete = 1.0
    found = quantizer(latent)
    assert torch.equal(found.codes, codes)
    io.check("train_fhat_discrete_st", found.latent)
    io.check("train_fhat_discrete_st", quantizer.decode(codes))
    beta = config["constructor"].get("beta", 0.25)
    io.check("vq_loss", found.losses["codebook"] + beta * found.losses["commitment"])
    quantizer.eval()
    assert torch.equal(quantizer(latent).latent, latent)
    io.done()
