"""UniTok's quantizer and the attention on either side of it, equal to the official code."""

from pathlib import Path
from typing import Any

import pytest
import torch
from golden import float32, folders, grid_of, load
from torch import Tensor

from smalti.interop.projects.unitok import projection_state, table
from smalti.nn.projection import AttentionProjection
from smalti.tokenizers.quantize.multicode import MulticodeQuantizer

BETA = 0.25
"""Upstream's default."""


def settings(config: dict[str, Any]) -> dict[str, Any]:
    """What the official classes were made with."""
    return config | config.get("constructor", {})


def projection(
    told: dict[str, Any], weights: dict[str, Tensor], prefix: str, before: int, after: int
) -> AttentionProjection:
    heads = told.get("num_heads") or told["embed_dim"] // told["vocab_width"]
    module = AttentionProjection(before, after, heads, bool(told.get("causal", False)))
    state = projection_state(float32(weights))
    begin = prefix + "."
    own = {n.removeprefix(begin): t for n, t in state.items() if n.startswith(begin)}
    module.load_state_dict(own)
    return module


def quantizer(told: dict[str, Any], weights: dict[str, Tensor]) -> MulticodeQuantizer:
    count = told["num_codebooks"]
    module = MulticodeQuantizer(told["vocab_size"] // count, told["vocab_width"], count)
    module.load_state_dict({"embedding.weight": table(float32(weights), count)})
    return module


@pytest.mark.parametrize("folder", folders("unitok_quant"))
def test_tokens_become_codes_and_come_back(folder: Path):
    config, weights, io = load(folder)
    told = settings(config)
    wide, narrow = told["embed_dim"], told["vocab_width"]
    down = projection(told, weights, "quant_proj", wide, narrow)
    up = projection(told, weights, "post_quant_proj", narrow, wide)
    quantize = quantizer(told, weights)
    tokens = io["tokens"]
    io.check("quant_proj", down(tokens))
    given = io["quant_proj"]
    grid = grid_of(given.shape[1])
    z = given.mT.unflatten(2, grid).contiguous().requires_grad_()
    out = quantize(z)
    codes = quantize.encode(z)
    assert torch.equal(out.codes, codes)
    io.check("idx", codes.flatten(1, 2).mT)  # (B, K, N)
    io.check("codes", quantize.decode(codes).flatten(2).mT)
    io.check("forward_quant", out.latent.flatten(2).mT)
    beta = told.get("beta", BETA)
    io.check("vq_loss", out.losses["codebook"] + beta * out.losses["commitment"])
    io.check("post", up(io["codes"]))
    straight_through(out.latent, z)
    io.done()


def straight_through(latent: Tensor, z: Tensor) -> None:
    """The gradient is that of the normalised parts alone."""
    weight = torch.linspace(-1, 1, latent.numel()).view_as(latent)
    (found,) = torch.autograd.grad((latent * weight).sum(), [z], retain_graph=True)
    assert found.abs().max() > 0
    across = (found * z).flatten(2).sum(1)  # no part grows longer
    torch.testing.assert_close(across, torch.zeros_like(across), rtol=0, atol=1e-4)
