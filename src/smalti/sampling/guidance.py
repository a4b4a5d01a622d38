"""Classifier-free guidance in one convention: u + s * (c - u), where s = 1 is off.

c is the prediction under the condition and u the one without. How s changes over the steps of a
generation is the schedule. Upstream systems count differently; in this convention they are
LlamaGen, RAR: s is their scale; VAR: s = 1 + cfg, linear; Muse and MAR: linear in what is revealed.
Sources: Ho and Salimans 2022 (arXiv:2207.12598); power-cosine: Gao et al. 2023 (arXiv:2303.14389),
as RAR uses it; interval: Kynkaanniemi et al. 2024 (arXiv:2404.07724), LlamaGen's `cfg_interval`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from smalti.codes import Cond, Guide

Schedule = Literal["constant", "linear", "cosine", "power-cosine", "interval"]


@dataclass(frozen=True)
class Unguided:
    """One branch: the conditional prediction as it is."""

    clean = False

    def tile(self, x: Tensor) -> Tensor:
        return x

    def merge(self, pred: Tensor) -> Tensor:
        return pred


@dataclass(frozen=True)
class ClassifierFree:
    """Two branches, conditional rows first, combined with one scale."""

    scale: float
    clean = False

    def tile(self, x: Tensor) -> Tensor:
        return torch.cat((x, x))  # (2B, ...)

    def merge(self, pred: Tensor) -> Tensor:
        cond, uncond = pred.chunk(2)
        return uncond + (cond - uncond) * self.scale  # (B, ...)


@dataclass(frozen=True)
class Guidance:
    """A scale and its schedule over the steps of one generation.

    Raises ValueError for an unknown schedule, a negative scale or an empty interval.
    """

    scale: float = 1.0
    """s at full strength; 1 is off and then only one branch is computed."""
    schedule: Schedule = "constant"
    """constant; linear and cosine: a ramp from 1 to `scale`; power-cosine: RAR's ramp, which ends
    just below `scale`; interval: `scale` between `start` and `stop`, 1 outside."""
    power: float = 1.0
    """Exponent of power-cosine; the larger, the later the ramp; 0 is constant."""
    start: float = 0.0
    """Interval: first step with guidance, as a fraction of all steps."""
    stop: float = 1.0
    """Interval: first step without guidance again, as a fraction of all steps."""

    def __post_init__(self) -> None:
        if self.schedule not in get_args(Schedule):
            allowed = ", ".join(get_args(Schedule))
            raise ValueError(f"guidance schedule must be one of {allowed}, got {self.schedule!r}")
        if not (math.isfinite(self.scale) and self.scale >= 0):
            raise ValueError(f"guidance scale must be 0 or more (1 is off), got {self.scale}")
        if self.power < 0:
            raise ValueError(f"guidance power must be 0 or more, got {self.power}")
        if not 0 <= self.start < self.stop <= 1:
            raise ValueError(
                f"guidance interval must satisfy 0 <= start < stop <= 1, "
                f"got start {self.start}, stop {self.stop}"
            )

    @property
    def off(self) -> bool:
        return self.scale == 1.0

    def branches(self, cond: Cond, negative: Cond | None = None) -> Cond:
        """The condition of every branch: B rows when off, else 2B.

        Last come the null rows or, if given, the `negative` ones, which guidance leads away from.
        """
        if self.off:
            return cond
        return Cond.cat([cond, cond.null() if negative is None else negative])

    def scale_at(self, step: int, steps: int, share: float | None = None) -> float:
        """The scale of step `step` (0 ... steps - 1).

        `share` of the codes drawn after the step, where that is no share of the steps, is how far
        the ramps of linear, cosine and power-cosine are (Muse and MAR).
        """
        if not 0 <= step < steps:
            raise ValueError(f"step must be in 0 ... {steps - 1}, got {step}")
        ramp = step / max(steps - 1, 1) if share is None else share
        if self.schedule == "linear":
            weight = ramp
        elif self.schedule == "cosine":
            weight = 0.5 * (1 - math.cos(math.pi * ramp))
        elif self.schedule == "power-cosine":
            ramp = step / steps if share is None else share
            weight = 0.5 * (1 - math.cos(math.pi * ramp**self.power))
        elif self.schedule == "interval":
            # half a step of slack: start and stop may be rounded fractions of whole steps
            first, last = self.start * steps - 0.5, self.stop * steps - 0.5
            weight = float(first <= step < last)
        else:
            weight = 1.0
        return 1 + (self.scale - 1) * weight

    def at(self, step: int, steps: int, share: float | None = None) -> Guide:
        """The guide of one step; it keeps the branches of `branches` whatever its scale."""
        return Unguided() if self.off else ClassifierFree(self.scale_at(step, steps, share))
