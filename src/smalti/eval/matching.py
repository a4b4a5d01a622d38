"""How far drawn shapes are what their captions say, by the exact oracle of `data.shapes`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from smalti.data.shapes import COLOURS, POSITIONS, SHAPES, SIZES, Attributes, recognise

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
        if caption not in CAPTIONS:
            raise ValueError(f"captions must be like {next(iter(CAPTIONS))!r}, got {caption!r}")
    pictures = draw(text=captions, n=len(captions), seed=seed)
    right = np.zeros((len(captions), len(Attributes._fields)), bool)
    for row, caption, picture in zip(right, captions, pictures, strict=True):
        if (seen := recognise(np.asarray(picture))) is not None:
            row[:] = [a == b for a, b in zip(seen, CAPTIONS[caption], strict=True)]
    shares = dict(zip(Attributes._fields, right.mean(0).tolist(), strict=True))
    return shares | {"all": float(right.all(1).mean()), "images": float(len(captions))}
