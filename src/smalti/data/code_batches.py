"""Batches of codes of a token cache, for training and for measuring.

B images, N positions, T tokens of a caption, C width of their features.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from smalti.data.stream import Stream
from smalti.data.token_cache import TokenCache
from smalti.text.encoders import TextEncoder


class CodeBatches:
    """Batches {'codes': (b, N, *trailing), 'labels': int64 (b,)} of rows of a cache. Codes are as
    the cache gives them: `TokenSpec.widened` makes of bits, which are bytes, what models take.

    The same stream as `smalti.data.loader.Images`; each item comes in a random view and, where the
    cache keeps deviations, as another sample in each epoch if `train`, else in view 0 and as its
    mean, with a 'chance' in [0, 1), float32 (b,), and a seed 'shuffle', int64 (b,), the same on any
    number of ranks. `evaluation` is always in order, in view 0, of means, and without these. With a
    text encoder there are also 'text_tokens' (b, T, ...) of the captions if it learns, if `train`
    of any of the texts that the cache keeps (`TokenCache.texts_of`), else the cached features of
    captions, 'text' (b, T, C) and 'text_mask' (b, T). With `maps` there are codes of those, 'map'
    (b, M), in the same view.
    Raises ValueError if `indices` is empty or not in the cache, or for a bad batch, rank or seed.
    """

    maps: bool = False
    """Whether codes of maps are wanted, which the cache then has."""

    def __init__(
        self,
        cache: TokenCache,
        indices: np.ndarray | list[int],
        batch: int,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        train: bool = True,
        encoder: TextEncoder | None = None,
    ) -> None:
        self.cache, self.train, self.encoder = cache, train, encoder
        self.rows = np.asarray(indices, dtype=np.int64)
        self._stream = Stream(len(self.rows), batch, seed, rank, world)
        if self.rows.min() < 0 or self.rows.max() >= len(cache):
            raise ValueError(f"indices must be in [0, {len(cache)}), got {self.rows}")

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, step: int) -> dict[str, Tensor]:
        """This rank's part of batch `step`."""
        items = self._stream.at(step)
        views = (self._stream.uniform(items) * self.cache.views).astype(np.int64)
        chance = np.floor(self._stream.uniform(items, key=2) * 2**24) / 2**24  # below 1 as float32
        shuffle, samples = (
            (self._stream.uniform(items, key=key) * 2**53).astype(np.int64) for key in (3, 4)
        )
        texts = self._stream.uniform(items, key=5)
        chosen = (views, samples, texts) if self.train else (0, None, None)
        batch = self._gather(self.rows[items.positions], *chosen)
        drawn = {"chance": torch.from_numpy(chance).float(), "shuffle": torch.from_numpy(shuffle)}
        return batch | drawn

    def names(self, step: int) -> list[str]:
        """The keys of batch `step`, for messages."""
        return self.cache.keys(self.rows[self._stream.at(step).positions])

    def evaluation(self, batch: int) -> Iterator[dict[str, Tensor]]:
        """All rows once, in order; the last batch may be short."""
        if batch < 1:
            raise ValueError(f"batch must be at least 1, got {batch}")
        for start in range(0, len(self.rows), batch):
            yield self._gather(self.rows[start : start + batch], 0)

    def _gather(
        self,
        rows: np.ndarray,
        views: np.ndarray | int,
        seeds: np.ndarray | None = None,
        texts: np.ndarray | None = None,
    ) -> dict[str, Tensor]:
        labels = self.cache.labels[rows]
        if not self.cache.classes:  # images without labels are one class
            labels = np.zeros_like(labels)
        batch = {"codes": self.cache.codes(rows, views, seeds), "labels": torch.from_numpy(labels)}
        if self.encoder is not None and self.encoder.learned:
            chance = np.zeros(len(rows)) if texts is None else texts
            batch["text_tokens"] = self.encoder.tokenize(self.cache.texts_of(rows, chance))
        elif self.encoder is not None:
            batch["text"], batch["text_mask"] = self.cache.text(rows)
        if self.maps:
            batch["map"] = self.cache.maps(rows, views)
        return batch
