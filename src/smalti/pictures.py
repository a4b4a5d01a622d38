"""Pictures as people and programs take them: PIL images, sheets of many, PNGs that say how they
were drawn."""

from __future__ import annotations

import itertools
import json
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from smalti.files import check_own, expand, replacing

CHUNK = "smalti"
"""The text chunk by which a PNG of smalti is known."""


def to_pil(images: Tensor) -> list[Image.Image]:
    """uint8 images (B, 3, H, W) as pictures."""
    return [Image.fromarray(x) for x in images.permute(0, 2, 3, 1).cpu().numpy()]


def from_array(array: np.ndarray | Tensor, what: str) -> Image.Image:
    """An array of pixels as a picture: (H, W), (H, W, C) or (C, H, W) with 1 to 4 channels, alone
    or in a batch of one; uint8, bool, or floats in [0, 1].

    Where both ends could be channels, a tensor has them first and another array last. Raises
    ValueError beginning with `what` for anything else.
    """
    first = isinstance(array, Tensor)
    if isinstance(array, Tensor):
        array = array.detach().cpu()
        array = (array.float() if array.is_floating_point() else array).numpy()
    pixels = array[0] if array.ndim == 4 and len(array) == 1 else array
    ends = {axis: pixels.ndim == 3 and 1 <= pixels.shape[axis] <= 4 for axis in (0, -1)}
    if pixels.size == 0 or not (pixels.ndim == 2 or any(ends.values())):
        raise ValueError(
            f"{what} must be an array (H, W), (H, W, C) or (C, H, W), got {array.shape}"
        )
    pixels = _bytes(pixels, what)
    if pixels.ndim == 3 and ends[0] and (first or not ends[-1]):
        pixels = pixels.transpose(1, 2, 0)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    return Image.fromarray(np.ascontiguousarray(pixels))


def _bytes(pixels: np.ndarray, what: str) -> np.ndarray:
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype == bool:
        return pixels.astype(np.uint8) * 255
    low, high = pixels.min(), pixels.max()
    if not np.issubdtype(pixels.dtype, np.floating) or not (low >= 0 and high <= 1):  # or NaN
        raise ValueError(
            f"{what} must be an array of uint8, bool or floats in [0, 1], "
            f"got {pixels.dtype} from {low} to {high}"
        )
    return (pixels * 255).round().astype(np.uint8)


FONT = 11
"""Pixels of a line of a name."""
LINES = 3
"""A name has so many lines at most; what is longer ends in an ellipsis."""
GAP = 4
"""Pixels between two names, at least."""
COLUMNS = 16
"""Up to so many names get a column each."""


def grid(images: Sequence[Image.Image], columns: int | None = None, zoom: int = 1) -> Image.Image:
    """One picture of many of equal size, row by row, two pixels apart on white."""
    if not images:
        raise ValueError("a grid needs at least one image")
    columns = columns or max(1, round(len(images) ** 0.5))
    w, h = images[0].width * zoom, images[0].height * zoom
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * (w + 2) + 2, rows * (h + 2) + 2), "white")
    for (y, x), image in zip(itertools.product(range(rows), range(columns)), images, strict=False):
        tile = image.resize((w, h), Image.Resampling.NEAREST)
        sheet.paste(tile, (2 + x * (w + 2), 2 + y * (h + 2)))
    return sheet


def named_grid(images: Sequence[Image.Image], names: Sequence[str], zoom: int = 1) -> Image.Image:
    """A grid of images with the name of each, a class or a prompt, written above it.

    Names that come in turn get a column each, with the name above the first row; a single one
    stands above the whole grid; of more than 16 each image has its own. Empty names are left out.
    """
    turns = next(p for p in range(1, len(names) + 1) if [*names[p:]] == [*names[:-p]])
    square = max(1, round(len(images) ** 0.5))
    if turns == 1:
        below = grid(images, square, zoom)
        return _stacked([_header(names[:1], below.width - 4), below] if names[0] else [below])
    columns = turns if turns <= COLUMNS else square
    parts = list[Image.Image]()
    step = len(images) if turns <= COLUMNS else columns
    for start in range(0, len(images), step):
        row = grid(images[start : start + step], columns, zoom)
        parts += [_header(names[start : start + columns], images[0].width * zoom), row]
    return _stacked(parts)


def _header(names: Sequence[str], width: int) -> Image.Image:
    """Names beside each other, each over as many pixels and two more, as high as the longest."""
    font = ImageFont.load_default(FONT)
    texts = [_lines(name, font, width - GAP) for name in names]
    height = (FONT + 2) * max(1, *map(len, texts), 0) + 2
    header = Image.new("RGB", (len(names) * (width + 2) + 2, height), "white")
    for i, lines in enumerate(texts):
        place = Image.new("RGB", (width, height), "white")  # which cuts what is too wide
        ImageDraw.Draw(place).multiline_text((0, 1), "\n".join(lines), "black", font, spacing=2)
        header.paste(place, (2 + i * (width + 2), 0))
    return header


def _lines(name: str, font: Any, width: int) -> list[str]:
    """A name in lines of as many letters as fit into so many pixels."""
    fewest, lines = max(1, int(width / font.getlength("m"))), list[str]()
    name = name[: 4 * fewest * LINES + 1]  # more than this never fits
    for letters in range(4 * fewest, fewest - 1, -1):
        lines = textwrap.wrap(name, letters, max_lines=LINES, placeholder="…")
        if all(font.getlength(line) <= width for line in lines):
            break
    return lines


def _stacked(parts: Sequence[Image.Image]) -> Image.Image:
    """Pictures below each other."""
    size = max(part.width for part in parts), sum(part.height for part in parts)
    sheet, top = Image.new("RGB", size, "white"), 0
    for part in parts:
        sheet.paste(part, (0, top))
        top += part.height
    return sheet


def save_png(image: Image.Image, path: str | Path, metadata: Any = None) -> None:
    """Write a PNG with `metadata` (default: the image's own) as JSON in the text chunk "smalti".

    Raises ValueError if there is a file `path` that smalti did not write.
    """
    path = expand(path)
    check_own(path, is_own)
    metadata = image.info.get("smalti", {}) if metadata is None else metadata
    chunk = PngInfo()
    chunk.add_text(CHUNK, json.dumps(metadata))
    with replacing(path) as temporary:
        image.save(temporary, format="PNG", pnginfo=chunk)


def is_own(path: Path) -> bool:
    """Whether a file is a PNG that smalti wrote."""
    try:
        with Image.open(path) as image:
            return image.format == "PNG" and CHUNK in image.info
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False
