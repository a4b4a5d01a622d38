"""metadata.jsonl and metadata.csv, which name the files of a folder, with labels and captions; and
captions in text files of their own."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from smalti.data.columns import choose, unused
from smalti.data.source import class_labels
from smalti.data.splits import split_folders

NAMES = ("metadata.jsonl", "metadata.csv")
TABLES = (".csv", ".tsv", ".jsonl", ".json")
"""Endings of files that perhaps should have one of these names."""
DELIMITERS = ",;\t"
"""Of fields in a CSV file: the one that its first line has most of."""
CAPTIONS = ("caption", "text")
"""Names of the convention; each row may use its own."""


@dataclass
class Metadata:
    """What a metadata file says."""

    entries: list[tuple[str, int, str]]
    """File, label and caption."""
    classes: list[str]
    columns: list[str]
    notes: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    """Lines that cannot be used, with the reason."""


def read_metadata(path: Path, options: dict[str, str], where: str) -> Metadata:
    """Read a metadata file; its files must exist below its folder.

    `options` name columns by their role: image (the file names), label, text. Raises ValueError if
    the file is not text, a named column is not there, or labels are neither integers nor strings.
    """
    lines = list(_rows(path))
    content = Metadata([], [], [])
    content.skipped |= {_line(path, n): row for n, row in lines if isinstance(row, str)}
    rows = [(n, row) for n, row in lines if not isinstance(row, str)]
    content.columns = list(dict.fromkeys(k for _, row in rows for k in row if k is not None))
    file = choose("file", content.columns, options.get("image"), where)
    fits = [c for c in content.columns if c == "label" or all(_is_label(r.get(c)) for _, r in rows)]
    label = choose("label", fits, options.get("label"), where)
    fits = [c for c in content.columns if c in CAPTIONS or all(_is_text(r.get(c)) for _, r in rows)]
    text = choose("text", fits, options.get("text"), where)
    texts = (text, *CAPTIONS) if text in CAPTIONS and "text" not in options else (text,)
    usable: list[tuple[str, object, str]] = []
    for line, row in rows:
        try:
            caption = _caption(next((row[c] for c in texts if c in row), None))
            name = _file(row.get(file) if file else None, path.parent)
            usable.append((name, row.get(label) if label else None, caption))
        except (ValueError, OSError) as error:
            content.skipped[_line(path, line)] = str(error)
    labels, content.classes = class_labels(_values([v for _, v, _ in usable], path), str(path))
    numbered = zip(usable, labels.tolist(), strict=True)
    content.entries = [(name, number, caption) for (name, _, caption), number in numbered]
    if note := unused(content.columns, label, text, [file or "", *texts[1:]]):
        content.notes.append(note)
    content.notes += _doubts(content, rows)
    return content


def read_caption(path: Path) -> str:
    """The caption in a text file, on one line. Raises ValueError if it is not UTF-8."""
    try:
        return " ".join(path.read_bytes().decode("utf-8-sig").split())
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8: {error}") from None


def _doubts(content: Metadata, rows: list[tuple[int, dict[Any, Any]]]) -> Iterator[str]:
    """Notes on lines that hold too much, and on parts of a dataset that are read as one."""
    wide = [line for line, row in rows if None in row]
    if wide:
        yield (
            f"{len(wide)} lines have more fields than there are columns, the first line {wide[0]}: "
            "a text with commas must stand in quotes"
        )
    for column in ("split", "subset", "partition"):
        names = sorted({str(row[column]) for _, row in rows if row.get(column)})
        if len(names) > 1:
            yield f"all rows are read, whatever column {column!r} says ({', '.join(names[:4])})"
    for names in split_folders(file for file, _, _ in content.entries).values():
        if len(names) > 1:
            yield f"the files of {' and '.join(names)} are read as one set"


def _line(path: Path, number: int) -> str:
    return f"{path.name}, line {number}"


def _values(values: list[object], path: Path) -> list[object]:
    """Labels; those of a CSV file, which has text only, as integers if all are class numbers, or -1
    for none."""
    values = [None if v == "" else v for v in values]
    whole = [v is None or bool(re.fullmatch(r"(-1|\d+)(\.0+)?", str(v))) for v in values]
    if path.suffix == ".csv" and all(whole):
        return [None if v is None else int(float(str(v))) for v in values]
    return values


def _is_label(value: object) -> bool:
    if isinstance(value, float):
        return value.is_integer()
    return value is None or isinstance(value, str | int) and not isinstance(value, bool)


def _is_text(value: object) -> bool:
    several = isinstance(value, list) and all(isinstance(v, str) for v in value)
    return value is None or isinstance(value, str) or several


def _caption(value: object) -> str:
    """A caption, of several the first. Raises ValueError if it is no text, or cannot be stored."""
    if isinstance(value, list) and _is_text(value):
        value = next(iter(value), "")
    if not isinstance(value or "", str):
        raise ValueError(f"a caption must be a string, got {value!r}")
    caption = str(value or "")
    caption.encode()  # half a character, as "\\ud800", cannot be stored
    return caption


def _file(name: object, folder: Path) -> str:
    """A file's name. Raises ValueError if it is none, or not that of a file in the folder."""
    if not isinstance(name, str) or not name:
        raise ValueError("no file_name")
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        raise ValueError(f"file_name {name!r} leaves the folder")
    if not (folder / name).is_file():
        raise ValueError(f"{name} does not exist")
    name.encode()
    return name


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """(line number, fields) of each entry, or in the place of the fields what is wrong with it.

    Raises ValueError if the file is not text.
    """
    try:
        content = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8: {error}") from None
    if path.suffix == ".csv":
        delimiter = max(DELIMITERS, key=content.partition("\n")[0].count)
        reader = csv.DictReader(io.StringIO(content, newline=""), delimiter=delimiter)
        try:
            yield from ((reader.line_num, row) for row in reader)
        except csv.Error as error:
            raise ValueError(f"{path}, line {reader.line_num} is not CSV: {error}") from None
        return
    for line, text in enumerate(content.split("\n"), 1):
        if not text.strip():
            continue
        try:
            row = json.loads(text)
        except (ValueError, RecursionError) as error:
            yield line, f"not JSON: {error}"
            continue
        yield line, row if isinstance(row, dict) else f"not an object: {text.strip()[:80]}"
