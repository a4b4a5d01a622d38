"""What models of text and pictures in one sequence minimise: a weighted sum of what they lose of
each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from smalti.config import check
from smalti.sampling.noise import Noise
from smalti.text.sequence import Rows
from smalti.train.base import Batch, Losses, Objective


@dataclass(frozen=True)
class JointConfig:
    text: float = 1.0
    """Weight of text."""
    pictures: float = 1.0
    """Weight of pictures. Transfusion: 5; Show-o: text 0.1 beside pictures 1."""
    over: Literal["positions", "kinds"] = "positions"
    """Means are taken over all positions that are learned, or over those of text and of pictures
    each."""
    cond_dropout: float = 0.1
    """Share of the pictures that are learned without what is before them, for guidance; as many
    again, where pictures are before them, without the text alone."""

    def __post_init__(self) -> None:
        check(self, amounts=("text", "pictures"), shares=("cond_dropout",))
        if self.cond_dropout > 0.5:
            raise ValueError(f"cond_dropout must be at most 0.5, got {self.cond_dropout}")

    def objective(self, model: Any) -> Joint:
        """What a model minimises."""
        return Joint(model, self)


@dataclass(frozen=True)
class WritingConfig:
    """Nothing is set: the mean of all ids of text is minimised."""

    def objective(self, model: Any) -> Joint:
        """What a language model minimises."""
        return Joint(model, JointConfig(cond_dropout=0.0))


class Joint(Objective):
    """The losses of rows, text and pictures."""

    model: Any

    def __init__(self, model: Any, config: JointConfig) -> None:
        super().__init__()
        self.model, self.config = model, config

    def forward(self, batch: Batch, step: int) -> Losses:
        rows = rows_in(batch)
        terms = self.model.terms(rows, Noise(batch["shuffle"], torch.zeros_like(batch["shuffle"])))
        counts = {name: term.where.sum() for name, term in terms.items()}
        sums = {name: (term.values * term.where).sum() for name, term in terms.items()}
        logs = {name: (sums[name] / counts[name].clamp(min=1)).detach() for name in terms}
        every = torch.stack(list(counts.values())).sum()
        total = torch.zeros((), device=batch["ids"].device)
        for name, value in sums.items():
            weight = self.config.text if name == "text" else self.config.pictures
            over = every if self.config.over == "positions" else counts[name]
            total = total + weight * value / over.clamp(min=1)
        return Losses({"model": total}, {"loss": total.detach(), **logs})


def rows_in(batch: Batch) -> Rows:
    """The rows of a batch."""
    return Rows(**{name: batch[name] for name in Rows._fields if name in batch})


def batch_of(rows: Rows) -> dict[str, Tensor]:
    """Rows as a batch."""
    return {name: t for name, t in rows._asdict().items() if t is not None}
