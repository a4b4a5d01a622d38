"""Image folders: one sub-folder per class, a flat folder, or a metadata file.

Three layouts, the first that fits:
  metadata.jsonl or metadata.csv beside the images, with `file_name` and optionally `label`
  (integer or string) and `text` or `caption` (the Hugging Face imagefolder convention);
  sub-folders, whose sorted names are the classes, with images at any depth below them;
  images directly in the folder, without labels.
Names that begin with a dot are ignored.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from smalti.data.decode import check_header, decode
from smalti.data.skipped import none_left
from smalti.data.source import Example, class_labels, describe, digest

HEADERS = 20_000
"""Of so many files the headers are read when a folder is opened, which takes 1 s."""
EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")

Entry = tuple[str, int, str]
"""File, label and caption."""


class Folder:
    """`folder:PATH`; keys are paths relative to the folder, with forward slashes.

    Files that are no pictures, and metadata lines that are malformed or name a missing file, are
    left out and noted in `skipped`; of the files after the first `HEADERS` it shows when they are
    decoded. Raises ValueError if the folder is missing, no picture is left, it mixes two layouts,
    or a class has no files.
    """

    def __init__(self, path: str) -> None:
        self.name = f"folder:{path}"
        self.skipped: dict[str, str] = {}
        self.root = Path(path).expanduser()
        if not self.root.is_dir():
            raise ValueError(f"{self.name}: {path} is not a folder")
        metadata = [f for f in ("metadata.jsonl", "metadata.csv") if (self.root / f).is_file()]
        if len(metadata) > 1:
            raise ValueError(f"{self.name} holds metadata.jsonl and metadata.csv; keep one")
        entries = self._open_metadata(self.root / metadata[0]) if metadata else self._open_classes()
        for n, (file, _, _) in enumerate(entries):
            if n < HEADERS and (problem := _problem(self.root / file)):
                self.skipped[_key(file)] = problem
        entries = [e for e in entries if _key(e[0]) not in self.skipped]
        if not entries and self.skipped:
            raise none_left(self)
        if not entries:
            allowed = " ".join(e[1:] for e in EXTENSIONS)
            raise ValueError(f"{self.name} holds no images (looked for {allowed})")
        self._files = [file for file, _, _ in entries]
        self._labels = np.array([label for _, label, _ in entries], dtype=np.int64)
        self._captions = [caption for _, _, caption in entries]

    def _open_classes(self) -> list[Entry]:
        flat = sorted(f.name for f in self.root.iterdir() if f.is_file() and _is_image(f.name))
        folders = sorted(f.name for f in self.root.iterdir() if f.is_dir() and f.name[0] != ".")
        found = {name: sorted(_walk(self.root / name, name)) for name in folders}
        if not any(found.values()):
            found = {}
        if flat and found:
            raise ValueError(
                f"{self.name} holds images ({flat[0]}) beside class folders ({folders[0]}); "
                "use one of the two layouts"
            )
        for name, files in found.items():
            if not files:
                raise ValueError(f"{self.name}: class folder {name!r} holds no images")
        self.classes = [_key(name) for name in found]
        labelled = [(f, i, "") for i, files in enumerate(found.values()) for f in files]
        return [(f, -1, "") for f in flat] + labelled

    def _open_metadata(self, path: Path) -> list[Entry]:
        rows: list[tuple[str, str, object]] = []
        for line, row in _rows(path):
            try:
                rows.append(self._entry(row))
            except (ValueError, OSError) as error:
                self.skipped[f"{path.name}, line {line}"] = str(error)
        values = [value for _, _, value in rows]
        if path.suffix == ".csv" and all(v is None or str(v).isdecimal() for v in values):
            values = [None if v is None else int(str(v)) for v in values]
        labels, self.classes = class_labels(values, str(path))
        found = zip(rows, labels.tolist(), strict=True)
        return [(file, label, caption) for (file, caption, _), label in found]

    def _entry(self, row: dict[str, Any] | str) -> tuple[str, str, object]:
        """File, caption and label of a metadata line. Raises ValueError if it cannot be used."""
        if isinstance(row, str):
            raise ValueError(row)
        file = row.get("file_name")
        if not isinstance(file, str) or not file:
            raise ValueError("no file_name")
        if PurePosixPath(file).is_absolute() or ".." in PurePosixPath(file).parts:
            raise ValueError(f"file_name {file!r} leaves the folder")
        if not (self.root / file).is_file():
            raise ValueError(f"{file} does not exist")
        caption = row.get("caption", row.get("text")) or ""
        if not isinstance(caption, str):
            raise ValueError(f"a caption must be a string, got {caption!r}")
        (file + caption).encode()  # half a character, as "\\ud800", cannot be stored
        label = row.get("label")
        return file, caption, None if label == "" else label

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, i: int) -> Example:
        path = self.root / self._files[i]
        return Example(decode(path, str(path)), self.label(i), self.caption(i))

    def label(self, i: int) -> int:
        return int(self._labels[i])

    def caption(self, i: int) -> str:
        return self._captions[i]

    def key(self, i: int) -> str:
        return _key(self._files[i])

    def size(self, i: int) -> int:
        return (self.root / self._files[i]).stat().st_size

    def fingerprint(self) -> str:
        sizes = map(self.size, range(len(self)))
        return digest([self.classes, *zip(describe(self), sizes, strict=True)])


def _is_image(name: str) -> bool:
    return name[0] != "." and name.lower().endswith(EXTENSIONS)


def _key(file: str) -> str:
    """The path as text; bytes of it that are not UTF-8 are written \\xNN."""
    return file.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _problem(path: Path) -> str:
    """What is wrong with a picture, as far as its header shows; '' if nothing."""
    try:
        check_header(path)
    except ValueError as error:
        return str(error)
    return ""


def _walk(folder: Path, prefix: str) -> Iterator[str]:
    """Images below `folder`, as paths that begin with `prefix`. Symbolic links are followed, but
    not back into a folder above them."""
    for parent, folders, files in os.walk(folder, followlinks=True):
        above = {os.path.realpath(p) for p in (parent, *Path(parent).parents)}
        folders[:] = [
            f
            for f in folders
            if f[0] != "." and os.path.realpath(os.path.join(parent, f)) not in above
        ]
        base = PurePosixPath(prefix, *Path(parent).relative_to(folder).parts)
        # a pipe would be waited for
        yield from (str(base / f) for f in files if _is_image(f) and (Path(parent) / f).is_file())


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """(line number, fields) of each entry, or in the place of the fields what is wrong with it.

    Raises ValueError if the file is not text.
    """
    try:
        content = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8: {error}") from None
    if path.suffix == ".csv":
        reader = csv.DictReader(io.StringIO(content, newline=""))
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
