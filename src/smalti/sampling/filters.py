"""From logits to a drawn code: temperature, top-k, top-p, inverse CDF.

Order and ties follow LlamaGen's sampler: divide by the temperature, drop what lies below the k-th
largest logit (ties with it survive), then drop the tail beyond probability mass p of what is left
(the code that crosses p is kept).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from smalti.config import check

MIN_TEMPERATURE = 1e-5


@dataclass(frozen=True)
class Filters:
    """How to draw from logits. Raises ValueError for a value out of range."""

    temperature: float = 1.0
    """Below 1 draws likelier codes, above 1 more varied ones; 0 means 1e-5, which is greedy but for
    exact ties."""
    top_k: int = 0
    """Draw from the k likeliest codes; 0 draws from all."""
    top_p: float = 1.0
    """Draw from the likeliest codes that hold this probability mass; 1 draws from all."""
    smooth: bool = False
    """Multi-scale models: draw mixtures of codes, sharper from scale to scale, for a smoother
    picture (VAR's more_smooth)."""

    def __post_init__(self) -> None:
        check(self, amounts=("temperature",))
        if self.top_k < 0:
            raise ValueError(f"top_k must be 0 (off) or more, got {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be above 0 and at most 1, got {self.top_p}")

    def at(self, depth: int, depths: int) -> Filters:
        """Those of one of so many depths."""
        return self

    def __call__(self, logits: Tensor) -> Tensor:
        """Filtered logits (..., V) in float32; dropped codes are -inf."""
        logits = logits.float() / max(self.temperature, MIN_TEMPERATURE)
        return keep_top_p(keep_top_k(logits, self.top_k), self.top_p)


class RowFilters(NamedTuple):
    """The filters of rows that are drawn together, each by its own request."""

    temperature: Tensor
    """(B,)."""
    top_k: Tensor
    """(B,) int64; 0 keeps all."""
    top_p: Tensor
    """(B,)."""
    smooth: bool
    """The same for all rows."""

    @staticmethod
    def of(filters: Sequence[Filters], device: torch.device | str | None = None) -> RowFilters:
        """One row for each of `filters`. Raises ValueError if only some are smooth."""
        smooth = {f.smooth for f in filters}
        if len(smooth) != 1:
            raise ValueError("rows that are drawn together are all smooth, or none of them is")
        return RowFilters(
            torch.tensor([f.temperature for f in filters], device=device),
            torch.tensor([f.top_k for f in filters], device=device),
            torch.tensor([f.top_p for f in filters], device=device),
            smooth.pop(),
        )

    def at(self, depth: int, depths: int) -> RowFilters:
        """Those of one of so many depths."""
        return self

    def __call__(self, logits: Tensor) -> Tensor:
        """What `Filters` does, row by row: logits (B, ..., V) to filtered logits, float32."""
        shape = (-1, *[1] * (logits.dim() - 1))
        logits = logits.float() / self.temperature.clamp(min=MIN_TEMPERATURE).view(shape)
        vocab = logits.shape[-1]
        k = torch.where(self.top_k == 0, vocab, self.top_k.clamp(max=vocab)).view(shape)
        ordered = logits.sort(descending=True).values
        least = ordered.gather(-1, (k - 1).expand(*logits.shape[:-1], 1))
        logits = logits.masked_fill(logits < least, -math.inf)
        return keep_top_p(logits, self.top_p.view(shape))


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """Drop what lies below the k-th largest logit of (..., V); ties survive; 0 keeps all."""
    if k == 0 or k >= logits.shape[-1]:
        return logits
    least = logits.topk(k).values[..., -1:]
    return logits.masked_fill(logits < least, -math.inf)


def keep_top_p(logits: Tensor, p: float | Tensor) -> Tensor:
    """Keep the fewest largest logits of (..., V) that hold probability mass p; at least one.

    A tensor p is broadcast to the logits; where it is 1, all are kept.
    """
    if not isinstance(p, Tensor) and p >= 1:
        return logits
    ordered, index = logits.sort(descending=True)
    mass = ordered.softmax(-1).cumsum(-1)
    drop = torch.zeros_like(mass, dtype=torch.bool)
    drop[..., 1:] = mass[..., :-1] > p
    if isinstance(p, Tensor):
        drop = drop & (p < 1)  # the sum of all may round to more than 1
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
