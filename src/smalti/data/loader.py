"""Batches of images for training, addressed by step: batch(s) is the same whenever it is asked for.

Decoded images stay in memory while they fit a budget: for centre crops the finished pixels, so
that a batch is one gather, for other crops the picture shrunk as far as changes no crop.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Protocol, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from smalti.data.skipped import none_left, read
from smalti.data.source import Source
from smalti.data.stream import Items, Stream
from smalti.data.transforms import Transform, shifted

S = TypeVar("S")
T = TypeVar("T")


class Batches(Protocol):
    """What a trainer reads: any batch by its step, and one pass in order."""

    def __len__(self) -> int: ...
    def batch(self, step: int) -> dict[str, Tensor]: ...
    def names(self, step: int) -> list[str]: ...
    def evaluation(self, batch: int) -> Iterator[dict[str, Tensor]]: ...


class Images:
    """Batches {'images': uint8 (b, 3, H, W), 'labels': int64 (b,)} of the chosen examples.

    `batch` counts all ranks together and each rank gets its contiguous part of it; it may exceed
    the number of examples. `batch(step)` is a function of seed, step, rank and world alone, and
    the random numbers of an augmentation of seed, epoch and example. In the place of a picture that
    cannot be decoded stands the next one of `indices` that can, always the same. At most about
    `cache_bytes` of pixels are kept. `workers` threads decode what is not.
    Raises ValueError if `indices` is empty or not in the source, or for a bad batch, rank or seed,
    and later if no picture can be decoded.
    """

    workers = 2
    tokenize: Callable[[Sequence[str]], Tensor] | None = None
    """Makes tokens of captions, which are then in batches as 'text_tokens'."""

    def __init__(
        self,
        source: Source,
        indices: Sequence[int],
        transform: Transform,
        batch: int,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        cache_bytes: int = 1 << 30,
    ) -> None:
        self.source, self.transform = source, transform
        self.indices = np.asarray(indices, dtype=np.int64)
        self._stream = Stream(len(self.indices), batch, seed, rank, world)
        if self.indices.min() < 0 or self.indices.max() >= len(source):
            raise ValueError(f"indices must be in [0, {len(source)}), got {self.indices}")
        self.labels = np.array([source.label(int(i)) for i in self.indices], dtype=np.int64)
        self._shown = self.indices.copy()
        n, size = len(self.indices), transform.size
        self._budget = cache_bytes
        self._kept: dict[int, Image.Image] = {}
        self._table: np.ndarray | None = None
        if transform.crop == "center" and n * 3 * size * size <= cache_bytes:
            self._table = np.zeros((n, 3, size, size), dtype=np.uint8)
        self._filled = np.zeros(n, dtype=bool)

    def __len__(self) -> int:
        return len(self.indices)

    def batch(self, step: int) -> dict[str, Tensor]:
        """This rank's part of batch `step`."""
        items = self._stream.at(step)
        positions = items.positions
        if self.transform.crop == "center":
            pixels = self._centred(positions)
            if self.transform.flip:
                flip = self._stream.uniform(items) < 0.5
                pixels[flip] = pixels[flip, :, :, ::-1]
            return self._pack(self._moved(pixels, items), positions)
        pairs = zip(items.epochs.tolist(), positions.tolist(), strict=True)
        return self._pack(np.stack(self._map(self._augmented, list(pairs))), positions)

    def names(self, step: int) -> list[str]:
        """The keys of batch `step`, for messages."""
        return [self.source.key(int(self.indices[p])) for p in self._stream.at(step).positions]

    def evaluation(self, batch: int) -> Iterator[dict[str, Tensor]]:
        """All items once, in order, each as its evaluation view; the last batch may be short."""
        if batch < 1:
            raise ValueError(f"batch must be at least 1, got {batch}")
        for start in range(0, len(self), batch):
            positions = np.arange(start, min(start + batch, len(self)))
            if self.transform.crop == "center":
                pixels = self._centred(positions)
            else:
                views = self._map(
                    lambda p: self.transform(self._image(p), None), positions.tolist()
                )
                pixels = np.stack(views)
            yield self._pack(pixels, positions)

    def captions(self) -> list[str]:
        """The caption of each item; once it has been decoded, of the image that is shown."""
        return [self.source.caption(i) for i in self._shown.tolist()]

    def _pack(self, pixels: np.ndarray, positions: np.ndarray) -> dict[str, Tensor]:
        labels = torch.from_numpy(self.labels[positions])
        batch = {"images": torch.from_numpy(pixels), "labels": labels}
        if self.tokenize is not None:
            shown = self._shown[positions].tolist()
            batch["text_tokens"] = self.tokenize([self.source.caption(i) for i in shown])
        return batch

    def _centred(self, positions: np.ndarray) -> np.ndarray:
        """Centre crops, a fresh uint8 array (b, 3, H, W)."""
        if self._table is None:
            views = self._map(lambda p: self.transform(self._image(p), None), positions.tolist())
            return np.stack(views)
        missing = np.unique(positions[~self._filled[positions]]).tolist()
        for p, view in zip(missing, self._map(self._decoded, missing), strict=True):
            self._table[p] = view
            self._filled[p] = True
        return self._table[positions]

    def _moved(self, pixels: np.ndarray, items: Items) -> np.ndarray:
        """Centre crops of some items (b, 3, H, W), moved at random if they are to be."""
        if not (most := self.transform.shift):
            return pixels
        by = [self._stream.uniform(items, key) * (2 * most + 1) // 1 - most for key in (3, 4)]
        moves = np.stack(by, 1).astype(int).tolist()
        return np.stack([shifted(p, *move) for p, move in zip(pixels, moves, strict=True)])

    def _decoded(self, position: int) -> np.ndarray:
        return self.transform(self._read(position), None)

    def _augmented(self, item: tuple[int, int]) -> np.ndarray:
        epoch, position = item
        seed = [self._stream.seed, epoch, 2, int(self.indices[position])]
        return self.transform(self._image(position), np.random.default_rng(seed))

    def _image(self, position: int) -> Image.Image:
        """The picture, shrunk as far as changes no view; kept while the budget lasts."""
        image = self._kept.get(position)
        if image is None:
            image = self.transform.prepare(self._read(position))
            need = 3 * image.width * image.height
            if need <= self._budget:
                self._budget -= need
                self._kept[position] = image
        return image

    def _read(self, position: int) -> Image.Image:
        """The picture of a position, or of the next one that has any; label and caption go with
        it."""
        for other in range(position, position + len(self)):
            index = int(self.indices[other % len(self)])
            example = read(self.source, index)
            if example is not None:
                self.labels[position], self._shown[position] = example.label, index
                return example.image
        raise none_left(self.source)

    def _map(self, function, values: list) -> list[np.ndarray]:
        if self.workers < 2 or len(values) < 2:
            return [function(v) for v in values]
        with ThreadPoolExecutor(self.workers) as pool:
            return list(pool.map(function, values))


def prefetch(
    batches: Batches, start: int, stop: int, depth: int = 3
) -> Generator[dict[str, Tensor], None, None]:
    """The batches of steps start ... stop - 1, made ahead of time by one background thread."""
    return ahead(batches.batch, range(start, stop), depth)


def ahead(
    function: Callable[[S], T], items: Iterable[S], depth: int = 3, workers: int = 1
) -> Generator[T, None, None]:
    """`function` of each item, in order, worked out ahead of time by background threads.

    At most `depth` are waiting; one worker alone calls the function in order, too. An error in a
    thread is raised here, at its item. The threads end when the generator is exhausted or closed.
    """
    rest = iter(items)
    pool = ThreadPoolExecutor(workers, thread_name_prefix="prefetch")
    try:
        waiting: deque[Future[T]] = deque(pool.submit(function, x) for x in islice(rest, depth))
        while waiting:
            ready = waiting.popleft().result()
            waiting.extend(pool.submit(function, x) for x in islice(rest, 1))
            yield ready
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
