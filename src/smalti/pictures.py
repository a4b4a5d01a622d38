"""Pictures as people and programs take them: PIL images, sheets of many, PNGs that say how they
were drawn."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from smalti.config import replacing


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


def save_png(image: Image.Image, path: Path, metadata: Any = None) -> None:
    """Write a PNG with `metadata` (default: the image's own) as JSON in the text chunk "smalti"."""
    metadata = image.info.get("smalti") if metadata is None else metadata
    chunk = PngInfo()
    if metadata is not None:
        chunk.add_text("smalti", json.dumps(metadata))
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        image.save(temporary, format="PNG", pnginfo=chunk)
