"""How far drawn shapes are what was asked for, by the exact oracle of `data.shapes`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from smalti.data.drawn_shapes import COLOURS, POSITIONS, SHAPES, SIZES, Attributes, recognise

CAPTIONS = {
    about.caption: about
    for about in (
        Attributes(colour, shape, size, position)
        for colour in COLOURS
        for shape in SHAPES
        for size in SIZES
        for position in POSITIONS
    )
}
"""All 300 captions and what they say."""


def matching(
    draw: Callable[..., Sequence[Any]], captions: Sequence[str] = (), seed: int = 0
) -> dict[str, float]:
    """Shares of pictures whose colour, shape, size, position, and all four, are as asked for.

    `draw` is a pipeline: called with text, n and seed, it gives a picture for each caption, of
    which the default is all 300. A picture that shows no shape is wrong in everything.
    Raises ValueError for a caption that is none of the 300.
    """
    captions = captions or list(CAPTIONS)
    for caption in captions:
        wanted(caption)
    pictures = draw(text=captions, n=len(captions), seed=seed)
    found = hits(zip(map(np.asarray, pictures), captions, strict=True))
    return {name: float(right.mean()) for name, right in found.items()} | {"images": len(captions)}


def hits(pairs: Iterable[tuple[np.ndarray, str]]) -> dict[str, np.ndarray]:
    """Which pictures, uint8 (H, W, 3), show what the text with each asks for: a caption, or a class
    such as "red circle". (N,) of each attribute; "all" are right in everything that is asked for.

    Raises ValueError if there are none, or for another text.
    """
    found: dict[str, list[bool]] = {}
    for picture, text in pairs:
        seen = recognise(picture)
        told = wanted(text).items()
        right = {name: seen is not None and getattr(seen, name) == value for name, value in told}
        for name, hit in (right | {"all": all(right.values())}).items():
            found.setdefault(name, []).append(hit)
    if not found:
        raise ValueError("there are no pictures to look at")
    return {name: np.array(right) for name, right in found.items()}


def wanted(text: str) -> dict[str, str]:
    """What a caption or a class of `shapes` says of a picture: its attributes by name."""
    if text in CAPTIONS:
        return CAPTIONS[text]._asdict()
    colour, _, shape = text.partition(" ")
    if colour in COLOURS and shape in SHAPES:
        return {"colour": colour, "shape": shape}
    raise ValueError(
        f"captions must be like {next(iter(CAPTIONS))!r}, classes like 'red circle', got {text!r}"
    )
