"""VAR's tokenizer against outputs of the official code.

Tolerances: those of `close`; codes and phi choices are exact.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from golden import Vectors, folders, load

import close
from smalti.interop.var import vae_config, vae_state
from smalti.tokenizers.multiscale_vqvae import MultiScaleVQVAE


@pytest.mark.parametrize("folder", folders("var_vqvae"))
@torch.no_grad()
def test_var_vqvae(folder: Path):
    config, weights, io = load(folder)
    model = MultiScaleVQVAE(
        vae_config(config["constructor"], **config.get("encoder_decoder_overrides", {}))
    ).eval()
    model.load_state_dict(vae_state({k: v.float() for k, v in weights.items()}))
    check(model, config, io)


def check(model: MultiScaleVQVAE, config: dict[str, Any], io: Vectors) -> None:
    """Compare a tokenizer with every golden tensor."""
    images, quantizer = io["image"], model.quantize
    steps = range(len(quantizer.grids))

    def same(ours: torch.Tensor, golden: torch.Tensor) -> None:
        close.values(ours.reshape(golden.shape), golden, model)

    assert model.config.size == tuple(images.shape[2:]) == (config["image_size"],) * 2
    assert quantizer.phi_of == io["phi_choice_per_scale"].tolist()
    same(model.encoder(images), io["encoder_out"])
    same(model.latent(images), io["latent_f"])
    codes = model.encode(images)
    assert torch.equal(codes, torch.cat([io[f"idx_{k}"] for k in steps], 1))
    for k in steps:
        same(quantizer.decode(codes, k + 1), io[f"fhat_after_{k}"])
    same(model.decode(codes).clamp(-1, 1), io["rec_last"])
    same(quantizer.inputs(codes), io["var_input"])

    out = model(images)
    assert torch.equal(out.quantized.codes, codes)
    same(out.latent, io["latent_f"])
    same(out.quantized.latent, io["train_fhat_st"])
    same(out.images.clamp(-1, 1), io["rec_last"])
    losses, beta = out.quantized.losses, config["constructor"]["beta"]
    loss = losses["codebook"] + beta * losses["commitment"]
    close.losses(loss, io["train_vq_loss"].reshape(loss.shape), model)

    drawn = torch.cat([io[f"rand_idx_{k}"] for k in steps], 1)
    same(quantizer.decode(drawn), io["rand_fhat"])
    same(model.decode(drawn).clamp(-1, 1), io["rand_decode_last"])
    same(model.decode(quantizer.embed(drawn)).clamp(-1, 1), io["rand_decode_last"])
    same(model.decode(drawn[:1], 1).clamp(-1, 1), io["rand_decode_first"])
    same(quantizer.inputs(drawn), io["rand_var_input"])
    io.done()
