"""Pictures of one to three drawn shapes, and a source of them for tokenizers: `scenes:COUNT`.

A tokenizer that was trained on single shapes does not know several: of what it reads back of two
or three, a quarter has another colour or shape. So what encodes documents of shapes learns from
these. They have neither labels nor captions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from PIL import Image

from smalti.data.drawn_shapes import (
    COLOURS,
    PIXELS,
    POSITIONS,
    SHAPES,
    SIZES,
    Attributes,
    draw,
)
from smalti.data.source import Example, Source, digest

MOST = 3
"""Shapes of a picture."""
CORNERS = tuple(position for position in POSITIONS if position != "in the centre")
"""Where several shapes stand, which are small: they never touch."""

T = TypeVar("T")
VALUES: dict[str, tuple[str, ...]] = {
    "colour": tuple(COLOURS),
    "shape": SHAPES,
    "size": tuple(SIZES),
    "position": tuple(POSITIONS),
}
"""The values of each attribute of a shape."""


class Scene(NamedTuple):
    """A picture of shapes that do not touch."""

    shapes: tuple[Attributes, ...]
    seed: tuple[int, ...]
    """Of the jitter, which a change of attributes leaves alone."""

    def draw(self, pixels: int = PIXELS) -> Image.Image:
        """The picture, RGB, `pixels` square."""
        seeds = [[*self.seed, k + 1] for k in range(len(self.shapes))]
        alone = [
            np.asarray(draw(shape, pixels, np.random.default_rng(seed)))
            for shape, seed in zip(self.shapes, seeds, strict=True)
        ]
        return Image.fromarray(np.minimum.reduce(alone))  # all of them on white

    def changed(self, attribute: str, value: str) -> Scene:
        """The picture with another attribute of its first shape."""
        first, *others = self.shapes
        return self._replace(shapes=(first._replace(**{attribute: value}), *others))


def one_of(rng: np.random.Generator, values: Sequence[T]) -> T:
    """One of the values, as likely as any other."""
    return values[int(rng.integers(len(values)))]


def any_scene(rng: np.random.Generator, seed: tuple[int, ...], count: int = 1) -> Scene:
    """A picture of one shape of any size anywhere, or of several small ones in corners."""
    if count == 1:
        return Scene((Attributes(*(one_of(rng, values) for values in VALUES.values())),), seed)
    places = [CORNERS[k] for k in rng.permutation(len(CORNERS))[:count]]
    shapes = [
        Attributes(one_of(rng, list(COLOURS)), one_of(rng, SHAPES), "small", p) for p in places
    ]
    return Scene(tuple(shapes), seed)


def open_scenes(options: str = "") -> Scenes:
    """'' for 10,000 pictures, or their number. Raises ValueError for anything else."""
    if options and (not options.isdecimal() or int(options) < 1):
        raise ValueError(
            f"scenes:{options} is not known; allowed: scenes, scenes:COUNT (1 or more)"
        )
    return Scenes(int(options or 10_000), name=f"scenes:{options}" if options else "scenes")


class Scenes(Source):
    """`count` pictures of one to three shapes, each number as often. Picture i depends on `seed`
    and i only."""

    def __init__(self, count: int, seed: int = 0, name: str = "scenes") -> None:
        self.name, self.count, self.seed = name, count, seed
        self.classes: list[str] = []
        self.skipped: dict[str, str] = {}

    def __len__(self) -> int:
        return self.count

    def scene(self, i: int) -> Scene:
        """What picture i shows."""
        if not 0 <= i < self.count:
            raise IndexError(f"{self.name} has {self.count} pictures, got {i}")
        seed = (self.seed, i)
        return any_scene(np.random.default_rng(seed), seed, 1 + i % MOST)

    def __getitem__(self, i: int) -> Example:
        return Example(self.scene(i).draw(), -1, "")

    def label(self, i: int) -> int:
        return -1

    def caption(self, i: int) -> str:
        return ""

    def key(self, i: int) -> str:
        return str(i)

    def size(self, i: int) -> int:
        return 0

    def fingerprint(self) -> str:
        some = [np.asarray(self[i].image).tobytes().hex() for i in range(min(8, self.count))]
        return digest([self.count, self.seed, some])
