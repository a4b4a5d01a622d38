"""Rows of documents for training, several in a row: which stand where is a function of the step.

In each epoch documents come in another order and are packed as they come: a row is full where the
next one does not fit. B rows, L positions.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from smalti.text.sequence import Document, Rows, Wrapping, fitted, packed


class DocumentBatches:
    """Batches of the fields of `Rows`, (b, length, ...), with 'shuffle' int64 (b,), a seed of each
    row.

    Args: which documents, and how long each is; how one is read, with a number in [0, 1) that
    decides what is left out of it; how pictures are written; rows of a batch over all ranks, and
    positions of a row. A document that is longer is cut as `text.sequence.fitted` says. Raises
    ValueError if there are none, or for a bad batch or rank.
    """

    def __init__(
        self,
        chosen: Sequence[int],
        lengths: Sequence[int],
        read: Callable[[int, float], Document],
        wrapping: Wrapping,
        *,
        batch: int,
        length: int,
        pad: int = 0,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        name: Callable[[int], str] = str,
    ) -> None:
        if not len(chosen):
            raise ValueError("there are no documents to draw batches from")
        if batch < 1 or batch % world:
            raise ValueError(f"batch must be a positive multiple of world {world}, got {batch}")
        self.chosen, self.lengths = list(chosen), np.minimum(np.asarray(lengths), length)
        self.read, self.wrapping, self.length, self.pad = read, wrapping, length, pad
        self.size, self.share, self.rank, self.seed = batch, batch // world, rank, seed
        self.name = name
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
            seeds.append(int(np.random.SeedSequence([self.seed, number]).generate_state(1)[0]))
        made = self._padded(packed(rows, self.wrapping, self.pad))
        return made | {"shuffle": torch.tensor(seeds)}

    def names(self, step: int) -> list[str]:
        """The keys of the documents of batch `step`, for messages."""
        rows = [self._row(number)[1] for number in self._numbers(step)]
        return [self.name(self.chosen[i]) for row in rows for i in row]

    def evaluation(self, batch: int) -> Iterator[dict[str, Tensor]]:
        """All documents once, in order, whole and nothing left out, in so many rows at a time."""
        rows = _filled(range(len(self.chosen)), self.lengths, self.length)
        for start in range(0, len(rows), batch):
            some = [
                [self._fitted(self.chosen[i], 1.0) for i in row] for row in rows[start:][:batch]
            ]
            made = self._padded(packed(some, self.wrapping, self.pad))
            yield made | {"shuffle": torch.arange(start, start + len(some))}

    def _fitted(self, i: int, chance: float) -> Document:
        return fitted(self.read(i, chance), self.wrapping, self.length)

    def _numbers(self, step: int) -> range:
        if step < 0:
            raise ValueError(f"step must be 0 or more, got {step}")
        first = step * self.size + self.rank * self.share
        return range(first, first + self.share)

    def _row(self, number: int) -> tuple[int, list[int]]:
        """The epoch and the documents of a row of the stream."""
        while self._ends[-1] <= number:
            self._ends.append(self._ends[-1] + len(self._epoch(len(self._ends) - 1)))
        epoch = bisect_right(self._ends, number) - 1
        return epoch, self._epoch(epoch)[number - self._ends[epoch]]

    def _plan(self, epoch: int) -> list[list[int]]:
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.chosen))
        return _filled(order.tolist(), self.lengths, self.length)

    def _draw(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.seed, epoch, 1]).random(len(self.chosen))

    def _padded(self, rows: Rows) -> dict[str, Tensor]:
        short = self.length - rows.ids.shape[1]
        fills = {"ids": self.pad}
        found = dict[str, Tensor]()
        for name, values in rows._asdict().items():
            if values is not None:
                more = [0, 0] * (values.dim() - 2) + [0, short]
                found[name] = torch.nn.functional.pad(values, more, value=fills.get(name, 0))
        return found


def _filled(order: Sequence[int], lengths: np.ndarray, length: int) -> list[list[int]]:
    """Numbers in rows, as they come."""
    rows, left = list[list[int]](), 0
    for i in order:
        if not rows or lengths[i] > left:
            rows.append([])
            left = length
        rows[-1].append(i)
        left -= int(lengths[i])
    return rows
