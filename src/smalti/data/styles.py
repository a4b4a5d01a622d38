"""Emoji in several styles of art with names and categories: `styles` or `styles:FILE.parquet`.

`styles` is the file that comes with smalti, of 32 pixels in the styles of Noto, Twemoji and Fluent;
show `CREDIT` beside what is made of it. Its licences are in `packs/LICENSE.md`.

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
from smalti.data.source import CLASSES, Example, Source, describe, digest

CREDIT = (
    "Noto Emoji, Google, Apache-2.0; Twemoji, (c) Twitter, Inc and other contributors, CC-BY 4.0; "
    "Fluent Emoji, (c) Microsoft Corporation, MIT"
)
PACK = Path(__file__).parent / "packs" / "styles-32.parquet"
"""The file that comes with smalti; `benchmarks/styles_pack.py` makes it."""
WHOLE = "emoji3-64.parquet"
"""What that file was made of, of 64 pixels, which `smalti/emoji64` learned: the same emoji are held
out of both."""
KINDS = {
    "image": pa.types.is_binary,
    "caption": pa.types.is_string,
    "keywords": lambda kind: pa.types.is_list(kind) and pa.types.is_string(kind.value_type),
    "label": pa.types.is_integer,
    "group": pa.types.is_string,
    "codepoints": pa.types.is_string,
    "style": pa.types.is_string,
}
"""What each column holds."""
COLUMNS = tuple(KINDS)


def open_styles(path: str = "") -> Styles:
    """The file at `path`; '' is the one that comes with smalti. Raises ValueError if it is missing,
    or holds something else."""
    file = Path(path).expanduser() if path else PACK
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
    table = table.select(COLUMNS)
    _check(table, file)
    return Styles(table, f"styles:{path}" if path else "styles")


def _check(table: Any, file: Path) -> None:
    """Raise ValueError, naming the column, for values that cannot be."""
    for name, fits in KINDS.items():
        kind, column = table.schema.field(name).type, table[name]
        if not fits(kind):
            raise ValueError(f"{file}: column {name!r} holds {kind}, which no {name} can be")
        if name != "keywords" and column.null_count:
            raise ValueError(f"{file}: column {name!r} has {column.null_count} rows without one")
    labels = set(table["label"].to_pylist())
    if bad := [label for label in labels if not 0 <= label < CLASSES]:
        raise ValueError(f"{file}: labels must be in [0, {CLASSES}), got {bad[0]}")
    pairs = set(zip(table["label"].to_pylist(), table["group"].to_pylist(), strict=True))
    if len(pairs) != len(labels):
        raise ValueError(f"{file}: a label must have one group, got several of the same")


class Styles(Source):
    """The pictures, over white. Keys are code points and a style, such as '1f44b#noto'."""

    credit = CREDIT

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

    @staticmethod
    def group(key: str) -> str:
        """All styles of an emoji are held out together: their keys agree up to '#'."""
        return key.partition("#")[0]

    @staticmethod
    def style(key: str) -> str:
        return key.partition("#")[2]

    def size(self, i: int) -> int:
        return 0

    def fingerprint(self) -> str:
        sizes = [len(data) for data in self._table["image"].to_pylist()]
        return digest([self.classes, sizes, *describe(self)])
