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
    projected = F.linear(io["z"], weights["in_proj.weight"], weights["in_proj.bias"])
    io.check("projected", projected)
    z = projected.mT[..., None]  # (B, K, N, 1)
    out = quantizer(z)
    assert not out.losses and torch.equal(out.codes, quantizer.encode(z))
    io.check("bounded", quantizer.bounded(projected))
    io.check("indices", quantizer.split(out.codes).squeeze(2))
    values = out.latent.squeeze(-1).mT
    io.check("codes", values)
    torch.testing.assert_close(values, quantizer.decode(out.codes).squeeze(-1).mT)

    def projected_back(values: torch.Tensor) -> torch.Tensor:
        return F.linear(values, weights["out_proj.weight"], weights["out_proj.bias"])

    io.check("quantized", projected_back(values))
    if "random_bits" in io:
        codes = quantizer.join(io["random_bits"].unflatten(1, (-1, bits)))
        found = quantizer.decode(codes[..., None]).squeeze(-1).mT
        io.check("random_entry", projected_back(found))
    given = io["ste_input"].clone().requires_grad_()
    ramp = torch.arange(1.0, given.numel() + 1).view_as(given)
    (quantizer.straight(given) * ramp).sum().backward()
    io.check("ste_grad", given.grad)
    io.done()
