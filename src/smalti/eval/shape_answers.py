"""How often a pipeline of text and pictures does what documents of drawn shapes ask for, as their
oracles judge it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from PIL import Image

from smalti.data.shape_documents import Script, ShapeDocuments, check

ASKED = ("draw", "caption", "ask", "describe", "edit", "riddle", "withheld riddle", "fact", "talk")
"""Tasks that have one right answer; of a conversation the last one counts, all before it are given
as they should be."""


class Judged(NamedTuple):
    """A document and what was made of it."""

    script: Script
    made: str | Image.Image
    right: bool


class Answers(Protocol):
    """What is asked of a pipeline: the text or the picture that follows on each document."""

    def follow(
        self, documents: Sequence[Sequence[str | Image.Image]], picture: bool, *, seed: int = 0
    ) -> Sequence[str | Image.Image]: ...


def judged(pipe: Answers, task: str, count: int, seed: int = 1, batch: int = 32) -> list[Judged]:
    """Documents of a task that no training has seen, and what the pipeline makes of them."""
    documents, found = ShapeDocuments(count, seed, (task,)), list[Judged]()
    for at in range(0, count, batch):
        some = [documents.script(i) for i in range(at, min(at + batch, count))]
        for picture in (False, True):  # a conversation ends with either
            scripts = [one for one in some if isinstance(one.answer, str) != picture]
            prompts = [
                [c if isinstance(c, str) else c.draw() for c, _ in script.parts[:-1]]
                for script in scripts
            ]
            made = pipe.follow(prompts, picture, seed=seed + at) if prompts else []
            for script, answer in zip(scripts, made, strict=True):
                plain = answer if isinstance(answer, str) else np.asarray(answer)
                found.append(Judged(script, answer, check(script, plain)))
    return found


def interval(right: int, count: int) -> tuple[float, float]:
    """The 95 % interval of a share by Wilson 1927 ("Probable inference, the law of succession, and
    statistical inference")."""
    z, p = 1.96, right / count
    middle, wide = (
        p + z * z / (2 * count),
        z * (p * (1 - p) / count + z * z / (4 * count**2)) ** 0.5,
    )
    return (middle - wide) / (1 + z * z / count), (middle + wide) / (1 + z * z / count)
