"""Which column of a table holds the images, the labels and the captions.

Each role has its usual names, the surest first. Of several the first is taken; else the only column
that ends in one, such as `coarse_label`. 'parquet:PATH?label=COLUMN&text=COLUMN' chooses others,
and '?label=' none.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from smalti.config import did_you_mean

NAMES: dict[str, tuple[str, ...]] = {
    "image": (
        *("image", "img", "png", "jpg", "webp"),
        *("jpeg", "picture", "photo", "images", "image_bytes"),
    ),
    "file": (
        *("file_name", "filename", "file", "file_path", "filepath"),
        *("image", "img", "image_path", "path", "image_file"),
    ),
    "label": (
        *("label", "labels", "class", "classes", "class_name", "class_label", "class_id"),
        *("category", "category_name", "category_id", "fine_label", "target", "cls"),
    ),
    "text": (
        *("caption", "text", "captions", "texts", "prompt", "prompts", "description"),
        *("txt", "alt_text", "sentence", "sentences", "title"),
    ),
    "key": ("key", "__key__", "id"),
    "keywords": (),
}
"""Usual names of the columns of each role; `file` is the one of a metadata file, and `keywords` are
read where they are asked for alone."""

OPTIONS = ("image", "label", "text", "key", "keywords", "split")
"""What may stand behind the '?' of a source."""


def choices(text: str) -> tuple[str, dict[str, str]]:
    """'PATH?label=a&text=b' to PATH and {'label': 'a', 'text': 'b'}.

    A '?' of a path or of a pattern is left alone. Raises ValueError for options that are unknown.
    """
    path, mark, query = text.rpartition("?")
    if not mark or "=" not in query or Path(text.partition(":")[2] or text).exists():
        return text, {}
    parts = (part.partition("=") for part in query.split("&"))
    pairs = {name: column for name, _, column in parts}
    for name in pairs:
        if name not in OPTIONS:
            hint = did_you_mean(name, OPTIONS)
            allowed = ", ".join(f"{o}=" for o in OPTIONS)
            raise ValueError(f"{text}: {name!r} is not known{hint}; behind ? may stand {allowed}")
    return path, pairs


def choose(role: str, columns: Sequence[str], asked: str | None, where: str) -> str | None:
    """The column for a role among those of a fitting type, or None if none is meant for sure.

    `asked` is the column that the user named, '' for none. Raises ValueError if it is not there.
    """
    if asked == "":
        return None
    if asked is not None:
        if asked not in columns:
            what = role if role == "keywords" else f"a {role}"
            raise ValueError(
                f"{where}: {asked!r} is no column that holds {what}{did_you_mean(asked, columns)}"
                f"; it has {', '.join(columns) or 'none'}"
            )
        return asked
    names = NAMES[role]
    exact = [name for name in names if name in columns]
    if exact or role == "key":  # a key decides what is held out: no other name, ever
        return exact[0] if exact else None
    lower = {c.lower(): c for c in reversed(columns)}
    alike = [lower[name] for name in names if name in lower]
    ends = [c for c in columns if c.lower().endswith(tuple(f"_{name}" for name in names))]
    return alike[0] if alike else ends[0] if len(ends) == 1 else None


def unused(columns: Iterable[str], label: str | None, text: str | None, used: Iterable[str]) -> str:
    """A note on the columns that are not used, and on what is; '' if all are."""
    taken = {*used, label, text}
    left = [c for c in columns if c not in taken]
    if not left:
        return ""
    labels = f"labels are column {label!r}" if label else "there are no labels"
    captions = f"captions {text!r}" if text else "no captions"
    more = f" and {len(left) - 8} more" if len(left) > 8 else ""
    return (
        f"{labels}, {captions}; not used: {', '.join(left[:8])}{more} "
        "(?label=COLUMN and ?text=COLUMN behind the source choose others)"
    )
