"""Train, validation and test parts of a dataset, as folders and files are named."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import PurePosixPath

KINDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation", "heldout", "holdout"),
}
SPLITS = {name: kind for kind, names in KINDS.items() for name in names}
"""What each usual name of a part means."""


def split_folders(files: Iterable[str]) -> dict[str, list[str]]:
    """The folders that hold parts of a dataset: {parent: names}, parents from the top down.

    `files` are paths with forward slashes. Names of two different parts are needed: a `train` among
    other names may be a class. At the top it is also enough if all names are those of parts.
    """
    below: dict[str, set[str]] = {}
    for file in files:
        folders = PurePosixPath(file).parent.parts
        for depth, name in enumerate(folders):
            below.setdefault("/".join(folders[:depth]), set()).add(name)
    parts: dict[str, list[str]] = {}
    for parent, names in sorted(below.items(), key=lambda item: item[0].count("/")):
        named = sorted(n for n in names if _kind(n))
        kinds = {_kind(n) for n in named}
        if len(kinds) > 1 or (not parent and len(named) == len(names)):
            parts[parent] = named
    return parts


def _kind(folder: str) -> str:
    """The part that a folder's name means, '' if none: of 'val', 'val2017', 'Training_set'."""
    pattern = r"([a-z]+?)[-_ .]?(set|data|images?|imgs?|split)?[-_ .]?\d*"
    match = re.fullmatch(pattern, folder.lower())
    return SPLITS.get(match[1], "") if match else ""


def split_of(file: str) -> str:
    """The part that a file of a dataset belongs to, '' if its path does not say.

    'train-00000-of-00005.parquet' is of 'train' and 'extra-00000-of-00001.parquet' of 'extra', as
    Hugging Face names them; else a usual name in the file or a folder decides: 'cats_val.parquet',
    'test/0.parquet'.
    """
    path = PurePosixPath(file)
    if shard := re.fullmatch(r"(.+?)[-_]\d{3,}-of-\d{3,}", path.stem):
        words = _words(shard[1])
        return words[-1] if words else shard[1]
    words = [w for part in (path.stem, *reversed(path.parent.parts)) for w in _words(part)]
    return words[0] if words else ""


def _words(text: str) -> list[str]:
    """The parts of datasets that a name speaks of."""
    return [SPLITS[w] for w in re.split(r"[^a-z]+", text.lower()) if w in SPLITS]
