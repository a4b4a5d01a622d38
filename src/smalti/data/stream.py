"""Which item stands where in an endless stream of shuffled epochs: pure arithmetic, no state.

Item k of the stream of n items is item k % n of the permutation of epoch k // n. Batch s holds
items s * batch ... (s + 1) * batch - 1 and each rank a contiguous part of them, so any step of any
rank can be computed at once, a resumed run needs only its step, and the global batch is the same
on any number of ranks.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np


class Items(NamedTuple):
    epochs: np.ndarray
    """(b,) int64."""
    positions: np.ndarray
    """(b,) int64 in [0, n)."""


class Stream:
    """The part of each batch that belongs to `rank`. `batch` counts all ranks together.

    Raises ValueError if there are no items, or `batch` cannot be divided among `world` ranks.
    """

    def __init__(
        self, items: int, batch: int, seed: int = 0, rank: int = 0, world: int = 1
    ) -> None:
        if items < 1:
            raise ValueError("there are no items to draw batches from")
        if seed < 0:
            raise ValueError(f"seed must be 0 or more, got {seed}")
        if world < 1 or not 0 <= rank < world:
            raise ValueError(f"rank must be in [0, world), got rank {rank} of world {world}")
        if batch < 1 or batch % world:
            raise ValueError(f"batch must be a positive multiple of world {world}, got {batch}")
        self.items, self.seed = items, seed
        self._batch, self._share, self._rank = batch, batch // world, rank
        self._permutation = lru_cache(maxsize=4)(self._permute)
        self._draws = lru_cache(maxsize=8)(self._draw)

    def at(self, step: int) -> Items:
        """The items of this rank's part of batch `step`."""
        if step < 0:
            raise ValueError(f"step must be 0 or more, got {step}")
        start = step * self._batch + self._rank * self._share
        k = np.arange(start, start + self._share)
        epochs = k // self.items
        positions = np.empty_like(k)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            positions[here] = self._permutation(int(epoch))[k[here] % self.items]
        return Items(epochs, positions)

    def uniform(self, items: Items, key: int = 1) -> np.ndarray:
        """One number in [0, 1) for each item, (b,): a function of seed, epoch, position, and `key`,
        which says what it is for."""
        numbers = np.empty(len(items.epochs))
        for epoch in np.unique(items.epochs):
            here = items.epochs == epoch
            numbers[here] = self._draws(int(epoch), key)[items.positions[here]]
        return numbers

    def _permute(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.seed, epoch]).permutation(self.items)

    def _draw(self, epoch: int, key: int) -> np.ndarray:
        return np.random.default_rng([self.seed, epoch, key]).random(self.items)
