"""Coloured shapes drawn on the fly, and an oracle that reads them back from the pixels alone.

One shape on white: 6 colours x 5 shapes x 2 sizes x 5 places = 300 combinations, each with a
slight jitter of place, size and colour. The class is colour and shape (30), the caption says all
four. So a generator trained on it can be judged exactly, without a network that judges: ask for
'a small red circle at the top left' and `recognise` what came out.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from smalti.data.source import Example, Source, describe, digest

COLOURS = {
    "red": (220, 40, 40),
    "green": (40, 160, 70),
    "blue": (40, 80, 210),
    "yellow": (245, 210, 40),
    "purple": (130, 50, 170),
    "orange": (245, 130, 30),
}
SHAPES = ("circle", "square", "triangle", "heart", "star")
SIZES = {"small": 0.12, "large": 0.21}
"""Half of the longer side of the shape's bounding box, in image widths."""
POSITIONS = {
    "in the centre": (0.5, 0.5),
    "at the top left": (0.27, 0.27),
    "at the top right": (0.73, 0.27),
    "at the bottom left": (0.27, 0.73),
    "at the bottom right": (0.73, 0.73),
}
"""Centre of the bounding box (x, y), in image widths."""
OVERSAMPLING = 4
PIXELS = 64


class Attributes(NamedTuple):
    colour: str
    shape: str
    size: str
    position: str

    @property
    def caption(self) -> str:
        return f"a {self.size} {self.colour} {self.shape} {self.position}"

    @property
    def wordings(self) -> tuple[str, ...]:
        """The same as the caption says, in other words."""
        size, colour, shape, position = self.size, self.colour, self.shape, self.position
        return (
            f"{position} there is a {shape}, {size} and {colour}",
            f"the {shape} {position} is {colour} and {size}",
            f"a {colour} {shape}, {size}, {position}",
            f"{size}, {colour}: a {shape} {position}",
            f"{colour} and {size} is the {shape} {position}",
            f"look {position}: a {shape}, {colour}, {size}",
            f"a {shape} that is {size} and {colour}, {position}",
            f"what is {position} is a {colour} {shape}, and it is {size}",
        )

    @property
    def label(self) -> int:
        return SHAPES.index(self.shape) * len(COLOURS) + list(COLOURS).index(self.colour)


def open_shapes(options: str = "") -> Shapes:
    """'' for 10,000 pictures, or their number. Raises ValueError for anything else."""
    if options and (not options.isdecimal() or int(options) < 1):
        raise ValueError(
            f"shapes:{options} is not known; allowed: shapes, shapes:COUNT (1 or more)"
        )
    return Shapes(int(options or 10_000), name=f"shapes:{options}" if options else "shapes")


class Shapes(Source):
    """`count` pictures of `pixels` square. Picture i depends on `seed` and i only."""

    recognised = True

    def __init__(
        self, count: int, pixels: int = PIXELS, seed: int = 0, name: str = "shapes"
    ) -> None:
        if count < 1 or pixels < 16:
            raise ValueError(f"need count >= 1 and pixels >= 16, got {count} and {pixels}")
        self.name, self.pixels, self.seed = name, pixels, seed
        self.skipped: dict[str, str] = {}
        self.classes = [f"{colour} {shape}" for shape in SHAPES for colour in COLOURS]
        choices = (COLOURS, SHAPES, SIZES, POSITIONS)
        rng = np.random.default_rng(seed)
        which = rng.random((count, len(choices))) * [len(c) for c in choices]
        self._which = which.astype(np.int64)

    def __len__(self) -> int:
        return len(self._which)

    def __getitem__(self, i: int) -> Example:
        about = self.attributes(i)  # raises IndexError past the end
        image = draw(about, self.pixels, np.random.default_rng([self.seed, i]))
        return Example(image, about.label, about.caption)

    def attributes(self, i: int) -> Attributes:
        colour, shape, size, position = self._which[i].tolist()
        return Attributes(
            list(COLOURS)[colour], SHAPES[shape], list(SIZES)[size], list(POSITIONS)[position]
        )

    def label(self, i: int) -> int:
        return self.attributes(i).label

    def wordings(self, i: int) -> tuple[str, ...]:
        """What else says the same as the caption."""
        return self.attributes(i).wordings

    def caption(self, i: int) -> str:
        return self.attributes(i).caption

    def key(self, i: int) -> str:
        return str(i)

    def size(self, i: int) -> int:
        return 0

    def fingerprint(self) -> str:
        first = self[0].image.tobytes().hex()  # changes with seed, pixels and the way of drawing
        return digest([self.classes, first, *describe(self)])


def draw(
    attributes: Attributes, pixels: int = PIXELS, rng: np.random.Generator | None = None
) -> Image.Image:
    """The picture, RGB, `pixels` square; `rng` jitters place, size and colour (None: no jitter)."""
    jitter = np.zeros(6) if rng is None else rng.uniform(-1, 1, 6)
    x, y = POSITIONS[attributes.position] + 0.02 * jitter[:2]
    radius = SIZES[attributes.size] * (1 + 0.06 * jitter[2])
    colour = np.clip(np.add(COLOURS[attributes.colour], 12 * jitter[3:]), 0, 255)
    cover = _cover(attributes.shape, x, y, radius, pixels)[..., None]
    return Image.fromarray(np.round(255 + cover * (colour - 255)).astype(np.uint8))


def recognise(image: np.ndarray) -> Attributes | None:
    """What uint8 pixels (H, W, 3) of a square picture show; None where no shape is seen.

    The direction of 255 - pixel tells the colour, whatever part of the pixel the shape covers; its
    length tells that part. Each shape is drawn, sharp and blurred, with the area and the centroid
    of the cover, and the one most like it gives shape, size and position.
    Exact on clean pictures of 32 and 64 pixels; made for slightly noisy or blurred ones as well.
    Raises ValueError if the array is not a square RGB picture.
    """
    if image.ndim != 3 or image.shape[0] != image.shape[1] or image.shape[2] != 3:
        raise ValueError(f"need pixels of shape (H, H, 3), got {image.shape}")
    ink = 255.0 - image.astype(np.float64)  # (H, W, 3)
    strength = np.linalg.norm(ink, axis=-1)  # (H, W)
    full = np.quantile(strength, 0.995)
    if full < 60:
        return None
    vector = ink[strength > 0.6 * full].mean(0)
    vectors = 255.0 - np.array(list(COLOURS.values()))
    likeness = vectors @ vector / np.linalg.norm(vectors, axis=1) / np.linalg.norm(vector)
    best = int(likeness.argmax())
    cover = ink @ vectors[best] / (vectors[best] @ vectors[best])
    near = Image.fromarray(cover > 0.35).convert("L").filter(ImageFilter.MaxFilter(5))
    cover = np.where(np.asarray(near), cover, 0)  # leaves out the noise of the background
    if likeness[best] < 0.975 or cover.max() <= 0:
        return None
    fits = {shape: _fit(shape, cover) for shape in SHAPES}
    shape = max(fits, key=lambda s: fits[s][0])
    match, x, y, radius = fits[shape]
    if match < 0.9 or not 0.08 < radius < 0.3:
        return None
    size = min(SIZES, key=lambda s: abs(math.log(radius / SIZES[s])))
    position = min(POSITIONS, key=lambda p: math.dist((x, y), POSITIONS[p]))
    return Attributes(list(COLOURS)[best], shape, size, position)


def _fit(shape: str, cover: np.ndarray) -> tuple[float, float, float, float]:
    """(likeness, x, y, radius) of a shape that has the cover's area and centroid.

    Likeness is the cosine between the two pictures, of the blur at which it is greatest.
    """
    pixels = len(cover)
    area, dx, dy = _moments(shape)
    cx, cy = _centroid(cover)
    radius = math.sqrt(cover.sum() / pixels**2 / area)
    x, y = cx - dx * radius, cy - dy * radius
    sharp = Image.fromarray(np.round(255 * _cover(shape, x, y, radius, pixels)).astype(np.uint8))
    likeness = 0.0
    for blur in (0, 0.7, 1.4):
        drawn = np.asarray(sharp.filter(ImageFilter.GaussianBlur(blur)), dtype=np.float64)
        norms = np.linalg.norm(drawn) * np.linalg.norm(cover)
        likeness = max(likeness, float((drawn * cover).sum() / max(norms, 1e-9)))
    return likeness, x, y, radius


@lru_cache
def _moments(shape: str) -> tuple[float, float, float]:
    """Area and centroid offset (x, y) of the shape at radius 1."""
    cover = _cover(shape, 0.5, 0.5, 0.25, 256)
    cx, cy = _centroid(cover)
    return float(cover.mean()) / 0.25**2, (cx - 0.5) / 0.25, (cy - 0.5) / 0.25


def _centroid(cover: np.ndarray) -> tuple[float, float]:
    centres = (np.arange(len(cover)) + 0.5) / len(cover)
    return float(cover.sum(0) @ centres / cover.sum()), float(cover.sum(1) @ centres / cover.sum())


def _cover(shape: str, x: float, y: float, radius: float, pixels: int) -> np.ndarray:
    """The part of each pixel that the shape covers, (pixels, pixels) in [0, 1]."""
    side = pixels * OVERSAMPLING
    mask = Image.new("L", (side, side))
    corners = ((_outline(shape) * radius + [x, y]) * side - 0.5).tolist()
    ImageDraw.Draw(mask).polygon([(a, b) for a, b in corners], fill=255)
    return np.asarray(mask.reduce(OVERSAMPLING), dtype=np.float64) / 255


@lru_cache
def _outline(shape: str) -> np.ndarray:
    """Corners (n, 2) of the shape; the longer side of its bounding box is [-1, 1], y down."""
    t = np.linspace(0, 2 * np.pi, 96, endpoint=False)
    if shape == "circle":
        points = np.stack([np.cos(t), np.sin(t)], 1)
    elif shape == "square":
        points = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
    elif shape == "triangle":
        points = np.array([[0, -1], [1, 0.8], [-1, 0.8]])
    elif shape == "heart":
        lobes = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
        points = np.stack([16 * np.sin(t) ** 3, -lobes], 1)
    else:
        turn = np.arange(10) * np.pi / 5
        reach = np.where(np.arange(10) % 2, 0.42, 1)
        points = np.stack([reach * np.sin(turn), -reach * np.cos(turn)], 1)
    low, high = points.min(0), points.max(0)
    return (points - (low + high) / 2) / ((high - low).max() / 2)
