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

LEAST = 1e-6
"""Sums are divided by no less."""


@dataclass(frozen=True)
class JointConfig:
    text: float = 1.0
    """Weight of text."""
    alone: float | None = None
    """Weight of the text of documents without a picture, which are a kind of their own then; None:
    they are text as all is. Show-o: 0.1."""
    pictures: float = 1.0
    """Weight of pictures. Transfusion: 5."""
    over: Literal["positions", "kinds"] = "positions"
    """Means are taken over all positions that are learned, or over those of each kind: of text and
    of pictures."""
    cond_dropout: float = 0.1
    """Share of the pictures that are learned without what is before them, for guidance; as many
    again, where pictures are before them, without the text alone."""

    def __post_init__(self) -> None:
        amounts = ("text", "pictures") if self.alone is None else ("text", "alone", "pictures")
        check(self, amounts=amounts, shares=("cond_dropout",))
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

    def counts(self, batch: Batch) -> Tensor:
        rows = rows_in(batch)
        return counted(self._apart(rows, self.model.where(rows, numbers_of(batch))))

    def forward(self, batch: Batch, step: int) -> Losses:
        rows, config = rows_in(batch), self.config
        terms = self.model.terms(rows, numbers_of(batch))
        where = self._apart(rows, {name: term.where for name, term in terms.items()})
        weights = dict.fromkeys(where, config.pictures)
        weights |= {"text": config.text, "alone": config.alone or 0.0}
        values = {name: terms["text" if name == "alone" else name].values for name in where}
        sums = {name: (values[name] * here).sum() for name, here in where.items()}
        # of what is not there the sum is 0, and a mean of several parts may be below 1
        found = batch["counts"] if "counts" in batch else counted(where)
        each, every = found.clamp(min=LEAST), found.sum().clamp(min=LEAST)
        counts = dict(zip(where, each.unbind(), strict=True))
        logs = {name: (sums[name] / counts[name]).detach() for name in where}
        total = torch.zeros((), device=rows.ids.device)
        for name, value in sums.items():
            over = every if config.over == "positions" else counts[name]
            total = total + weights[name] * value / over
        return Losses({"model": total}, {"loss": total.detach(), **logs})

    def _apart(self, rows: Rows, where: dict[str, Tensor]) -> dict[str, Tensor]:
        """Where each kind is learned, with that of documents without a picture, if it is one."""
        if self.config.alone is None:
            return where
        text, alone = where["text"], alone_in(rows)
        return where | {"text": text & ~alone, "alone": text & alone}


def counted(where: dict[str, Tensor]) -> Tensor:
    """How many positions there are of each kind, (n,) float32."""
    return torch.stack([here.sum() for here in where.values()]).float()


def numbers_of(batch: Batch) -> Noise:
    """The random numbers of the rows of a batch."""
    return Noise(batch["shuffle"], torch.zeros_like(batch["shuffle"]))


def alone_in(rows: Rows) -> Tensor:
    """Which positions are those of documents in which no picture stands, (B, L) bool.

    A picture is known by who sees it whole, by what stands in the place of its ids, or by the cells
    of its codes: one of a single id that is seen as text is not found. Raises ValueError for rows
    with pictures beside them, which do not say whose these are.
    """
    if rows.beside is not None:
        raise ValueError(
            "alone must be None where pictures stand beside rows: these do not say which documents "
            "have none"
        )
    pictured = (rows.spans > 0) | (rows.ids < 0) | (rows.cells > 0).any(-1)
    if rows.owners is None:
        return rows.kept & ~pictured.any(1, keepdim=True)
    count, length = pictured.shape  # a row has at most as many documents as positions
    found = rows.owners.new_zeros(count, length + 1).scatter_add(1, rows.owners, pictured.long())
    return rows.kept & (found.gather(1, rows.owners) == 0)


def rows_in(batch: Batch) -> Rows:
    """The rows of a batch."""
    return Rows(**{name: batch[name] for name in Rows._fields if name in batch})


def batch_of(rows: Rows) -> dict[str, Tensor]:
    """Rows as a batch."""
    return {name: t for name, t in rows._asdict().items() if t is not None}
