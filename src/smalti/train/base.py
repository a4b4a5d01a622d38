"""What every objective says: its losses, the modules that they train, and what its settings make.

An objective is a module that owns everything trained or watched. `forward(batch, step)` gives one
total loss per optimizer and what to log; all totals are added and differentiated once, which equals
separate steps because no total reaches the parameters of another optimizer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from torch import Tensor, nn

from smalti.text.encoders import TextEncoder

Batch = dict[str, Tensor]


class Losses(NamedTuple):
    totals: dict[str, Tensor]
    """One scalar per optimizer, with the names of `optimized`."""
    logs: dict[str, Tensor]
    """Detached scalars to log."""


class Objective(nn.Module):
    """What the trainer knows, with the answers that most objectives give."""

    model: nn.Module
    """What is saved, averaged and evaluated in the end."""

    shown: tuple[str, ...] = ()
    """Further logs for the live line."""

    compares: bool = False
    """Whether the items of a batch are compared with each other, so that parts of it lose something
    else."""

    @property
    def reader(self) -> TextEncoder | None:
        """What reads the captions of pictures, whose tokens are then in batches; None: nothing
        does."""
        return None

    def optimized(self) -> dict[str, nn.Module]:
        """The modules that each optimizer trains, by the optimizer's name."""
        return {"model": self.model}

    def counts(self, batch: Batch) -> Tensor | None:
        """How many numbers of a batch its means are taken over, (n,) float32, one for each mean;
        None: of as many in every batch. Where a step has several parts, or processes, each gets the
        mean of theirs as `counts`, to divide by: losses of parts then add up to that of all."""
        return None

    def forward(self, batch: Batch, step: int) -> Losses:
        """The losses of a batch at a step."""
        raise NotImplementedError

    def advice(self, logs: dict[str, float]) -> str | None:
        """A sentence for the user if the logged numbers call for one."""
        return None


@dataclass(frozen=True)
class ObjectiveConfig:
    """What the settings of every generator's objective have in common."""

    LOOP: ClassVar[str]
    """Of the models that are trained so."""
    cond_dropout: float = 0.1
    """Share of samples trained without their condition, for guidance."""

    def objective(self, model: Any, encoder: Any | None, seed: int) -> Any:
        """What a model, and a text encoder that learns with it, minimise."""
        raise NotImplementedError


@dataclass(frozen=True)
class CodingConfig:
    """What the settings of every tokenizer's objective have in common."""

    @property
    def idle(self) -> dict[str, str]:
        """The fields that do nothing as the others stand, and the field that each is a part of."""
        return {}

    def note(self, steps: int) -> str:
        """What is to be known before so many steps; "" if nothing is."""
        return ""

    def objective(self, model: Any, seed: int, steps: int, begun: bool = False) -> Objective:
        """What a tokenizer minimises in so many steps; one that has `begun` knows its codes."""
        raise NotImplementedError
