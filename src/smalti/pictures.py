"""Pictures as people and programs take them: PIL images, sheets of many, PNGs that say how they
were drawn."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from smalti.files import check_own, expand, replacing

CHUNK = "smalti"
"""The text chunk by which a PNG of smalti is known."""


def to_pil(images: Tensor) -> list[Image.Image]:
    """uint8 images (B, 3, H, W) as pictures."""
    return [Image.fromarray(x) for x in images.permute(0, 2, 3, 1).cpu().numpy()]


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
    except (OSError, ValueError, SyntaxError):
        return False
