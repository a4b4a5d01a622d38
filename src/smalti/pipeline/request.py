"""What a pipeline is asked for: classes or prompts in turn, cut into batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from smalti.arguments import whole
from smalti.engine.step import Known
from smalti.text.prompts import checked

Asked = dict[str, Any]
"""The condition of one image, as its metadata say it: class and class_name, or text and, where one
was given, negative."""


class Part(NamedTuple):
    """Images drawn together."""

    offset: int
    """Place of the first in the call."""
    first: int
    """Number of the first in the request."""
    asked: list[Asked]

    def rows(self, known: Known | None) -> Known | None:
        """The known codes of these images."""
        if known is None:
            return None
        end = self.offset + len(self.asked)
        return Known(known.codes[self.offset : end], known.mask[self.offset : end])


def parts(asked: Sequence[Asked], n: int | None, first: int, batch: int | None) -> list[Part]:
    """Images first ... first + n - 1 of a request, conditions in turn, in batches.

    n None is one of each condition, batch None all at once. Raises ValueError for bad numbers.
    """
    n = len(asked) if n is None else whole(n, "n", 1)
    first, batch = whole(first, "first", 0), n if batch is None else whole(batch, "batch", 1)
    if not asked:
        raise ValueError("the number of classes or prompts must be at least 1, got 0")
    turns = [asked[(first + i) % len(asked)] for i in range(n)]
    return [Part(i, first + i, turns[i : i + batch]) for i in range(0, n, batch)]


def prompted(text: Any, negative: Any = None) -> list[Asked]:
    """A prompt or several, with one negative prompt for all or one for each."""
    if text is None:
        raise ValueError("this pipeline draws from texts: give it a prompt")
    return _with(checked(text), negative)


def nothing(texts: bool, negative: Any = None) -> list[Asked]:
    """No class; or, of a pipeline that draws from `texts`, no text."""
    if texts:
        return _with([""], negative)
    if negative is not None:
        raise ValueError(f"this pipeline draws classes, not texts, got {negative!r}")
    return [{"class": None}]


def _with(texts: list[str], negative: Any) -> list[Asked]:
    if negative is None:
        return [{"text": t} for t in texts]
    negatives = checked(negative, "negative prompt")
    if len(negatives) not in (1, len(texts)):
        raise ValueError(
            f"give one negative prompt or one for each of the {len(texts)} prompts, "
            f"got {len(negatives)}"
        )
    negatives = negatives * len(texts) if len(negatives) == 1 else negatives
    return [{"text": t, "negative": u} for t, u in zip(texts, negatives, strict=True)]
