"""Finite scalar quantization of two levels against the quantizer of BAR's official code."""

from pathlib import Path

import pytest
import torch
from golden import float32, folders, load
from torch.nn import functional as F

from smalti.tokenizers.quantize.fsq import FiniteScalar


@pytest.mark.parametrize("folder", folders("bar_fsq"))
def test_bar_fsq(folder: Path):
    config, weights, io = load(folder)
    told, weights = config["constructor"], float32(weights)
    bits = told["token_size"]
    assert 2**bits == told["codebook_size"]
    quantizer = FiniteScalar((2,) * bits)

    def product(name: str, x: torch.Tensor) -> torch.Tensor:
        """A product, or nothing where the official code has no such number of channels."""
        if f"{name}.weight" not in weights:
            return x
        return F.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])

    projected = product("in_proj", io["z"])
    io.check("projected", projected)
    z = projected.mT[..., None]  # (B, K, N, 1)
    out = quantizer(z)
    assert not out.losses and torch.equal(out.codes, quantizer.encode(z))
    io.check("bounded", quantizer.bounded(projected))
    io.check("indices", quantizer.split(out.codes).squeeze(2))
    values = out.latent.squeeze(-1).mT
    io.check("codes", values)
    torch.testing.assert_close(values, quantizer.decode(out.codes).squeeze(-1).mT)
    io.check("quantized", product("out_proj", values))
    if "random_bits" in io:
        codes = quantizer.join(io["random_bits"].unflatten(1, (-1, bits)))
        found = quantizer.decode(codes[..., None]).squeeze(-1).mT
        io.check("random_entry", product("out_proj", found))
    if "ste_input" in io:
        given = io["ste_input"].clone().requires_grad_()
        ramp = torch.arange(1.0, given.numel() + 1).view_as(given)
        (quantizer.straight(given) * ramp).sum().backward()
        io.check("ste_grad", given.grad)
    io.done()
