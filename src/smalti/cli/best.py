"""Of many pictures of a prompt those that fit it best: what `smalti sample --best-of` keeps.

DALL-E shows the best of 512 by a CLIP (Ramesh et al. 2021, arXiv:2102.12092). Imports torch when it
looks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from smalti.models.towers import Matcher


def check_choice(best_of: int, towers: str | None) -> None:
    """Raise ValueError unless a choice is asked for together with the towers that make it."""
    if best_of < 1:
        raise ValueError(f"--best-of must be at least 1, got {best_of}")
    if (best_of > 1) != (towers is not None):
        raise ValueError("--best-of K, above 1, and --towers DIR go together")


def rounds(n: int, first: int, each: int, count: int) -> range:
    """The first numbers of so many rounds of n images of the same conditions, of which there are
    `each`, in the same turn."""
    turns = -(-n // each) * each
    return range(first, first + count * turns, turns) if turns > 0 else range(first, first + 1)


def best(images: Sequence[Any], n: int, prompts: Sequence[str], matcher: Matcher) -> list[Any]:
    """So many of the images, of a prompt each, as many of each as the first n have: those whose
    features are nearest to their prompt's by the towers of `matcher`, the nearest first.

    Raises ValueError if images were drawn for nothing.
    """
    import numpy as np
    import torch

    from smalti.data.transforms import center_crop
    from smalti.eval.towers import features_of

    if not all(prompts):
        raise ValueError("--best-of is of pictures of a prompt or a class: give --text")
    side = matcher.towers.config.size
    pixels = [np.asarray(center_crop(image.convert("RGB"), side)) for image in images]
    seen = [
        matcher.see(torch.from_numpy(np.stack(pixels[i : i + 64])).permute(0, 3, 1, 2))
        for i in range(0, len(pixels), 64)
    ]
    fit = (torch.cat(seen) * features_of(matcher, prompts)).sum(1).tolist()
    ranked = sorted(range(len(images)), key=lambda i: -fit[i])
    of_each = {name: iter([i for i in ranked if prompts[i] == name]) for name in set(prompts)}
    return [images[next(of_each[name])] for name in prompts[:n]]
