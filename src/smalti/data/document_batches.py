"""Rows of documents for training, several in a row: which stand where is a function of the step.

In each epoch documents come in another order, and each joins one of the last rows where it fits, so
that little is left empty. B rows, L positions.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from smalti.text.sequence import Document, Rows, Wrapping, fitted, packed

OPEN = 16
"""Rows that a document may still join."""


@dataclass(frozen=True)
class Packing:
    """How documents become rows of batches."""

    wrapping: Wrapping
    """How pictures are written."""
    length: int
    """Positions of a row."""
    batch: int
    """Rows of a batch, over all ranks."""
    pad: int = 0
    """The id where nothing is."""
    seed: int = 0
    """Of the order of documents."""
    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        if self.length < 1:
            raise ValueError(f"a row must have at least 1 position, got {self.length}")
        if self.batch < 1 or self.batch % self.world:
            raise ValueError(
                f"batch must be a positive multiple of world {self.world}, got {self.batch}"
            )


class DocumentBatches:
    """Batches of the fields of `Rows`, (b, length, ...) but for pictures beside the rows, with
    'shuffle' int64 (b,), a seed of each row.

    Args: which documents, and how long each is; how one is read, with a number in [0, 1) that
    decides what is left out of it; how they are packed; the name of one, for messages. A document
    that is longer than a row is cut as `text.sequence.fitted` says. Raises ValueError if there are
    none.
    """

    def __init__(
        self,
        chosen: Sequence[int],
        lengths: Sequence[int],
        read: Callable[[int, float], Document],
        packing: Packing,
        name: Callable[[int], str] = str,
    ) -> None:
        if not len(chosen):
            raise ValueError("there are no documents to draw batches from")
        self.chosen, self.packing = list(chosen), packing
        self.lengths = np.minimum(np.asarray(lengths), packing.length)
        self.read, self.name, self.share = read, name, packing.batch // packing.world
        self._ends = [0]
        self._epoch = lru_cache(maxsize=4)(self._plan)
        self._chances = lru_cache(maxsize=4)(self._draw)

    def __len__(self) -> int:
        return len(self.chosen)

    def batch(self, step: int) -> dict[str, Tensor]:
        """This rank's part of batch `step`."""
        rows, seeds = list[list[Document]](), list[int]()
        for number in self._numbers(step):
            epoch, members = self._row(number)
            chances = self._chances(epoch)
            rows.append([self._fitted(self.chosen[i], float(chances[i])) for i in members])
            seeds.append(
                int(np.random.SeedSequence([self.packing.seed, number]).generate_state(1)[0])
            )
        made = self._padded(packed(rows, self.packing.wrapping, self.packing.pad))
        return made | {"shuffle": torch.tensor(seeds)}

    def names(self, step: int) -> list[str]:
        """The keys of the documents of batch `step`, for messages."""
        rows = [self._row(number)[1] for number in self._numbers(step)]
        return [self.name(self.chosen[i]) for row in rows for i in row]

    def documents(self) -> Iterator[Document]:
        """All documents as `evaluation` has them: cut where they are longer than a row."""
        return (self._fitted(i, 1.0) for i in self.chosen)

    def evaluation(self, batch: int) -> Iterator[dict[str, Tensor]]:
        """All documents once, in order, whole and nothing left out, in so many rows at a time."""
        rows = _filled(range(len(self.chosen)), self.lengths, self.packing.length)
        for start in range(0, len(rows), batch):
            some = [
                [self._fitted(self.chosen[i], 1.0) for i in row] for row in rows[start:][:batch]
            ]
            made = self._padded(packed(some, self.packing.wrapping, self.packing.pad))
            yield made | {"shuffle": torch.arange(start, start + len(some))}

    def _fitted(self, i: int, chance: float) -> Document:
        return fitted(self.read(i, chance), self.packing.wrapping, self.packing.length)

    def _numbers(self, step: int) -> range:
        if step < 0:
            raise ValueError(f"step must be 0 or more, got {step}")
        first = step * self.packing.batch + self.packing.rank * self.share
        return range(first, first + self.share)

    def _row(self, number: int) -> tuple[int, list[int]]:
        """The epoch and the documents of a row of the stream."""
        while self._ends[-1] <= number:
            self._ends.append(self._ends[-1] + len(self._epoch(len(self._ends) - 1)))
        epoch = bisect_right(self._ends, number) - 1
        return epoch, self._epoch(epoch)[number - self._ends[epoch]]

    def _plan(self, epoch: int) -> list[list[int]]:
        order = np.random.default_rng([self.packing.seed, epoch]).permutation(len(self.chosen))
        return _filled(order.tolist(), self.lengths, self.packing.length)

    def _draw(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.packing.seed, epoch, 1]).random(len(self.chosen))

    def _padded(self, rows: Rows) -> dict[str, Tensor]:
        short = self.packing.length - rows.ids.shape[1]
        assert short >= 0, "a document takes more positions than it was planned for"
        fills = {"ids": self.packing.pad}
        found = dict[str, Tensor]()
        for name, values in rows._asdict().items():
            if values is not None:
                more = [0, 0] * (values.dim() - 2) + [0, 0 if name == "beside" else short]
                found[name] = torch.nn.functional.pad(values, more, value=fills.get(name, 0))
        return found


def _filled(order: Sequence[int], lengths: np.ndarray, length: int) -> list[list[int]]:
    """Numbers in rows: each in the fullest of the last rows that it fits into, else a new one."""
    rows, open_ = list[list[int]](), list[tuple[int, list[int]]]()
    for i in order:
        needed = int(lengths[i])
        fits = [k for k, (left, _) in enumerate(open_) if left >= needed]
        if fits:
            k = min(fits, key=lambda k: open_[k][0])
            left, row = open_[k]
        else:
            k, left, row = len(open_), length, []
            rows.append(row)
            open_.append((left, row))
        row.append(i)
        open_[k] = (left - needed, row)
        if len(open_) > OPEN:
            open_.remove(min(open_, key=lambda pair: pair[0]))
    return rows
