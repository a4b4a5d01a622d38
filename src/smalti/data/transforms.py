"""Crops and pixel ranges, equal to those of ADM and LlamaGen bit for bit.

A large picture is halved with a box filter while it is at least twice too large, then resized
bicubically, then cropped (Dhariwal and Nichol, 2021, arXiv:2105.05233). Pixels are uint8 in files
and batches, and float in [-1, 1] in models. V views, H and W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from smalti.nn.finite import require_finite

MIN_FRAC = 0.8
"""The smallest random crop, as a fraction of the short side."""
TEN_RATIO = 1.1
"""The ten crops are taken from a centre crop this much larger, as LlamaGen does."""

LONGEST = 32
"""Of a picture longer than so many short sides only the middle is used: enlarged whole, one of
1 x 60,000 pixels would fill the memory."""


def center_crop(image: Image.Image | np.ndarray, size: int) -> np.ndarray:
    """The largest centred square, at `size` pixels: uint8 (size, size, 3)."""
    return center_part(image, (size, size))


def center_part(
    image: Image.Image | np.ndarray,
    size: tuple[int, int],
    resample: Image.Resampling = Image.Resampling.BICUBIC,
) -> np.ndarray:
    """The largest centred part of the shape of `size` (H, W), at that size: (H, W, ...)."""
    pixels = _shrink(image, size, resample)
    top, left = ((have - want) // 2 for have, want in zip(pixels.shape, size, strict=False))
    return _cut(pixels, top, left, size)


def framed(image: Image.Image, size: tuple[int, int], margin: Sequence[int]) -> Image.Image:
    """A whole RGB picture in the middle of one of `size` (H, W), whose rest has the colour of the
    margin; bicubic."""
    share = min(size[0] / image.height, size[1] / image.width)
    height, width = (max(1, round(side * share)) for side in (image.height, image.width))
    red, green, blue = margin
    found = Image.new("RGB", (size[1], size[0]), (red, green, blue))
    where = (size[1] - width) // 2, (size[0] - height) // 2
    found.paste(image.resize((width, height), Image.Resampling.BICUBIC), where)
    return found


def random_crop(
    image: Image.Image | np.ndarray,
    size: int,
    rng: np.random.Generator,
    min_frac: float = MIN_FRAC,
    max_frac: float = 1.0,
) -> np.ndarray:
    """A random square whose side is a fraction in [min_frac, max_frac] of the short side.

    Returns uint8 (size, size, 3). The order of draws is short side, row, column.
    Raises ValueError unless 0 < min_frac <= max_frac <= 1.
    """
    if not 0 < min_frac <= max_frac <= 1:
        raise ValueError(f"need 0 < min_frac <= max_frac <= 1, got {min_frac} and {max_frac}")
    low, high = math.ceil(size / max_frac), math.ceil(size / min_frac)
    short = int(rng.integers(low, high + 1))
    pixels = _shrink(image, (short, short))
    top = int(rng.integers(pixels.shape[0] - size + 1))
    left = int(rng.integers(pixels.shape[1] - size + 1))
    return _cut(pixels, top, left, (size, size))


def ten_crop(image: Image.Image | np.ndarray, size: int, ratio: float = TEN_RATIO) -> np.ndarray:
    """Four corners and the centre of a larger centre crop, then the same of its mirror image.

    Returns uint8 (10, size, size, 3) in torchvision's order: top left, top right, bottom left,
    bottom right, centre. Raises ValueError if `ratio` is below 1.
    """
    if ratio < 1:
        raise ValueError(f"ratio must be at least 1, got {ratio}")
    square = center_crop(image, int(size * ratio))
    end = square.shape[0] - size
    middle = round(end / 2)
    corners = [(0, 0), (0, end), (end, 0), (end, end), (middle, middle)]
    both = (square, square[:, ::-1])
    return np.stack([_cut(pixels, y, x, (size, size)) for pixels in both for y, x in corners])


def shifted(pixels: np.ndarray, down: int, right: int) -> np.ndarray:
    """Pixels (..., H, W) moved by so many, at most their sides; the edge fills what is left."""
    moves = zip(pixels.shape[-2:], (down, right), strict=True)
    rows, columns = (np.clip(np.arange(side) - by, 0, side - 1) for side, by in moves)
    return pixels[..., rows[:, None], columns]


def halve(image: Image.Image | np.ndarray, size: int) -> Image.Image:
    """Box-halve while the short side is at least twice `size`.

    Halving first for a size changes nothing in a crop of that size or a smaller one.
    """
    return _halve(image, (size, size))


def _halve(image: Image.Image | np.ndarray, size: tuple[int, int]) -> Image.Image:
    picture = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    if picture.mode == "P":  # of numbers there is no mean
        return picture
    while picture.height >= 2 * size[0] and picture.width >= 2 * size[1]:
        width, height = picture.size
        picture = picture.resize((width // 2, height // 2), Image.Resampling.BOX)
    return picture


def _shrink(
    image: Image.Image | np.ndarray,
    size: tuple[int, int],
    resample: Image.Resampling = Image.Resampling.BICUBIC,
) -> np.ndarray:
    """Resize so that `size` (H, W) is just covered: (H' >= H, W' >= W, ...), one of them equal.
    Of a picture with a palette, whose pixels are numbers, the nearest ones are taken as greys."""
    picture = _shorten(_halve(image, size))
    scale = max(size[0] / picture.height, size[1] / picture.width)
    width, height = (round(n * scale) for n in picture.size)
    if picture.mode == "P":
        pixels = np.asarray(picture.resize((width, height), Image.Resampling.NEAREST))
        return np.repeat(pixels[..., None], 3, -1)
    return np.asarray(picture.resize((width, height), resample))


def _shorten(picture: Image.Image) -> Image.Image:
    """The middle part of a picture that is longer than `LONGEST` times its short side."""
    width, height = picture.size
    limit = LONGEST * min(picture.size)
    if max(picture.size) <= limit:
        return picture
    w, h = min(width, limit), min(height, limit)
    left, top = (width - w) // 2, (height - h) // 2
    return picture.crop((left, top, left + w, top + h))


def _cut(pixels: np.ndarray, top: int, left: int, size: tuple[int, int]) -> np.ndarray:
    return pixels[top : top + size[0], left : left + size[1]]


@dataclass(frozen=True)
class Transform:
    """How an RGB image becomes square training and encoding views.

    Raises ValueError if `size` is not positive, `crop` is unknown, or `shift` cannot be.
    """

    size: int = 256
    """Pixels of a side."""
    crop: Literal["center", "random", "ten"] = "center"
    flip: bool = False
    """Mirror half of the training views; as a fixed view, the mirror image is the second one.
    The ten crops always contain their mirror images."""
    shift: int = 0
    """Move training views by up to so many pixels up or down and left or right; not of ten crops,
    and there are no fixed views then."""

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size must be at least 1, got {self.size}")
        if self.crop not in ("center", "random", "ten"):
            raise ValueError(f"crop must be center, random or ten, got {self.crop!r}")
        if not 0 <= self.shift < self.size or (self.shift and self.crop == "ten"):
            raise ValueError(
                f"shift must be in 0 ... {self.size - 1}, and 0 of ten crops, got {self.shift} of "
                f"crop {self.crop}"
            )

    def __call__(self, image: Image.Image, rng: np.random.Generator | None) -> np.ndarray:
        """One view, uint8 (3, size, size): a random one, or without `rng` the one to evaluate on,
        which is the centre crop (the centre one of the ten)."""
        if self.crop == "ten":
            view = ten_crop(image, self.size)[4 if rng is None else int(rng.integers(10))]
            return _channels_first(view)
        if self.crop == "random" and rng is not None:
            view = random_crop(image, self.size, rng)
        else:
            view = center_crop(image, self.size)
        flip = self.flip and rng is not None and rng.random() < 0.5
        view = _channels_first(view[:, ::-1] if flip else view)
        if self.shift and rng is not None:
            down, right = rng.integers(-self.shift, self.shift + 1, 2).tolist()
            return shifted(view, down, right)
        return view

    def views(self, image: Image.Image) -> np.ndarray:
        """The fixed views to encode, uint8 (V, 3, size, size).

        Raises ValueError for random crops and shifts, which have none.
        """
        if self.shift:
            raise ValueError(f"shift {self.shift} has no fixed views to encode; 0 has")
        if self.crop == "random":
            raise ValueError("crop 'random' has no fixed views to encode; use 'center' or 'ten'")
        if self.crop == "ten":
            return _channels_first(ten_crop(image, self.size))
        view = center_crop(image, self.size)
        return _channels_first(np.stack([view, view[:, ::-1]] if self.flip else [view]))

    @property
    def view_count(self) -> int:
        """V, the number of fixed views; 0 for random crops and shifts."""
        return 0 if self.shift else {"center": 1 + self.flip, "random": 0, "ten": 10}[self.crop]

    def prepare(self, image: Image.Image) -> Image.Image:
        """The image box-halved as far as changes no view: what is worth keeping in memory."""
        largest = {"center": self.size, "random": math.ceil(self.size / MIN_FRAC)}
        return halve(image, largest.get(self.crop, int(self.size * TEN_RATIO)))


def _channels_first(pixels: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.moveaxis(pixels, -1, -3))


def to_float(x: Tensor) -> Tensor:
    """uint8 pixels to float32 in [-1, 1]."""
    return x.float() / 127.5 - 1


def to_uint8(x: Tensor) -> Tensor:
    """[-1, 1] to uint8: clamp(127.5 x + 128, 0, 255), truncated, as LlamaGen does.

    Raises ValueError if a pixel is NaN or infinite.
    """
    require_finite(x, "pixels")
    return (127.5 * x.float() + 128).clamp(0, 255).byte()


def resize(x: Tensor, size: int) -> Tensor:
    """Float images (B, C, H, W) to (B, C, size, size): bicubic, without antialiasing."""
    if tuple(x.shape[-2:]) == (size, size):
        return x
    return F.interpolate(x, size=(size, size), mode="bicubic", align_corners=False)
