"""Where images come from: one small protocol, the strings that open it, and the held-out split."""

from __future__ import annotations

import hashlib
import json
import typing
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from PIL import Image

from smalti.config import did_you_mean

SCHEMES = {
    "emoji": "emoji or emoji:skin_tones",
    "shapes": "shapes or shapes:COUNT",
    "folder": "folder:PATH",
    "parquet": "parquet:PATH",
    "hub": "hub:NAME or hub:NAME:SPLIT",
}


CLASSES = 1 << 20
"""Integer labels are class numbers below this."""


class Example(NamedTuple):
    """One decoded image and what is known of it."""

    image: Image.Image
    """RGB, any size."""
    label: int
    """Index into the source's classes; -1 = none."""
    caption: str
    """'' = none."""


class Source(Protocol):
    """A fixed, ordered set of images. Only `source[i]` decodes; all else is cheap."""

    name: str
    """The string that opened it, such as 'folder:cats'."""
    classes: list[str]
    """Names by label; [] if unlabelled."""
    skipped: dict[str, str]
    """Names of what could not be used, with the reason; see `smalti.data.skipped`."""

    def __len__(self) -> int: ...
    def __getitem__(self, i: int) -> Example: ...
    def label(self, i: int) -> int: ...
    def caption(self, i: int) -> str: ...

    def key(self, i: int) -> str:
        """Stable name of example i. It decides the split, up to the first '#'."""
        ...

    def size(self, i: int) -> int:
        """Bytes of the file of example i; 0 where it has none of its own."""
        ...

    def fingerprint(self) -> str:
        """16 hex digits over keys, labels, captions and file sizes."""
        ...


def open_source(text: str) -> Source:
    """Open the source that `text` names, such as 'folder:cats' or 'emoji:skin_tones'.

    Raises ValueError if the scheme is unknown, or what it names is missing, empty or malformed.
    """
    scheme, _, rest = text.partition(":")
    if scheme == "emoji":
        from smalti.data.emoji import open_emoji

        return open_emoji(rest)
    if scheme == "shapes":
        from smalti.data.shapes import open_shapes

        return open_shapes(rest)
    if scheme not in SCHEMES:
        hint = did_you_mean(scheme, SCHEMES)
        allowed = "; ".join(SCHEMES.values())
        raise ValueError(f"unknown data source {text!r}{hint}; allowed: {allowed}")
    if not rest:
        raise ValueError(f"data source {text!r} names nothing; write {SCHEMES[scheme]}")
    if scheme == "folder":
        from smalti.data.folder import Folder

        return Folder(rest)
    if scheme == "parquet":
        from smalti.data.parquet import Parquet

        return Parquet(rest)
    from smalti.data.hub import open_hub

    return open_hub(rest)


def split(source: Source, holdout: float) -> tuple[list[int], list[int]]:
    """Indices (train, held out), ascending; the fraction `holdout` is held out.

    Keys that agree up to the first '#' are one group, and a group is never divided. The groups
    with the smallest sha256 are held out, at least one and never all (none if `holdout` is 0),
    so the split depends neither on order nor on a seed.
    Raises ValueError if `holdout` is outside [0, 1).
    """
    if not 0 <= holdout < 1:
        raise ValueError(f"holdout must be in [0, 1), got {holdout}")
    groups = [source.key(i).partition("#")[0] for i in range(len(source))]
    ranked = sorted(set(groups), key=lambda g: hashlib.sha256(g.encode()).digest())
    count = min(max(1, round(len(ranked) * holdout)), len(ranked) - 1) if holdout else 0
    held = set(ranked[: max(count, 0)])
    train = [i for i, g in enumerate(groups) if g not in held]
    return train, [i for i, g in enumerate(groups) if g in held]


def require_captions(source: Source) -> None:
    """Raise ValueError if no image of the source has a caption."""
    if not any(source.caption(i) for i in range(len(source))):
        raise ValueError(f"the images of {source.name} have no captions")


def class_labels(values: Sequence[object], where: str) -> tuple[np.ndarray, list[str]]:
    """Integers, strings or None to (labels (n,) int64, class names).

    Integers stay and their names are their digits; strings become classes in sorted order;
    None becomes -1. Raises ValueError for anything else, for negative labels other than -1, and for
    labels from `CLASSES` on: they are no class numbers.
    """
    given = [v for v in values if v is not None]
    if all(isinstance(v, int | np.integer) and not isinstance(v, bool) for v in given):
        numbers = [-1 if v is None else int(typing.cast(int, v)) for v in values]
        for v in numbers:
            if not -1 <= v < CLASSES:
                raise ValueError(f"{where}: labels must be in [0, {CLASSES}) or -1 = none, got {v}")
        count = max(numbers, default=-1) + 1
        return np.array(numbers, dtype=np.int64), [str(i) for i in range(count)]
    for v in given:
        if not isinstance(v, str):
            raise ValueError(f"{where}: labels must be all integers or all strings, got {v!r}")
    classes = sorted({str(v) for v in given})
    index = {name: i for i, name in enumerate(classes)}
    return np.array([-1 if v is None else index[str(v)] for v in values], dtype=np.int64), classes


def digest(rows: Iterable[object]) -> str:
    """16 hex digits of the sha256 of JSON values, one after another."""
    sha = hashlib.sha256()
    for row in rows:
        sha.update(json.dumps(row, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n")
    return sha.hexdigest()[:16]


def describe(source: Source) -> Iterable[tuple[str, int, str]]:
    """(key, label, caption) of every example, for fingerprints."""
    for i in range(len(source)):
        yield source.key(i), source.label(i), source.caption(i)
