"""How like what people wrote a caption is: CIDEr and CIDEr-D (Vedantam, Lawrence Zitnick and Parikh
2015, arXiv:1411.5726), as the authors' code and that of COCO's captions compute them.

Runs of 1 to 4 words are counted and weighed by how few pictures have them; the score of a caption
is the mean cosine with those of people, times 10.

Unusual: what COCO's code prints as CIDEr is CIDEr-D, which cuts counts that are above those of
people and falls with the difference of lengths. Words are not stemmed, as in both codes.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

LONGEST = 4
"""Words of the longest runs."""
SIGMA = 6.0
"""Of the bell curve over differences of lengths."""
WORD = re.compile(r"\w+(?:['’-]\w+)*")

Run = tuple[str, ...]


def words(text: str) -> list[str]:
    """The words of a text in lower case: letters, digits, and ' and - inside; no punctuation. The
    official codes take the Penn Treebank tokenizer of Stanford's parser, which also parts "don't"
    into "do" and "n't"."""
    return WORD.findall(text.lower())


def cider(
    captions: Sequence[str], people: Sequence[Sequence[str]], defended: bool = True
) -> np.ndarray:
    """The score of each caption against those that people wrote of the same picture, (N,), from 0
    to 10. `defended` gives CIDEr-D, else it is CIDEr.

    Raises ValueError for fewer than 2 pictures, of which no run of words is rarer than another,
    and for a picture of which nobody wrote anything.
    """
    if len(captions) != len(people) or len(captions) < 2:
        raise ValueError(
            "cider needs captions of at least 2 pictures and of each what people wrote, got "
            f"{len(captions)} and {len(people)}"
        )
    if not all(people):
        raise ValueError("cider needs at least one text of people of each picture")
    theirs = [[_counts(text) for text in texts] for texts in people]
    pictures = Counter(run for some in theirs for run in set().union(*some))
    weights = {run: math.log(len(captions) / count) for run, count in pictures.items()}
    unseen = math.log(len(captions))

    def weighed(counts: Counter[Run]) -> list[dict[Run, float]]:
        by_length: list[dict[Run, float]] = [{} for _ in range(LONGEST)]
        for run, count in counts.items():
            by_length[len(run) - 1][run] = count * weights.get(run, unseen)
        return by_length

    scores = np.zeros(len(captions))
    for i, (caption, some) in enumerate(zip(captions, theirs, strict=True)):
        mine = _counts(caption)
        near = [_likeness(weighed(mine), weighed(their), defended) for their in some]
        if defended:
            falls = [_bell(_length(mine) - _length(their)) for their in some]
            near = [likeness * fall for likeness, fall in zip(near, falls, strict=True)]
        scores[i] = 10 * sum(near) / len(near)
    return scores


def _counts(text: str) -> Counter[Run]:
    """How often each run of up to four words is in a text."""
    parts = words(text)
    return Counter(
        tuple(parts[at : at + length])
        for length in range(1, LONGEST + 1)
        for at in range(len(parts) - length + 1)
    )


def _length(counts: Counter[Run]) -> int:
    """The number of words of a text. (The official code counts pairs, one less: differences are
    the same.)"""
    return sum(count for run, count in counts.items() if len(run) == 1)


def _bell(apart: int) -> float:
    """What a likeness falls to where lengths are so far apart."""
    return math.exp(-(apart**2) / (2 * SIGMA**2))


def _likeness(
    mine: Sequence[dict[Run, float]], theirs: Sequence[dict[Run, float]], cut: bool
) -> float:
    """The mean over lengths of the cosine of two texts; `cut` takes nothing more often than people
    wrote it."""
    total = 0.0
    for a, b in zip(mine, theirs, strict=True):
        both = ((weight, b[run]) for run, weight in a.items() if run in b)
        product = sum((min(x, y) if cut else x) * y for x, y in both)
        norms = math.hypot(*a.values()) * math.hypot(*b.values())
        total += product / norms if norms else 0.0
    return total / len(mine)
