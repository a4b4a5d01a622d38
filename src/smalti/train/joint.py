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

    def forward(self, batch: Batch, step: int) -> Losses:
        rows = rows_in(batch)
        terms = self.model.terms(rows, Noise(batch["shuffle"], torch.zeros_like(batch["shuffle"])))
        weights = dict.fromkeys(terms, self.config.pictures) | {"text": self.config.text}
        if self.config.alone is not None:
            text, alone = terms["text"], alone_in(rows)
            terms["text"] = text._replace(where=text.where & ~alone)
            terms["alone"] = text._replace(where=text.where & alone)
            weights["alone"] = self.config.alone
        counts = {name: term.where.sum() for name, term in terms.items()}
        sums = {name: (term.values * term.where).sum() for name, term in terms.items()}
        logs = {name: (sums[name] / counts[name].clamp(min=1)).detach() for name in terms}
        every = torch.stack(list(counts.values())).sum()
        total = torch.zeros((), device=batch["ids"].device)
        for name, value in sums.items():
            over = every if self.config.over == "positions" else counts[name]
            total = total + weights[name] * value / over.clamp(min=1)
        return Losses({"model": total}, {"loss": total.detach(), **logs})


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
