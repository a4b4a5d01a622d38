"""Runs of causal generators that draw the most probable code at each step."""

from __future__ import annotations

from typing import Any

import torch
from golden import SHARES
from torch import Tensor

from builders import generate
from smalti.codes import Cond
from smalti.engine.causal import spans
from smalti.engine.step import Known
from smalti.sampling.filters import Filters
from smalti.sampling.guidance import Guidance
from smalti.sampling.noise import Noise


def replayed(model: Any, cond: Cond, guidance: Guidance, codes: Tensor) -> list[Tensor]:
    """The guided logits (B, n, V) of each step of a run that drew `codes` (B, N)."""
    steps, branches = spans(model.blocks()), guidance.branches(cond)
    prepared, cache = model.prepare(branches), model.cache(branches.batch)
    logits = []
    for i, span in enumerate(steps):
        guide = guidance.at(i, len(steps))
        h = model.hidden(guide.tile(codes), prepared, span, cache)
        logits.append(guide.merge(model.head.logits(h)))
    return logits


def most_probable(logits: Tensor, codes: Tensor) -> Tensor:
    """Check that codes (B, N) have the largest logits (B, N, V), within rounding; return the images
    (B,) of which this leaves no other choice."""
    rounding = SHARES[torch.float32] * logits.abs().max()
    first, second = logits.topk(2).values.unbind(-1)
    assert (logits.gather(-1, codes[..., None]).squeeze(-1) >= first - rounding).all()
    return (first - second > 2 * rounding).all(1)


def draws(
    model: Any,
    cond: Cond,
    guidance: Guidance,
    codes: Tensor,
    sure: Tensor,
    temperature: float = 1.0,
    known: Known | None = None,
) -> None:
    """Check that the engine draws `codes` (B, N), of the images (B,) that are sure."""
    filters, noise = Filters(temperature, top_k=1), Noise.request(0, cond.batch)
    drawn = generate(model, cond, noise, guidance, filters, known)
    assert torch.equal(drawn[sure], codes[sure])
