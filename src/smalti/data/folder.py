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

from smalti.data.decode import decode
from smalti.data.source import Example, class_labels, describe, digest

EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")


class Folder:
    """`folder:PATH`; keys are paths relative to the folder, with forward slashes.

    Raises ValueError if the folder is missing, holds no image, mixes two layouts or has a class
    without images, and for a metadata line that is malformed or names a missing file.
    """

    def __init__(self, path: str) -> None:
        self.name = f"folder:{path}"
        self.root = Path(path).expanduser()
        if not self.root.is_dir():
            raise ValueError(f"{self.name}: {path} is not a folder")
        metadata = [f for f in ("metadata.jsonl", "metadata.csv") if (self.root / f).is_file()]
        if len(metadata) > 1:
            raise ValueError(f"{self.name} holds metadata.jsonl and metadata.csv; keep one")
        if metadata:
            self._open_metadata(self.root / metadata[0])
        else:
            self._open_classes()
        if not self._files:
            allowed = " ".join(e[1:] for e in EXTENSIONS)
            raise ValueError(f"{self.name} holds no images (looked for {allowed})")

    def _open_classes(self) -> None:
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
        self.classes = list(found)
        self._files = flat + [f for files in found.values() for f in files]
        labels = [i for i, files in enumerate(found.values()) for _ in files]
        self._labels = np.array(labels or [-1] * len(flat), dtype=np.int64)
        self._captions = [""] * len(self._files)

    def _open_metadata(self, path: Path) -> None:
        self._files, self._captions = [], []
        labels: list[object] = []
        for line, row in _rows(path):
            where = f"{path}, line {line}"
            file = row.get("file_name")
            if not isinstance(file, str) or not file:
                raise ValueError(f"{where}: no file_name")
            if PurePosixPath(file).is_absolute() or ".." in PurePosixPath(file).parts:
                raise ValueError(f"{where}: file_name {file!r} leaves the folder")
            if not (self.root / file).is_file():
                raise ValueError(f"{where}: {file} does not exist")
            caption = row.get("caption", row.get("text")) or ""
            if not isinstance(caption, str):
                raise ValueError(f"{where}: a caption must be a string, got {caption!r}")
            label = row.get("label")
            self._files.append(file)
            self._captions.append(caption)
            labels.append(None if label == "" else label)
        if path.suffix == ".csv" and all(v is None or str(v).isdecimal() for v in labels):
            labels = [None if v is None else int(str(v)) for v in labels]
        self._labels, self.classes = class_labels(labels, str(path))

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
        return self._files[i]

    def fingerprint(self) -> str:
        sizes = ((self.root / f).stat().st_size for f in self._files)
        return digest([self.classes, *zip(describe(self), sizes, strict=True)])


def _is_image(name: str) -> bool:
    return name[0] != "." and name.lower().endswith(EXTENSIONS)


def _walk(folder: Path, prefix: str) -> Iterator[str]:
    """Images below `folder`, as paths that begin with `prefix`. Symbolic links are followed."""
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [f for f in folders if f[0] != "."]
        base = PurePosixPath(prefix, *Path(parent).relative_to(folder).parts)
        yield from (str(base / f) for f in files if _is_image(f))


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, fields) of each entry. Raises ValueError naming the line that is not one."""
    try:
        content = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8: {error}") from None
    if path.suffix == ".csv":
        reader = csv.DictReader(io.StringIO(content, newline=""))
        yield from ((reader.line_num, row) for row in reader)
        return
    for line, text in enumerate(content.split("\n"), 1):
        if not text.strip():
            continue
        try:
            row = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {line} is not JSON: {error}") from None
        if not isinstance(row, dict):
            raise ValueError(f"{path}, line {line} must be an object, got {text.strip()[:80]}")
        yield line, row
