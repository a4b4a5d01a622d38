"""Parquet files of encoded images, such as those of Hugging Face datasets.

The image column holds the bytes of an image file, bare or as a struct {bytes, path}; of several the
one with a usual name, else the only one. Optional columns hold labels (integers or strings),
captions (strings, or lists of which the first is read), keywords (the same, all of which are read,
where '?keywords=' names it) and keys (else file name and row number). Their usual names are in
`smalti.data.columns`, and a note says which columns are not used.
"""

from __future__ import annotations

import glob
import json
import os
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from smalti.config import no_such
from smalti.data.columns import choose, unused
from smalti.data.decode import decode
from smalti.data.skipped import left_out
from smalti.data.source import Example, Source, class_labels, describe, digest
from smalti.data.splits import split_of

CACHE_BYTES = 1 << 30
"""Encoded images kept in memory, a whole row group at a time, least recently used out first."""


class Parquet(Source):
    """`parquet:PATH`, one file, a pattern of files, or a folder of them, in the order of names.

    Of a folder without .parquet files those at any depth below it are read. Files of several parts
    of a dataset are refused, unless '?split=train' takes those of one or '?split=all' all.
    `options` choose columns by their role: image, label, text, key, keywords.
    All but images is read when it is opened, images a row group at a time when they are wanted.
    Reading in order is cheap at any size; reading at random is so while the files fit
    in `CACHE_BYTES`.
    Raises ValueError naming the file that is missing, is no parquet file or has no image column.
    """

    local = True

    def __init__(
        self, path: str, options: dict[str, str] | None = None, name: str | None = None
    ) -> None:
        self.name = name or f"parquet:{path}"
        self.skipped: dict[str, str] = {}
        self.notes: list[str] = []
        options = options or {}
        paths, root = self._paths(path, options)
        self._files = [_open(p) for p in paths]
        self._sizes = [p.stat().st_size for p in paths]
        stems = _stems(paths, root)
        self.columns = list(dict.fromkeys(n for f in self._files for n in f.schema_arrow.names))
        asked = {role: column for role, column in options.items() if role != "split"}
        self.column = _image_column(self._files[0].schema_arrow, paths[0], asked.get("image"))
        chosen = self._choose(asked)
        labels: list[object] = []
        self._captions: list[str] = []
        self._keywords: list[str] = []
        self._keys: list[str] = []
        self._groups: list[tuple[int, int]] = []  # (file, row group)
        starts = [0]
        for f, (file, p) in enumerate(zip(self._files, paths, strict=True)):
            if self.column not in file.schema_arrow.names:
                raise ValueError(f"{p} has no image column {self.column!r}, unlike {paths[0]}")
            rows = _columns(file, stems[f], chosen)
            labels += rows["label"]
            self._captions += rows["text"]
            self._keywords += rows["keywords"]
            self._keys += rows["key"]
            for g in range(file.num_row_groups):
                self._groups.append((f, g))
                starts.append(starts[-1] + file.metadata.row_group(g).num_rows)
        if starts[-1] == 0:
            raise ValueError(f"{self.name} holds no rows")
        self._starts = np.array(starts)
        self._name_classes(labels, chosen["label"])
        self._cache: OrderedDict[int, Any] = OrderedDict()
        self._lock = threading.Lock()

    def _name_classes(self, labels: list[object], column: str | None) -> None:
        self._labels, self.classes = class_labels(labels, self.name)
        self.classes = _class_names(self._files[0].schema_arrow, column) or self.classes
        if len(self.classes) <= self._labels.max():
            raise ValueError(
                f"{self.name}: label {self._labels.max()} but only {len(self.classes)} class names"
            )

    def _paths(self, path: str, options: dict[str, str]) -> tuple[list[Path], Path]:
        """The files to read, and the folder that they are named from.

        Raises ValueError if there are none, or if they are of several parts and none is chosen.
        """
        target, part = Path(path).expanduser(), options.get("split")
        root = target if target.is_dir() else target.parent
        if target.is_dir():
            paths, others = _listed(target)
            if not paths:
                more = f"; {left_out(others)}" if others else ""
                raise ValueError(f"{self.name}: no .parquet files in {path}{more}")
            if others:
                self.notes.append(left_out(others))
        elif not target.exists() and glob.has_magic(path):
            paths = sorted(Path(p) for p in glob.glob(str(target), recursive=True))
            root = Path(os.path.commonpath([p.parent for p in paths])) if paths else root
            if not paths:
                raise ValueError(f"{self.name}: no file fits this pattern")
        else:
            paths = [target]
        parts = [split_of(p.relative_to(root).as_posix()) for p in paths]
        counts = {name: parts.count(name) for name in dict.fromkeys(parts)}
        if part is None and len(counts) > 1:
            names = ", ".join(f"{name or 'others'} ({n})" for name, n in counts.items())
            more = "&" if options else "?"
            ways = [f"'{self.name}{more}split={n}'" for n in [*filter(None, counts), "all"]]
            raise ValueError(
                f"{self.name} holds files of several splits: {names}; read {', '.join(ways)}"
            )
        chosen = [p for p, name in zip(paths, parts, strict=True) if part in (None, "all", name)]
        if not chosen:
            names = ", ".join([*filter(None, counts), "all"])
            raise ValueError(f"{self.name}: split must be one of {names}, got {part!r}")
        return chosen, root

    def _choose(self, asked: dict[str, str]) -> dict[str, str | None]:
        """The columns of label, text, key and keywords; notes what is not used."""
        fields = {f.name: f.type for file in self._files for f in file.schema_arrow}
        texts = [n for n, kind in fields.items() if _is_text(kind)]
        integers = [n for n, kind in fields.items() if pa.types.is_integer(kind)]
        classes = [n for n, kind in fields.items() if _is_label(kind) or self._whole(n, kind)]
        if "label" in fields and "label" not in classes and "label" not in asked:
            raise ValueError(
                f"{self.name}: column label must be integers or strings, got {fields['label']}; "
                "?label= behind the source takes no labels"
            )
        lists = [n for n, kind in fields.items() if _is_list(kind) and _is_text(kind.value_type)]
        fitting = {"label": classes, "text": texts + lists, "key": texts + integers}
        fitting["keywords"] = lists + texts
        chosen = {r: choose(r, fits, asked.get(r), self.name) for r, fits in fitting.items()}
        used = [self.column, *(chosen[role] or "" for role in ("key", "keywords"))]
        if note := unused(self.columns, chosen["label"], chosen["text"], used):
            self.notes.append(note)
        if chosen["text"] in lists:
            self.notes.append(f"of the captions in column {chosen['text']!r} the first is read")
        for column in (c for c in texts if c in ("split", "subset", "partition")):
            values = sorted({v for f in self._files for v in _distinct(f, column)})
            if len(values) > 1:
                names = ", ".join(values[:4])
                self.notes.append(f"all rows are read, whatever column {column!r} says ({names})")
        return chosen

    def _whole(self, name: str, kind: Any) -> bool:
        """Whether a column holds floats that are all whole, as tables write integers beside missing
        ones."""
        if not pa.types.is_floating(kind):
            return False
        files = [f for f in self._files if name in f.schema_arrow.names]
        values = np.concatenate([f.read([name])[name].to_numpy() for f in files])
        return bool(np.all(np.isnan(values) | (values == np.floor(values))))

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, i: int) -> Example:
        group = int(np.searchsorted(self._starts, i, side="right")) - 1
        value = self._images(group)[i - int(self._starts[group])].as_py()
        data = value.get("bytes") if isinstance(value, dict) else value
        where = f"{self.name}, row {i} ({self.key(i)})"
        if not data:
            elsewhere = value.get("path") if isinstance(value, dict) else None
            more = f", only the path {elsewhere!r}" if elsewhere else ""
            raise ValueError(f"{where} holds no image bytes{more}")
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

    def keywords(self, i: int) -> str:
        """The keywords of row i, 'cat, animal'; '' = none, or none were asked for."""
        return self._keywords[i]

    def key(self, i: int) -> str:
        return self._keys[i]

    def size(self, i: int) -> int:
        return 0

    def fingerprint(self) -> str:
        return digest([self.classes, self._sizes, *describe(self)])


def _open(path: Path) -> Any:
    if not path.is_file():
        raise ValueError(f"parquet: {path} does not exist; {no_such(path)}")
    try:
        return pq.ParquetFile(path, memory_map=True)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} is not a parquet file: {error}") from None


def _listed(folder: Path) -> tuple[list[Path], dict[str, str]]:
    """The .parquet files in a folder or, if it has none, at any depth below it; of the other files
    there their kind."""

    def hidden(path: Path) -> bool:
        return any(part[0] == "." for part in path.relative_to(folder).parts)

    def tables(files: list[Path]) -> list[Path]:
        return [p for p in files if p.suffix == ".parquet" and not hidden(p)]

    files = sorted(p for p in folder.iterdir() if p.is_file())
    if not tables(files):
        below = (p for p in folder.rglob("*") if not hidden(p.parent) and p.is_file())
        files = sorted(below)
    others = {
        p.relative_to(folder).as_posix(): "hidden" if hidden(p) else p.suffix or "without suffix"
        for p in sorted(set(files) - set(tables(files)))
    }
    return tables(files), others


def _stems(paths: list[Path], root: Path) -> list[str]:
    """What the keys of a file's rows begin with: its name or, where two are equal, its path."""
    stems = [p.stem for p in paths]
    if len(set(stems)) == len(stems):
        return stems
    return [p.relative_to(root).with_suffix("").as_posix() for p in paths]


def _image_column(schema: Any, path: Path, asked: str | None) -> str:
    fits = [f.name for f in schema if _holds_bytes(f.type)]
    name = choose("image", fits, asked or None, str(path))
    if name is None and len(fits) != 1:
        columns = ", ".join(f"{f.name} ({f.type})" for f in schema)
        what = "several columns of images, of which ?image= chooses" if fits else "no image column"
        raise ValueError(f"{path} has {what}; it has {columns}")
    return name or fits[0]


def _holds_bytes(kind: Any) -> bool:
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and _holds_bytes(kind.field("bytes").type)
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _is_text(kind: Any) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _is_label(kind: Any) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return _is_text(kind) or pa.types.is_integer(kind) or pa.types.is_null(kind)


def _is_list(kind: Any) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind)


def _distinct(file: Any, column: str) -> list[str]:
    """The values of a column of strings."""
    if column not in file.schema_arrow.names:
        return []
    return [v for v in file.read([column])[column].unique().to_pylist() if v]


def _columns(file: Any, stem: str, chosen: dict[str, str | None]) -> dict[str, list[Any]]:
    """The columns label, text, key and keywords of one file, each with a value for every row."""
    wanted = [n for n in chosen.values() if n and n in file.schema_arrow.names]
    table = file.read(columns=wanted) if wanted else None
    rows = file.metadata.num_rows

    def values(role: str, default: list[Any]) -> list[Any]:
        name = chosen[role]
        return default if name not in wanted or table is None else table[name].to_pylist()

    texts = values("text", [""] * rows)
    return {
        "label": values("label", [None] * rows),
        "text": [(next(iter(t), "") if isinstance(t, list) else t) or "" for t in texts],
        "key": [str(k) for k in values("key", [f"{stem}/{i}" for i in range(rows)])],
        "keywords": [_joined(words) for words in values("keywords", [""] * rows)],
    }


def _joined(words: list[str | None] | str | None) -> str:
    """Keywords as one text: 'cat, animal'."""
    several = [words] if isinstance(words, str) else words or []
    return ", ".join(word.strip() for word in several if word and word.strip())


def _class_names(schema: Any, label: str | None) -> list[str]:
    """The names of a Hugging Face ClassLabel column; [] where there are none."""
    try:
        info = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        names = info["info"]["features"][label]["names"]
    except (KeyError, TypeError, ValueError):
        return []
    return [str(n) for n in names]
