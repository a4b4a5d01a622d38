"""From logits to a drawn code: temperature, top-k, top-p, inverse CDF.

Order and ties follow LlamaGen's sampler: divide by the temperature, drop what lies below the k-th
largest logit (ties with it survive), then drop the tail beyond probability mass p of what is left
(the code that crosses p is kept).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from smalti.config import check

MIN_TEMPERATURE = 1e-5
EACH = ("temperature", "top_k", "top_p")
"""Filters that may have a value for each code of a position."""


@dataclass(frozen=True)
class Filters:
    """How to draw from logits. Raises ValueError for a value out of range."""

    temperature: float | tuple[float, ...] = 1.0
    """Below 1 draws likelier codes, above 1 more varied ones; 0 means 1e-5, which is greedy but for
    exact ties. A model of several codes at a position takes one value, or one for each of them; so
    it does of top_k and top_p."""
    top_k: int | tuple[int, ...] = 0
    """Draw from the k likeliest codes; 0 draws from all."""
    top_p: float | tuple[float, ...] = 1.0
    """Draw from the likeliest codes that hold this probability mass; 1 draws from all."""
    smooth: bool = False
    """Multi-scale models: draw mixtures of codes, sharper from scale to scale, for a smoother
    picture (VAR's more_smooth)."""
    final_temperature: float | None = None
    """Masked models: the temperature of the last step, to which it goes in a line, the first step
    being one of it; None: the same at every step."""

    def __post_init__(self) -> None:
        for name in EACH:
            if isinstance(value := getattr(self, name), list):  # of a file
                object.__setattr__(self, name, tuple(cast(list[float], value)))
        if self.final_temperature is not None:
            check(self, amounts=("final_temperature",))
        if counts := {len(values) for values in self.several.values()}:
            if 0 in counts or len(counts) > 1:
                given = "; ".join(f"{name} {words(v)}" for name, v in self.several.items())
                raise ValueError(
                    f"filters must have as many values each, at least one, got {given}"
                )
            for depth in range(counts.pop()):
                self.one(depth)  # which checks its values
            return
        check(self, amounts=("temperature",))
        if cast(int, self.top_k) < 0:
            raise ValueError(f"top_k must be 0 (off) or more, got {self.top_k}")
        if not 0 < cast(float, self.top_p) <= 1:
            raise ValueError(f"top_p must be above 0 and at most 1, got {self.top_p}")

    @property
    def several(self) -> dict[str, tuple[float, ...]]:
        """The filters that have a value for each code of a position."""
        return {name: v for name in EACH if isinstance(v := getattr(self, name), tuple)}

    def at_step(self, step: int, steps: int) -> Filters:
        """Those of a step, 0 ... steps - 1, of masked generation."""
        if (last := self.final_temperature) is None:
            return self
        share, first = (step + 1) / steps, self.temperature
        several = first if isinstance(first, tuple) else (first,)
        warm = tuple(one + (last - one) * share for one in several)
        now = warm if isinstance(first, tuple) else warm[0]
        return replace(self, temperature=now, final_temperature=None)

    def one(self, depth: int) -> Filters:
        """Those of one of the codes of a position."""
        found: dict[str, Any] = {name: values[depth] for name, values in self.several.items()}
        return replace(self, **found) if found else self

    def require(self, depths: int) -> None:
        """Raise ValueError if they are for another number of codes of a position."""
        for name, values in self.several.items():
            if len(values) != depths:
                each = f", or one for each of the {depths} codes of a position" * (depths > 1)
                raise ValueError(f"{name} must be one value{each}, got {words(values)}")

    def at(self, depth: int, depths: int) -> Filters:
        """Those of one of so many codes of a position. Raises ValueError as `require` does."""
        self.require(depths)
        return self.one(depth)

    def __call__(self, logits: Tensor) -> Tensor:
        """Filtered logits (..., V) in float32; dropped codes are -inf."""
        temperature, top_k, top_p = self.numbers
        logits = logits.float() / max(temperature, MIN_TEMPERATURE)
        return keep(logits, top_k, top_p)

    @property
    def warmth(self) -> float:
        """The temperature, one value. Raises ValueError as `require` does."""
        return self.numbers[0]

    @property
    def numbers(self) -> tuple[float, int, float]:
        """Temperature, top-k and top-p, each one value. Raises ValueError as `require` does."""
        self.require(1)
        one = self.one(0)
        return cast(float, one.temperature), cast(int, one.top_k), cast(float, one.top_p)


def words(values: Sequence[float]) -> str:
    """Numbers as they are typed on the command line."""
    return ",".join(map(str, values))


class RowFilters(NamedTuple):
    """The filters of rows that are drawn together, each by its own request. Where one of them has
    values for each of G codes of a position, all are (B, G)."""

    temperature: Tensor
    """(B,)."""
    top_k: Tensor | int
    """(B,) int64, or that of all rows; 0 keeps all."""
    top_p: Tensor | float
    """(B,), or that of all rows; 1 keeps all."""
    smooth: bool
    """The same for all rows."""

    @staticmethod
    def of(filters: Sequence[Filters], device: torch.device | str | None = None) -> RowFilters:
        """One row for each of `filters`. Raises ValueError if only some are smooth."""
        smooth = {f.smooth for f in filters}
        if len(smooth) != 1:
            raise ValueError("rows that are drawn together are all smooth, or none of them is")
        counts = {len(values) for f in filters for values in f.several.values()}
        if len(counts) > 1:
            raise ValueError("rows that are drawn together have as many codes at a position")
        if counts:
            depths = range(counts.pop())
            table = [[f.one(d).numbers for d in depths] for f in filters]  # (B, G) of three numbers
            warmth, top_k, top_p = (
                torch.tensor([[numbers[i] for numbers in row] for row in table], device=device)
                for i in range(len(EACH))
            )
            return RowFilters(warmth, top_k, top_p, smooth.pop())
        temperature, top_k, top_p = zip(*(f.numbers for f in filters), strict=True)
        warmth = torch.tensor(temperature, device=device)
        return RowFilters(warmth, _of_rows(top_k, device), _of_rows(top_p, device), smooth.pop())

    @property
    def warmth(self) -> Tensor:
        """The temperature of each row, (B,)."""
        return self.temperature

    def at(self, depth: int, depths: int) -> RowFilters:
        """Those of one of so many codes of a position. Raises ValueError if they are for another
        number."""
        if self.temperature.dim() == 1:
            return self
        if self.temperature.shape[1] != depths:
            raise ValueError(f"filters are for {self.temperature.shape[1]} codes, not for {depths}")
        k, p = self.top_k, self.top_p
        return RowFilters(
            self.temperature[:, depth],
            k[:, depth] if isinstance(k, Tensor) else k,
            p[:, depth] if isinstance(p, Tensor) else p,
            self.smooth,
        )

    def __call__(self, logits: Tensor) -> Tensor:
        """What `Filters` does, row by row: logits (B, ..., V) to filtered logits, float32."""
        shape = (-1, *[1] * (logits.dim() - 1))
        logits = logits.float() / self.temperature.clamp(min=MIN_TEMPERATURE).view(shape)
        k, p = self.top_k, self.top_p
        k = k.view(shape) if isinstance(k, Tensor) else k
        return keep(logits, k, p.view(shape) if isinstance(p, Tensor) else p)


def _of_rows(values: Sequence[Any], device: torch.device | str | None) -> Any:
    """A value of each row, as a tensor; one that all have stays a number, which costs less."""
    return values[0] if len(set(values)) == 1 else torch.tensor(values, device=device)


def keep(logits: Tensor, k: int | Tensor, p: float | Tensor) -> Tensor:
    """Drop what lies below the k-th largest logit of (..., V), ties survive; of the rest keep the
    fewest largest logits that hold probability mass p, of equal ones the first; at least one.

    All from the sorted values, without their indices. k 0 and p 1 keep all; tensors of k and p
    (..., 1) are broadcast to the rows.
    """
    vocab = logits.shape[-1]
    if not isinstance(k, Tensor):
        if not isinstance(p, Tensor) and p >= 1 and (k == 0 or k >= vocab):
            return logits
        k = torch.full((), k, device=logits.device)
    k = torch.where(k == 0, vocab, k.clamp(max=vocab))
    ordered = descending(logits)
    least = ordered.gather(-1, (k - 1).expand(*logits.shape[:-1], 1))
    if not isinstance(p, Tensor) and p >= 1:
        return torch.where(logits < least, -math.inf, logits)
    ordered = torch.where(ordered < least, -math.inf, ordered)
    beyond = ordered.softmax(-1).cumsum(-1)[..., :-1] > p  # codes behind these are dropped
    if isinstance(p, Tensor):
        beyond = beyond & (p < 1)  # the sum of all may round to more than 1
    count = vocab - beyond.sum(-1, keepdim=True)
    last = torch.maximum(ordered.gather(-1, count - 1), least)  # the smallest that is kept
    equal = logits == last
    room = count - (ordered > last).sum(-1, keepdim=True)  # for those that are equal to it
    late = equal & (equal.cumsum(-1, dtype=torch.int32) > room)
    return torch.where((logits < last) | late, -math.inf, logits)


def descending(logits: Tensor) -> Tensor:
    """The values of each row of (..., V) float32 from large to small, NaN first.

    On a CPU NumPy sorts values 20 times as fast as torch, which moves indices with them.
    """
    if logits.device.type != "cpu":
        return logits.sort(descending=True).values
    return torch.as_tensor(np.sort(logits.detach().numpy())).flip(-1)


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


def race(logits: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
    """Draw the code that arrives first, where each takes its time divided by its probability: each
    is drawn as often as that says. The logarithm of a time is a Gumbel number (Gumbel 1954,
    "Statistical theory of extreme values"), less its sign.

    Args: logits (..., V) float32, -inf where a code is out; exponential numbers (..., V).
    Returns the codes (...) int64 and their log-probabilities (...) in nats.
    """
    p = logits.softmax(-1)
    codes = (p / times).argmax(-1)
    return codes, p.gather(-1, codes.unsqueeze(-1)).squeeze(-1).log()


def mixture(logits: Tensor, gumbel: Tensor, ramp: float) -> Tensor:
    """Weights (..., V) with which codes are mixed for a smoother picture (VAR's `more_smooth`).

    Args: filtered logits (..., V); gumbel noise of that shape; ramp, 0 at the first scale and 1 at
    the last, at which the mixture is all but a single code.
    """
    temperature = max(0.27 * (1 - 0.95 * ramp), 0.005)
    return ((logits * (1 + ramp) + gumbel) / temperature).softmax(-1)
