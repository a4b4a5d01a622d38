"""Where images come from: what every source says of itself, and the held-out split."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from types import MappingProxyType
from typing import NamedTuple, Protocol

import numpy as np
from PIL import Image

from smalti.data.columns import choices
from smalti.progress import say_once

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


class Keyed(Protocol):
    """A fixed, ordered set of examples with names, so that some of them can be held out."""

    name: str
    """The string that opened it, such as 'folder:cats'."""

    def __len__(self) -> int: ...

    def key(self, i: int) -> str:
        """Stable name of example i; its `group` decides whether it is held out."""
        ...

    @staticmethod
    def group(key: str) -> str:
        """What the example of a key is held out together with: all whose group is the same."""
        return key


class Source(Keyed, Protocol):
    """A fixed, ordered set of images. Only `source[i]` decodes; all else is cheap.

    A source is a subclass, and says of the rest what it has: `data.open.class_of` gives files that
    keep its name and keys alone what the class says.
    """

    classes: list[str]
    """Names by label; [] if unlabelled."""
    skipped: dict[str, str]
    """Names of what could not be used, with the reason; see `smalti.data.skipped`."""
    credit: str = ""
    """Whose art the images are, where that must be said."""
    recognised: bool = False
    """Whether `eval.matching` reads off the pixels what their captions say."""
    local: bool = False
    """Whether the images are files of this machine, which may change."""
    notes: list[str] = []
    """What a user should know of it, a line each."""
    columns: list[str] = []
    """The columns that its labels and captions could be taken from."""
    maps: Mapping[str, Mapping[str, str]] = MappingProxyType({})
    """Files of maps by the kind of map and by the picture's file without its ending."""

    def __getitem__(self, i: int) -> Example: ...
    def label(self, i: int) -> int: ...
    def caption(self, i: int) -> str: ...

    def keywords(self, i: int) -> str:
        """The keywords of example i, 'cat, animal'; '' = none."""
        return ""

    def wordings(self, i: int) -> Sequence[str]:
        """In what other words the caption of example i can be said."""
        return ()

    @staticmethod
    def style(key: str) -> str:
        """The style of art of the example of a key; '' of a source that has no styles."""
        return ""

    def size(self, i: int) -> int:
        """Bytes of the file of example i; 0 where it has none of its own."""
        ...

    def fingerprint(self) -> str:
        """16 hex digits over keys, labels, captions and file sizes."""
        ...


def split(source: Keyed, holdout: float) -> tuple[list[int], list[int]]:
    """Indices (train, held out), ascending; the fraction `holdout` is held out.

    A group (see `Keyed.group`) is never divided. Those with the smallest sha256 are held out, at
    least one and never all (none if `holdout` is 0), so the split depends neither on order nor on a
    seed.
    Where groups make it much smaller or larger than asked for, a line says so.
    Raises ValueError if `holdout` is outside [0, 1).
    """
    if not 0 <= holdout < 1:
        raise ValueError(f"holdout must be in [0, 1), got {holdout}")
    group = [source.group(source.key(i)) for i in range(len(source))]
    ranked = sorted(set(group), key=lambda g: hashlib.sha256(g.encode()).digest())
    count = min(max(1, round(len(ranked) * holdout)), len(ranked) - 1) if holdout else 0
    held_groups = set(ranked[: max(count, 0)])
    train = [i for i, g in enumerate(group) if g not in held_groups]
    held = [i for i, g in enumerate(group) if g in held_groups]
    if holdout and group and (odd := _uneven(group, len(held), count / len(ranked))):
        say_once(f"{source.name}: {odd}")
    return train, held


def _uneven(group: list[str], held: int, share: float) -> str:
    """Why the `held` ones are none, or far from the share that was meant; '' if they are not."""
    (name, most), *_ = Counter(group).most_common(1)
    if len(group) == 1:
        return "nothing is held out of one example"
    if not held:
        return f"nothing is held out: all {len(group)} examples have the key {name!r}"
    part = held / len(group)
    if share / 2 <= part <= 2 * share and part <= (1 + share) / 2:
        return ""
    return (
        f"{held} of {len(group)} examples are held out, not {share:.0%}: those of one key stay "
        f"together, and {most} have the key {name!r}"
    )


def credited(*credits: object) -> str:
    """Whose art pictures are that learned of all of these: their parts, each once."""
    parts = (part for credit in credits if credit for part in str(credit).split("; "))
    return "; ".join(dict.fromkeys(parts))


def wordings(source: Source, i: int) -> list[str]:
    """All texts that a source has of image i, each once: its caption, its keywords, and in what
    other words it says the same."""
    texts = (source.caption(i), source.keywords(i), *source.wordings(i))
    return [text for text in dict.fromkeys(texts) if text.strip()]


def require_captions(source: Source) -> None:
    """Raise ValueError if no image of the source has a caption."""
    if not any(source.caption(i) for i in range(len(source))):
        raise ValueError(f"the images of {source.name} have no captions{_columns(source, 'text')}")


def require_labels(source: Source) -> None:
    """Raise ValueError if no image has a label and the source has columns that could hold them.

    Images that come with nothing but themselves may be drawn without classes; a line says so.
    """
    if any(source.label(i) >= 0 for i in range(len(source))):
        return
    if columns := _columns(source, "label"):
        raise ValueError(f"the images of {source.name} have no labels{columns}")
    say_once(f"{source.name}: the images have no labels; all are of one class")


def _columns(source: Source, role: str) -> str:
    """Which columns of a source could take a role that none has; '' if there are none, or if its
    name says that none shall."""
    path, chosen = choices(source.name)
    if not source.columns or chosen.get(role) == "":
        return ""
    what = "trains without classes" if role == "label" else "takes none"
    return (
        f"; it has the columns {', '.join(source.columns)}: "
        f"'{path}?{role}=COLUMN' takes one, '{path}?{role}=' {what}"
    )


def class_labels(values: Sequence[object], where: str) -> tuple[np.ndarray, list[str]]:
    """Integers, strings or None to (labels (n,) int64, class names).

    Integers stay and their names are their digits; strings become classes in the order of
    `class_order`; None becomes -1. Floats that are whole are integers, NaN is None.
    Raises ValueError for anything else, for negative labels other than -1, and for labels from
    `CLASSES` on: they are no class numbers.
    """
    values = [_whole(v) for v in values]
    labelled = [v for v in values if v is not None]
    for v in labelled:
        if not isinstance(v, str | int | np.integer) or isinstance(v, bool):
            raise ValueError(f"{where}: labels must be integers or strings, got {v!r}")
    names = {v for v in labelled if isinstance(v, str)}
    if (
        names
        and (number := next((v for v in labelled if not isinstance(v, str)), None)) is not None
    ):
        raise ValueError(
            f"{where}: labels must be all integers or all strings, got {number!r} beside "
            f"{min(names)!r}"
        )
    if names:
        classes = sorted(names, key=class_order)
        index: dict[object, int] = {name: i for i, name in enumerate(classes)}
        return np.array([index.get(v, -1) for v in values], dtype=np.int64), classes
    numbers = [-1 if v is None else int(v) for v in values]  # pyright: ignore[reportArgumentType]
    for v in numbers:
        if not -1 <= v < CLASSES:
            raise ValueError(f"{where}: labels must be in [0, {CLASSES}) or -1 = none, got {v}")
    return np.array(numbers, np.int64), [str(i) for i in range(max(numbers, default=-1) + 1)]


def class_order(name: str) -> tuple[bool, Decimal, str]:
    """What class names are sorted by: numbers come first, by their value, then other names, letter
    by letter: -1, 0, 2, 10, cat, dog."""
    number = re.fullmatch(r"[+-]?\d+(\.\d+)?", name, re.ASCII)
    return not number, Decimal(name if number else 0), name


def _whole(value: object) -> object:
    """A whole float, which is how tables write integers beside missing ones, as an integer."""
    if isinstance(value, float | np.floating):
        if np.isnan(value):
            return None
        return int(value) if float(value).is_integer() else value
    return value


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
