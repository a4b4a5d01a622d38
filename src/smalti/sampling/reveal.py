"""Which positions masked generation reveals at each step: how many, and how the surest are chosen.

A schedule says what share of the unknown positions is still hidden after a share r of the steps:
cosine cos(pi r / 2) (MaskGIT, MAR), linear 1 - r, square 1 - r^2, arccos acos(r) / (pi / 2)
(MaskBit), meissonic, meissonic-linear and show-o cosine, linear and cosine; those of MaskBit,
Meissonic and Show-o are computed in float32, as there, and may hide one position fewer. Or shares
as numbers, "0.9,0.5,0", one for each step. The noise on how sure the model is falls to 0 in a line;
that of Show-o by the product of all shares of steps that were left so far, much sooner.
Sources: Chang et al. 2022 (arXiv:2202.04200); Li et al. 2024 (arXiv:2406.11838); Weber et al. 2024
(arXiv:2409.16211); Bai et al. 2024 (arXiv:2410.08261); Xie et al. 2024 (arXiv:2408.12528).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from smalti.config import called, check, did_you_mean

MOST = 64
"""Steps where none are asked for, of which there are no more than positions."""


@dataclass(frozen=True)
class Reveal:
    """How masked generation goes on. Raises ValueError for what cannot be."""

    steps: int | None = None
    """Masked models: steps in which a picture is revealed, at most one for each position; None: 64,
    or as many as there are positions or shares, if that is fewer."""
    schedule: str = called("reveal", "cosine")
    """Masked models: cosine, linear, square, arccos, meissonic, meissonic-linear, show-o, or the
    shares of positions that are hidden after each step, such as 0.8,0.4,0."""
    confidence: float | None = None
    """Masked models of discrete codes: reveal where the model is surest, after Gumbel noise of this
    weight, which falls to 0; None: the model's own way, or an order that is asked for."""

    def __post_init__(self) -> None:
        if self.steps is not None:
            check(self, positive=("steps",))
        if self.confidence is not None:
            check(self, amounts=("confidence",))
        shares = self.shares
        if shares is not None and self.steps not in (None, len(shares)):
            raise ValueError(f"reveal has {len(shares)} shares, one for each step, of which there "
                             f"are {self.steps}")  # fmt: skip

    @property
    def shares(self) -> list[float] | None:
        """The shares of a schedule of numbers; None of one that has a name."""
        if self.schedule in SCHEDULES:
            return None
        try:
            shares = [float(part) for part in self.schedule.split(",")]
        except ValueError:
            near = did_you_mean(self.schedule, SCHEDULES)
            raise ValueError(
                f"reveal must be one of {', '.join(SCHEDULES)} or shares such as 0.8,0.4,0, "
                f"got {self.schedule!r}{near}"
            ) from None
        falling = all(a >= b for a, b in zip([1.0, *shares], shares, strict=False))
        if not falling or shares[-1] != 0:  # also refuses NaN
            raise ValueError(f"the shares of reveal fall from 1 to 0, got {self.schedule!r}")
        return shares

    def count(self, positions: int) -> int:
        """Steps for so many positions. Raises ValueError if there are more steps than positions."""
        if self.steps is None:
            return len(self.shares or ()) or min(MOST, positions)
        if self.steps > positions:
            raise ValueError(
                f"steps must be at most {positions}, one for each position, got {self.steps}"
            )
        return self.steps

    def left(self, unknown: int, steps: int) -> list[int]:
        """How many of the `unknown` positions are hidden after each of the steps.

        Each step reveals at least one position as long as there are enough of them.
        """
        shares = self.shares
        hidden, result = unknown, list[int]()
        for i in range(1, steps + 1):
            if shares is None:
                wanted = SCHEDULES[self.schedule](unknown, i / steps)
            else:
                wanted = math.floor(unknown * shares[(i * len(shares) - 1) // steps])
            later = max(min(hidden, 1), min(hidden - 1, steps - i))  # something for each step
            hidden = max(later, min(hidden - 1, wanted)) if i < steps else 0
            result.append(hidden)
        return result

    def weight(self, step: int, steps: int) -> float:
        """The weight of the noise on the confidence at a step but the last."""
        if self.schedule == "show-o":
            left = (1 - (i + 1) / steps for i in range(step + 1))
            return (self.confidence or 0.0) * math.prod(left)
        if self.schedule.startswith("meissonic"):
            return (self.confidence or 0.0) * (1 - step / max(steps - 1, 1))
        return (self.confidence or 0.0) * (1 - (step + 1) / steps)


def _cosine32(n: int, share: float) -> int:
    return int((n * torch.cos(torch.tensor(share) * math.pi * 0.5)).floor())


def _arccos32(n: int, share: float) -> int:
    return int((n * (torch.acos(torch.tensor(share)) / (math.pi * 0.5))).floor())


def _linear32(n: int, share: float) -> int:
    return int((n * (1 - torch.tensor(share))).floor())


SCHEDULES: dict[str, Callable[[int, float], int]] = {
    "cosine": lambda n, share: math.floor(n * math.cos(math.pi / 2 * share)),
    "linear": lambda n, share: math.floor(n * (1 - share) + 1e-9),  # 10 * (1 - 0.8) is 2
    "square": lambda n, share: math.floor(n * (1 - share * share)),
    "arccos": _arccos32,
    "meissonic": _cosine32,
    "meissonic-linear": _linear32,
    "show-o": _cosine32,
}
"""How many of n positions are hidden after a share of the steps."""


def least_sure(confidence: Tensor, count: Tensor) -> Tensor:
    """The `count` (B,) positions of lowest confidence (B, N) of each row: (B, N) bool.

    Of equal ones at the limit none is chosen, as upstream; known positions have a confidence of
    inf.
    """
    limit = confidence.sort(-1).values.gather(-1, count.unsqueeze(-1))  # (B, 1)
    return confidence < limit
