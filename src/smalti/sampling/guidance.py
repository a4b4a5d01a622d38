"""Classifier-free guidance in one convention: u + s * (c - u), where s = 1 is off.

c is the prediction under the condition and u the one without. How s changes over the steps of a
generation is the schedule. Upstream systems count differently; in this convention they are
LlamaGen, RAR: s is their scale; VAR: s = 1 + cfg, linear; MaskBit: s = 1 + its scale; Muse and MAR:
linear in what is revealed. Where a condition is text and pictures, its pictures alone can be a
third branch i: u + p * (i - u) + s * (c - i), as Chameleon and InstructPix2Pix (Brooks et al. 2022,
arXiv:2211.09800) have it.
Sources: Ho and Salimans 2022 (arXiv:2207.12598); power-cosine: Gao et al. 2023 (arXiv:2303.14389),
as RAR and MaskBit use it; interval: Kynkaanniemi et al. 2024 (arXiv:2404.07724), LlamaGen's
`cfg_interval`; projected: Sadat, Hilliges, Weber 2024 (arXiv:2410.02416), "APG".
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from smalti.codes import Cond, Guide, Past
from smalti.config import called, check

Schedule = Literal["constant", "linear", "cosine", "power-cosine", "interval", "list"]


@dataclass(frozen=True)
class Unguided:
    """One branch: the conditional prediction as it is."""

    clean = False

    def tile(self, x: Tensor) -> Tensor:
        return x

    def merge(self, pred: Tensor, past: Past | None = None) -> Tensor:
        return pred


@dataclass(frozen=True)
class ClassifierFree:
    """Two branches, conditional rows first, combined with one scale or one of each row."""

    scale: float | Tensor
    """A number, or (B,), or (1 or B, n)."""
    clean = False

    def tile(self, x: Tensor) -> Tensor:
        return torch.cat((x, x))  # (2B, ...)

    def merge(self, pred: Tensor, past: Past | None = None) -> Tensor:
        cond, uncond = pred.chunk(2)
        merged = uncond + (cond - uncond) * _each(self.scale, cond)  # (B, ...)
        return merged.to(pred.dtype)


@dataclass(frozen=True)
class InSteps:
    """Three branches: the condition, nothing, and the pictures of the condition alone. What the
    pictures add counts `pictures` times, what the rest adds `scale` times."""

    scale: float | Tensor
    """A number, or (B,), or (1 or B, n)."""
    pictures: float
    clean = False

    def tile(self, x: Tensor) -> Tensor:
        return torch.cat((x, x, x))  # (3B, ...)

    def merge(self, pred: Tensor, past: Past | None = None) -> Tensor:
        cond, uncond, seen = pred.chunk(3)
        further = _each(self.scale, cond) * (cond - seen)
        return (uncond + self.pictures * (seen - uncond) + further).to(pred.dtype)  # (B, ...)


@dataclass(frozen=True)
class Projected:
    """Two branches, combined so that a high scale does not oversaturate (APG).

    c + (s - 1) * (orthogonal + parallel * along), where the difference c - u, after momentum and
    rescaling, is split against the conditional prediction c; vectors are those of the last axis. As
    published it acts on clean latents. On logits, less their mean over the vocabulary, it is an
    experiment. Momentum sums up the differences of the steps that have one `past`.
    """

    scale: float | Tensor
    """A number, or (B,), or (1 or B, n)."""
    parallel: float = 1.0
    rescale: float = 0.0
    momentum: float = 0.0
    clean = True

    def tile(self, x: Tensor) -> Tensor:
        return torch.cat((x, x))  # (2B, ...)

    def merge(self, pred: Tensor, past: Past | None = None) -> Tensor:
        cond, uncond = pred.chunk(2)
        change = cond - uncond  # (B, ..., C)
        if past is not None and self.momentum:
            change = change if past.change is None else change + self.momentum * past.change
            past.change = change
        if self.rescale:
            change = change * (self.rescale / _length(change).clamp(min=self.rescale))
        unit = cond / _length(cond).clamp(min=1e-12)
        along = (change * unit).sum(-1, keepdim=True) * unit
        change = change + (self.parallel - 1) * along
        return (cond + (_each(self.scale, cond) - 1) * change).to(pred.dtype)  # (B, ..., C)


@dataclass(frozen=True)
class Further:
    """A guide that leads `ratio` times as far away from the conditional prediction as `guide`.

    At its scale s the scale is 1 + ratio * (s - 1), whatever the schedule: for models that draw
    parts of a code with different guidance.
    """

    guide: Guide
    ratio: float

    @property
    def clean(self) -> bool:
        return self.guide.clean

    def tile(self, x: Tensor) -> Tensor:
        return self.guide.tile(x)

    def merge(self, pred: Tensor, past: Past | None = None) -> Tensor:
        merged = self.guide.merge(pred, past)  # (B, ...)
        cond = pred[: len(merged)]
        return cond + self.ratio * (merged - cond)


def _each(scale: float | Tensor, like: Tensor) -> float | Tensor:
    """A number as it is; the scales of rows (B,), or of slots (B, n), so that they multiply
    (B, n, ...)."""
    if not isinstance(scale, Tensor):
        return scale
    return scale.view(*scale.shape, *[1] * (like.dim() - scale.dim()))


def _length(x: Tensor) -> Tensor:
    return x.square().sum(-1, keepdim=True).sqrt()  # (..., 1)


@dataclass(frozen=True)
class Guidance:
    """A scale and its schedule over the steps of one generation, and how the branches combine.

    Raises ValueError for an unknown schedule, a negative scale, an empty interval or list.
    """

    scale: float = called("guidance", 1.0)
    """s in u + s * (c - u): 1 is off, and then one branch is computed; more follows the class or
    text more closely and varies less."""
    schedule: Schedule = "constant"
    """How guidance changes over the steps: constant; linear and cosine: a ramp from 1;
    power-cosine: that of RAR and MaskBit, which ends just below its scale; interval: between start
    and stop, 1 outside; list: the numbers of scales."""
    power: float = 1.0
    """Exponent of the power-cosine schedule; the larger, the later the ramp; 0 is constant."""
    start: float = 0.0
    """Interval schedule: first step with guidance, as a fraction of all steps."""
    stop: float = 1.0
    """Interval schedule: first step without guidance again, as a fraction of all steps."""
    scales: tuple[float, ...] = ()
    """List schedule: the guidance of each step; with another number of steps, of the nearest."""
    parallel: float = called("guidance_parallel", 1.0, was="parallel")
    """Adaptive projected guidance (APG): share that is kept of guidance along the conditional
    prediction; below 1 a high guidance saturates colours less. On discrete codes an experiment."""
    rescale: float = 0.0
    """APG: largest length of the guidance of a position, before the scale; 0 is off."""
    momentum: float = 0.0
    """APG: share of the last diffusion step's guidance that is added; below 0 as published."""
    pictures: float | None = called("guidance_pictures", None)
    """Conditions of text and pictures: the scale of the pictures alone, in a third branch, while
    `guidance` is that of what the text adds; None has two branches."""

    def __post_init__(self) -> None:
        try:
            object.__setattr__(self, "scales", tuple(float(scale) for scale in self.scales))
        except (TypeError, ValueError):
            raise ValueError(f"guidance scales must be numbers, got {self.scales!r}") from None
        check(self, "guidance ", amounts=("power", "parallel", "rescale"))
        if not (math.isfinite(self.scale) and self.scale >= 0):
            raise ValueError(f"guidance scale must be 0 or more (1 is off), got {self.scale}")
        if not 0 <= self.start < self.stop <= 1:
            raise ValueError(
                f"guidance interval must satisfy 0 <= start < stop <= 1, "
                f"got start {self.start}, stop {self.stop}"
            )
        if (self.schedule == "list") != bool(self.scales):
            raise ValueError(
                f"guidance scales are for the schedule 'list', which needs at least one, got "
                f"{self.scales} with {self.schedule!r}"
            )
        if self.pictures is not None and self.projected:
            raise ValueError(
                f"APG has two branches: guidance_pictures must be None, got {self.pictures}"
            )
        if self.pictures is not None and not (math.isfinite(self.pictures) and self.pictures >= 0):
            raise ValueError(f"guidance_pictures must be 0 or more, got {self.pictures}")
        for i, scale in enumerate(self.scales):
            if not (math.isfinite(scale) and scale >= 0):
                raise ValueError(f"guidance scales must be 0 or more, got {scale} at {i}")
        if not -1 < self.momentum < 1:
            raise ValueError(f"guidance momentum must be between -1 and 1, got {self.momentum}")

    @property
    def off(self) -> bool:
        scales = self.scales or (self.scale,)
        return all(
            scale == 1.0 for scale in (*scales, 1.0 if self.pictures is None else self.pictures)
        )

    @property
    def projected(self) -> bool:
        """Whether any setting of APG differs from plain guidance."""
        return (self.parallel, self.rescale, self.momentum) != (1.0, 0.0, 0.0)

    def branches(
        self, cond: Cond, negative: Cond | None = None, pictures: Cond | None = None
    ) -> Cond:
        """The condition of every branch: B rows when off, else 2B, or 3B with `pictures`.

        Second come the null rows or, if given, the `negative` ones, which guidance leads away from;
        then the `pictures` of the conditions alone, where they have a scale of their own. Raises
        ValueError if they have one and are not given.
        """
        if self.off:
            return cond
        parts = [cond, cond.null() if negative is None else negative]
        if self.pictures is not None:
            if pictures is None:
                raise ValueError(
                    "guidance_pictures is for models that read text and pictures, "
                    f"got {self.pictures}"
                )
            parts.append(pictures)
        return Cond.cat(parts)

    def scale_at(self, step: int, steps: int, share: float | None = None) -> float:
        """The scale of step `step` (0 ... steps - 1).

        `share`, where steps differ in size, is how much of all that is drawn will be drawn when
        this step is done, 0 to 1; it takes the place of the step's number in linear and cosine.
        The published systems with power-cosine count steps, whatever their size.
        """
        if not 0 <= step < steps:
            raise ValueError(f"step must be in 0 ... {steps - 1}, got {step}")
        if self.schedule == "list":
            return self.scales[(2 * step + 1) * len(self.scales) // (2 * steps)]
        ramp = step / max(steps - 1, 1) if share is None else share
        if self.schedule == "linear":
            weight = ramp
        elif self.schedule == "cosine":
            weight = 0.5 * (1 - math.cos(math.pi * ramp))
        elif self.schedule == "power-cosine":
            weight = 0.5 * (1 - math.cos(math.pi * (step / steps) ** self.power))
        elif self.schedule == "interval":
            # half a step of slack: start and stop may be rounded fractions of whole steps
            first, last = self.start * steps - 0.5, self.stop * steps - 0.5
            weight = float(first <= step < last)
        else:
            weight = 1.0
        return 1 + (self.scale - 1) * weight

    def alone(self, step: int, steps: int, share: float | None = None) -> bool:
        """Whether a step is that of the conditional prediction alone: at scale 1 no other branch
        counts."""
        return self.off or (
            self.pictures in (None, 1.0) and self.scale_at(step, steps, share) == 1.0
        )

    def at(self, step: int, steps: int, share: float | None = None) -> Guide:
        """A new guide for one step; it keeps the branches of `branches` whatever its scale."""
        return self.guide(1.0 if self.off else self.scale_at(step, steps, share))

    def of_slots(self, slots: Tensor, steps: int) -> Guide:
        """A new guide for the steps of slots (n,) or (B, n) int64, all of which are done at
        once."""
        return self.guide(self.each_scale(steps, slots.device)[slots])

    def each_scale(self, steps: int, device: torch.device) -> Tensor:
        """The scale of every step, (steps,)."""
        scale = [1.0 if self.off else self.scale_at(step, steps) for step in range(steps)]
        return torch.tensor(scale, device=device)

    def guide(self, scale: float | Tensor) -> Guide:
        """A new guide of a scale, or of one for each row, (B,), or slot, (B, n)."""
        if self.off:
            return Unguided()
        if self.pictures is not None:
            return InSteps(scale, self.pictures)
        if self.projected:
            return Projected(scale, self.parallel, self.rescale, self.momentum)
        return ClassifierFree(scale)
