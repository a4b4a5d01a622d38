"""From logits to a drawn code: temperature, top-k, top-p, inverse CDF.

Order and ties follow LlamaGen's sampler: divide by the temperature, drop what lies below the k-th
largest logit (ties with it survive), then drop the tail beyond probability mass p of what is left
(the code that crosses p is kept).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from smalti.sampling.solvers import Solver

MIN_TEMPERATURE = 1e-5


@dataclass(frozen=True)
class Filters:
    """How to draw from logits. Raises ValueError for a value out of range."""

    temperature: float = 1.0
    """Above 0; 0 means 1e-5, which is greedy but for exact ties."""
    top_k: int = 0
    """Keep the k largest logits; 0 keeps all."""
    top_p: float = 1.0
    """Keep the most likely codes up to this probability mass; 1 keeps all."""
    smooth: bool = False
    """Multi-scale models: draw mixtures of codes, sharper from scale to scale (VAR's
    `more_smooth`)."""
    solver: Solver = Solver()
    """Continuous codes: how a head gets from noise to a latent."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise ValueError(f"temperature must be 0 or more, got {self.temperature}")
        if self.top_k < 0:
            raise ValueError(f"top_k must be 0 (off) or more, got {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be above 0 and at most 1, got {self.top_p}")

    def __call__(self, logits: Tensor) -> Tensor:
        """Filtered logits (..., V) in float32; dropped codes are -inf."""
        logits = logits.float() / max(self.temperature, MIN_TEMPERATURE)
        return keep_top_p(keep_top_k(logits, self.top_k), self.top_p)


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """Drop what lies below the k-th largest logit of (..., V); ties survive; 0 keeps all."""
    if k == 0 or k >= logits.shape[-1]:
        return logits
    least = logits.topk(k).values[..., -1:]
    return logits.masked_fill(logits < least, -math.inf)


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """Keep the fewest largest logits of (..., V) that hold probability mass p; at least one."""
    if p >= 1:
        return logits
    ordered, index = logits.sort(descending=True)
    mass = ordered.softmax(-1).cumsum(-1)
    drop = torch.zeros_like(mass, dtype=torch.bool)
    drop[..., 1:] = mass[..., :-1] > p
    return logits.masked_fill(drop.gather(-1, index.argsort()), -math.inf)


def draw(logits: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """Draw one code per row by inverting the cumulative distribution.

    Args: logits (..., V) float32, -inf where a code is out; uniform (...) in [0, 1).
    Returns the codes (...) int64 and their log-probabilities (...) in nats.
    """
    logp = logits.log_softmax(-1)
    mass = logp.exp().cumsum(-1)
    target = uniform.unsqueeze(-1) * mass[..., -1:]
    # the first code whose cumulative mass exceeds the target: it has a probability above zero
    codes = torch.searchsorted(mass, target, right=True).clamp(max=logits.shape[-1] - 1)
    return codes.squeeze(-1), logp.gather(-1, codes).squeeze(-1)


def mixture(logits: Tensor, gumbel: Tensor, ramp: float) -> Tensor:
    """Weights (..., V) with which codes are mixed for a smoother picture (VAR's `more_smooth`).

    Args: filtered logits (..., V); gumbel noise of that shape; ramp, 0 at the first scale and 1 at
    the last, at which the mixture is all but a single code.
    """
    temperature = max(0.27 * (1 - 0.95 * ramp), 0.005)
    return ((logits * (1 + ramp) + gumbel) / temperature).softmax(-1)
