"""Datasets of the Hugging Face Hub, through the package `datasets`.

`pip install "smalti[hub-data]"` installs it. `hub:NAME` reads the split 'train', `hub:NAME:SPLIT`
another. The columns are found as in `smalti.data.parquet`.
"""

from __future__ import annotations

import importlib
import socket
from pathlib import Path
from typing import Any

from PIL import Image

from smalti.data.columns import choose, unused
from smalti.data.decode import decode, to_rgb
from smalti.data.source import Example, Source, class_labels, describe, digest

TEXTS = ("string", "large_string")
LABELS = (*TEXTS, *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)))
"""Types of features that captions and labels may have."""


def open_hub(text: str, options: dict[str, str] | None = None, name: str | None = None) -> Hub:
    """Download, or take from the local cache, the dataset NAME or NAME:SPLIT.

    `options` choose columns by their role: image, label, text, key. Raises ValueError if the
    package `datasets` is missing or the dataset cannot be loaded.
    """
    repo, _, part = text.partition(":")
    name, options = name or f"hub:{text}", options or {}
    if "keywords" in options:
        raise ValueError(f"{name}: keywords are read of .parquet files alone")
    if "split" in options:
        raise ValueError(f"{name}: a split of the hub is named by hub:{repo}:{options['split']}")
    try:
        datasets = importlib.import_module("datasets")
    except ImportError:
        raise ValueError(f'{name} needs `pip install "smalti[hub-data]"`') from None
    try:
        rows = datasets.load_dataset(repo, split=part or "train")
    except Exception as error:  # not found, no network, no such split: of a dozen kinds
        here = f"; {repo} exists here: folder:{repo} reads it" if Path(repo).is_dir() else ""
        raise ValueError(f"cannot load {name}: {reason(error)}{here}") from error
    return Hub(rows, name, options)


def reason(error: BaseException) -> str:
    """Why the hub gave nothing, in one line: it could not be asked, or what it said."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    said = lines[0][:300] if lines else type(error).__name__
    cause: BaseException | None = error
    while cause is not None:
        name = type(cause).__name__
        if isinstance(cause, socket.gaierror | ConnectionError | TimeoutError) or any(
            part in name for part in ("Connect", "Timeout", "Offline")
        ):
            return f"the hub could not be asked ({name}: {' '.join(str(cause).split())[:120]})"
        cause = cause.__cause__
    return said


class Hub(Source):
    """A loaded map-style `datasets.Dataset`.

    Raises ValueError if it has no image column or its labels are neither integers nor strings.
    """

    def __init__(self, rows: Any, name: str, options: dict[str, str] | None = None) -> None:
        self.name = name
        self.skipped: dict[str, str] = {}
        self._rows = rows
        features, options = rows.features, options or {}
        self.columns = list(features)
        self.column = _image_column(features, name, options.get("image"))
        others = [c for c in self.columns if c != self.column]
        fits = {
            "label": [c for c in others if c == "label" or _dtype(features[c]) in LABELS],
            "text": [c for c in others if c in ("caption", "text") or _holds_texts(features[c])],
            "key": others,
        }
        label, text, key = (
            choose(role, fits[role], options.get(role), name) for role in ("label", "text", "key")
        )
        note = unused(self.columns, label, text, [self.column, key or ""])
        self.notes = [note] if note else []
        count = len(rows)
        values = list(rows[label]) if label else [None] * count
        self._labels, self.classes = class_labels(values, name)
        names = getattr(features.get(label), "names", None)
        self.classes = list(names or self.classes)
        captions = list(rows[text]) if text else [""] * count
        if any(isinstance(c, list) for c in captions):
            self.notes.append(f"of the captions in column {text!r} the first is read")
        captions = [next(iter(c), "") if isinstance(c, list) else c for c in captions]
        self._captions = [c if isinstance(c, str) else "" for c in captions]
        self._keys = [str(k) for k in rows[key]] if key else [str(i) for i in range(count)]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, i: int) -> Example:
        where = f"{self.name}, row {i}"
        try:
            value = self._rows[i][self.column]
        except Exception as error:  # `datasets` decodes here, with whatever Pillow raises
            raise ValueError(f"cannot decode image {where}: {error}") from error
        if isinstance(value, Image.Image):
            return Example(to_rgb(value, where), self.label(i), self.caption(i))
        data = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(data, bytes):
            raise ValueError(f"{where}: column {self.column!r} holds no image")
        return Example(decode(data, where), self.label(i), self.caption(i))

    def label(self, i: int) -> int:
        return int(self._labels[i])

    def caption(self, i: int) -> str:
        return self._captions[i]

    def key(self, i: int) -> str:
        return self._keys[i]

    def size(self, i: int) -> int:
        return 0

    def fingerprint(self) -> str:
        content = str(getattr(self._rows, "_fingerprint", ""))
        return digest([self.classes, content, *describe(self)])


def _dtype(feature: Any) -> str | None:
    return getattr(feature, "dtype", None)


def _holds_texts(feature: Any) -> bool:
    """Whether a feature is a text, or a list of texts, which `datasets` writes in two ways."""
    item = feature[0] if isinstance(feature, list) else getattr(feature, "feature", feature)
    return _dtype(item) in TEXTS


def _image_column(features: Any, name: str, asked: str | None) -> str:
    images = [n for n, kind in features.items() if type(kind).__name__ == "Image"]
    if asked or not images:
        column = choose("image", list(features), asked or None, name)
        if column is None:
            raise ValueError(f"{name} has no image column; it has {', '.join(features)}")
        return column
    return choose("image", images, None, name) or images[0]
