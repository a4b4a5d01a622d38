"""Where the pictures of a set come from: read ahead by threads, in order, with their numbers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from smalti.data.loader import ahead
from smalti.data.skipped import none_left, read, tell
from smalti.data.source import Source
from smalti.data.transforms import center_crop

WORKERS = 2
"""Threads that decode."""


class Numbered(NamedTuple):
    """Some pictures of a set."""

    numbers: np.ndarray
    """Where they are in the set, (B,) int64."""
    images: Tensor
    """uint8 (B, 3, H, W), contiguous."""


class Pictures(Protocol):
    """Pictures of one size, in a fixed order."""

    size: tuple[int, int]
    """Height and width."""
    labels: np.ndarray
    """(N,) int64; -1 = none."""
    classes: list[str]
    """Names by label; [] if they are not known."""
    skipped: dict[str, str]
    """Names of what could not be used, with the reason."""
    changed: bool
    """Whether any that was read was cropped or resized."""

    def __len__(self) -> int: ...
    def caption(self, i: int) -> str: ...
    def read(self, n: int) -> Iterator[Numbered]: ...


def channels_first(pixels: np.ndarray) -> Tensor:
    """uint8 (B, H, W, 3) to (B, 3, H, W), in memory too."""
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(pixels, -1, 1)))


def text_of(size: tuple[int, ...]) -> str:
    """Height and width for a message."""
    return " x ".join(map(str, size))


class SourcePictures:
    """Pictures `indices` of a source, at `size` square, or None as they are.

    Raises ValueError for the first one that cannot be decoded, unless `skip_bad` leaves them out;
    if none is left; and without `size` for the first that has another size.
    """

    def __init__(
        self, source: Source, indices: list[int], size: int | None, skip_bad: bool
    ) -> None:
        self.source, self.indices, self.skip_bad = source, indices, skip_bad
        self.skipped, self.classes = source.skipped, list(source.classes)
        self.labels = np.array([source.label(i) for i in indices], dtype=np.int64)
        self.changed = False
        self._broken = set[int]()
        self._said = tell(source)
        self._side = size
        self.size = (size, size) if size else self._first_size()

    def __len__(self) -> int:
        return len(self.indices) - len(self._broken)

    def caption(self, i: int) -> str:
        return self.source.caption(self.indices[i])

    def read(self, n: int) -> Iterator[Numbered]:
        starts = range(0, len(self.indices), n)
        for rows in ahead(lambda start: self._rows(start, n), starts, 2 * WORKERS, WORKERS):
            if len(rows.numbers):
                yield rows
        if not len(self):
            raise none_left(self.source)
        self._said = tell(self.source, self._said)

    def _rows(self, start: int, n: int) -> Numbered:
        numbers = range(start, min(start + n, len(self.indices)))
        pixels, kept = np.empty((len(numbers), *self.size, 3), np.uint8), list[int]()
        for i in numbers:
            if (image := self._decoded(i)) is not None:
                pixels[len(kept)] = self._fit(i, image)
                kept.append(i)
        return Numbered(np.array(kept, np.int64), channels_first(pixels[: len(kept)]))

    def _decoded(self, i: int) -> Any:
        """Picture i; None, with a note, if it is broken and may be."""
        if self.skip_bad:
            if (example := read(self.source, self.indices[i])) is None:
                self._broken.add(i)
            return example and example.image
        try:
            return self.source[self.indices[i]].image
        except ValueError as error:
            raise ValueError(f"{error}; --skip-bad leaves such pictures out") from error

    def _fit(self, i: int, image: Any) -> np.ndarray:
        have = (image.height, image.width)
        if have == self.size:
            return np.asarray(image)
        if self._side is None:
            raise ValueError(
                f"{self.source.name}: {self.source.key(self.indices[i])} has {text_of(have)} "
                f"pixels, the first picture {text_of(self.size)}; --size brings all to one"
            )
        self.changed = True
        return center_crop(image, self._side)

    def _first_size(self) -> tuple[int, int]:
        for i in range(len(self.indices)):
            if (image := self._decoded(i)) is not None:
                return image.height, image.width
        raise none_left(self.source)
