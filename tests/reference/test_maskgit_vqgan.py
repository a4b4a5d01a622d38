"""MaskGIT-VQGAN against outputs of the official code, which speaks of images in [0, 1].

Tolerances: 3e-5 on latents and images of [0, 1], 1e-6 on the loss; indices are exact.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from golden import Vectors, folders, load

from smalti.interop.maskgit_vqgan import maskgit_config, maskgit_state
from smalti.tokenizers.maskgit_vqgan import MaskGITVQGAN


def close(ours: torch.Tensor, golden: torch.Tensor, atol: float) -> None:
    torch.testing.assert_close(ours.reshape(golden.shape), golden, rtol=0, atol=atol)


@pytest.mark.parametrize("folder", folders("maskgit_vqgan"))
@torch.no_grad()
def test_maskgit_vqgan(folder: Path):
    config, weights, io = load(folder)
    given, size = config["constructor"], tuple(io["image"].shape[2:])
    model = MaskGITVQGAN(maskgit_config(given["conf"], given["quantizer"], size)).eval()
    model.load_state_dict(maskgit_state({k: v.float() for k, v in weights.items()}))
    check_maskgit(model, config, io)


def check_maskgit(model: MaskGITVQGAN, config: dict[str, Any], io: Vectors) -> None:
    """Compare a tokenizer with every golden tensor."""
    assert model.config.factor == config["downsample"]
    images = io["image"] * 2 - 1
    close(model.latent(images), io["latent_pre_quant"], 3e-5)
    codes = model.encode(images)
    assert torch.equal(codes, io["indices"])
    out = model(images)
    assert torch.equal(out.quantized.codes.flatten(1), codes)
    close((model.decode(codes) + 1) / 2, io["decode_indices_image"], 3e-5)
    close((out.images.clamp(-1, 1) + 1) / 2, io["decode_indices_image"], 3e-5)

    cost = config["constructor"]["quantizer"]["commitment_cost"]
    losses = out.quantized.losses  # upstream weights the codebook's loss, not the encoder's
    close(losses["commitment"] + cost * losses["codebook"], io["quantizer_loss"], 1e-6)

    latent = model.quantize.decode(io["codes"])
    close(latent, io["decode_codes_latent"], 1e-6)
    close((model.render(latent) + 1) / 2, io["decode_codes_unclamped"], 3e-5)
    close((model.decode(io["codes"].flatten(1)) + 1) / 2, io["decode_codes_image"], 3e-5)
    io.done()
