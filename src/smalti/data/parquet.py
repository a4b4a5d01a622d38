"""Parquet files of encoded images, such as those of Hugging Face datasets.

The image column holds the bytes of an image file, bare or as a struct {bytes, path}. It is the
column `image`, else `img`, `png`, `jpg`, `webp`, else the only column of such a type. Optional:
`label` (integer or string), `caption` or `text`, and `key` or `id` (else file name and row number).
All rows are used, whatever a `split` column says.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from smalti.data.decode import decode
from smalti.data.source import Example, class_labels, describe, digest

CACHE_BYTES = 1 << 30
"""Encoded images kept in memory, a whole row group at a time, least recently used out first."""


class Parquet:
    """`parquet:PATH`, one file or a folder of files (read in the order of their names).

    Labels, captions and keys are read when it is opened, images a row group at a time when they
    are wanted. Reading in order is cheap at any size; reading at random is so while the files fit
    in `CACHE_BYTES`.
    Raises ValueError naming the file that is missing, is no parquet file or has no image column.
    """

    def __init__(self, path: str) -> None:
        self.name = f"parquet:{path}"
        self.skipped: dict[str, str] = {}
        root = Path(path).expanduser()
        paths = sorted(root.glob("*.parquet")) if root.is_dir() else [root]
        if not paths:
            raise ValueError(f"{self.name}: no .parquet files in {path}")
        self._files = [_open(p) for p in paths]
        self._sizes = [p.stat().st_size for p in paths]
        self.column = _image_column(self._files[0].schema_arrow, paths[0])
        labels: list[object] = []
        self._captions: list[str] = []
        self._keys: list[str] = []
        self._groups: list[tuple[int, int]] = []  # (file, row group)
        starts = [0]
        for f, (file, p) in enumerate(zip(self._files, paths, strict=True)):
            if _image_column(file.schema_arrow, p) != self.column:
                raise ValueError(f"{p} has no image column {self.column!r}, unlike {paths[0]}")
            rows = _columns(file, p.stem)
            labels += rows["label"]
            self._captions += rows["caption"]
            self._keys += rows["key"]
            for g in range(file.num_row_groups):
                self._groups.append((f, g))
                starts.append(starts[-1] + file.metadata.row_group(g).num_rows)
        if starts[-1] == 0:
            raise ValueError(f"{self.name} holds no rows")
        self._starts = np.array(starts)
        self._labels, self.classes = class_labels(labels, self.name)
        self.classes = _class_names(self._files[0].schema_arrow) or self.classes
        if len(self.classes) <= self._labels.max():
            raise ValueError(
                f"{self.name}: label {self._labels.max()} but only {len(self.classes)} class names"
            )
        self._cache: OrderedDict[int, Any] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, i: int) -> Example:
        group = int(np.searchsorted(self._starts, i, side="right")) - 1
        value = self._images(group)[i - int(self._starts[group])].as_py()
        data = value.get("bytes") if isinstance(value, dict) else value
        where = f"{self.name}, row {i} ({self.key(i)})"
        if not data:
            raise ValueError(f"{where} holds no image bytes")
        return Example(decode(data, where), self.label(i), self.caption(i))

    def _images(self, group: int) -> Any:
        """The image column of one row group, as an Arrow chunked array."""
        with self._lock:
            if group not in self._cache:
                file, inner = self._groups[group]
                table = self._files[file].read_row_group(inner, columns=[self.column])
                self._cache[group] = table[self.column]
                while len(self._cache) > 1 and self._cached() > CACHE_BYTES:
                    self._cache.popitem(last=False)
            self._cache.move_to_end(group)
            return self._cache[group]

    def _cached(self) -> int:
        return sum(column.nbytes for column in self._cache.values())

    def label(self, i: int) -> int:
        return int(self._labels[i])

    def caption(self, i: int) -> str:
        return self._captions[i]

    def key(self, i: int) -> str:
        return self._keys[i]

    def size(self, i: int) -> int:
        return 0

    def fingerprint(self) -> str:
        return digest([self.classes, self._sizes, *describe(self)])


def _open(path: Path) -> Any:
    if not path.is_file():
        raise ValueError(f"parquet: {path} does not exist")
    try:
        return pq.ParquetFile(path, memory_map=True)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} is not a parquet file: {error}") from None


def _image_column(schema: Any, path: Path) -> str:
    found = [f.name for f in schema if _holds_bytes(f.type)]
    for name in ("image", "img", "png", "jpg", "webp"):
        if name in found:
            return name
    if len(found) != 1:
        columns = ", ".join(f"{f.name} ({f.type})" for f in schema)
        raise ValueError(f"{path} has no image column; it has {columns}")
    return found[0]


def _holds_bytes(kind: Any) -> bool:
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and _holds_bytes(kind.field("bytes").type)
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _columns(file: Any, stem: str) -> dict[str, list[Any]]:
    """The columns label, caption and key of one file, each with a value for every row."""
    schema = file.schema_arrow
    texts = [
        f.name for f in schema if pa.types.is_string(f.type) or pa.types.is_large_string(f.type)
    ]
    integers = [f.name for f in schema if pa.types.is_integer(f.type)]
    label = "label" if "label" in schema.names else None
    if label and label not in texts + integers:
        kind = schema.field("label").type
        raise ValueError(f"{stem}: column label must be integers or strings, got {kind}")
    caption = next((n for n in ("caption", "text") if n in texts), None)
    key = next((n for n in ("key", "__key__", "id") if n in texts + integers), None)
    wanted = [n for n in (label, caption, key) if n]
    table = file.read(columns=wanted) if wanted else None
    rows = file.metadata.num_rows

    def values(name: str | None, default: list[Any]) -> list[Any]:
        return default if name is None or table is None else table[name].to_pylist()

    return {
        "label": values(label, [None] * rows),
        "caption": [c or "" for c in values(caption, [""] * rows)],
        "key": [str(k) for k in values(key, [f"{stem}/{i}" for i in range(rows)])],
    }


def _class_names(schema: Any) -> list[str]:
    """The names of a Hugging Face ClassLabel column `label`; [] where there are none."""
    try:
        info = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        names = info["info"]["features"]["label"]["names"]
    except (KeyError, TypeError, ValueError):
        return []
    return [str(n) for n in names]
