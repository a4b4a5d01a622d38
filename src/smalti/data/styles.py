"""Emoji in several styles of art with names and categories: `styles:FILE.parquet`.

A row holds the picture of an emoji in one style: `image`, `caption` (its name), `keywords`, `label`
and `group` (its category), `codepoints` and `style`. A caption says the style behind the name,
'grinning face, noto', so that a model draws it in the style that is asked for; and all styles of
an emoji are held out together, as their keys agree up to '#'.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from smalti.config import no_such
from smalti.data.decode import decode
from smalti.data.source import Example, describe, digest

COLUMNS = ("image", "caption", "keywords", "label", "group", "codepoints", "style")


def open_styles(path: str) -> Styles:
    """The file at `path`. Raises ValueError if it is missing, or holds something else."""
    file = Path(path).expanduser()
    if not file.is_file():
        raise ValueError(f"styles: {file} does not exist; {no_such(file)}")
    try:
        table = pq.read_table(file)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{file} is not a parquet file: {error}") from None
    if missing := [name for name in COLUMNS if name not in table.column_names]:
        raise ValueError(
            f"{file} has no column {missing[0]!r}; emoji in styles have {', '.join(COLUMNS)}"
        )
    return Styles(table.select(COLUMNS), f"styles:{path}")


class Styles:
    """The pictures, over white. Keys are code points and a style, such as '1f44b#noto'."""

    def __init__(self, table: Any, name: str) -> None:
        self.name = name
        self.skipped: dict[str, str] = {}
        self._table = table
        rows = {name: table[name].to_pylist() for name in COLUMNS if name != "image"}
        self._labels = np.asarray(rows["label"], np.int64)
        named = dict(zip(rows["label"], rows["group"], strict=True))
        self.classes = [named.get(i, "") for i in range(max(named, default=-1) + 1)]
        self._styles: list[str] = rows["style"]
        self._names: list[str] = rows["caption"]
        self._words: list[list[str]] = rows["keywords"]
        self._codes: list[str] = rows["codepoints"]

    @property
    def styles(self) -> list[str]:
        """Their names, each once."""
        return sorted(set(self._styles))

    def __len__(self) -> int:
        return len(self._codes)

    def __getitem__(self, i: int) -> Example:
        data = self._table["image"][i].as_py()
        return Example(decode(data, f"{self.name}, {self.key(i)}"), self.label(i), self.caption(i))

    def label(self, i: int) -> int:
        return int(self._labels[i])

    def caption(self, i: int) -> str:
        return f"{self._names[i]}, {self._styles[i]}"

    def wordings(self, i: int) -> list[str]:
        """Its name alone, and its category and each keyword with the style."""
        about = [self.classes[self.label(i)], *(self._words[i] or [])]
        return [self._names[i], *(f"{word.strip()}, {self._styles[i]}" for word in about)]

    def key(self, i: int) -> str:
        return f"{self._codes[i]}#{self._styles[i]}"

    def size(self, i: int) -> int:
        return 0

    def fingerprint(self) -> str:
        return digest([self.classes, *describe(self)])
