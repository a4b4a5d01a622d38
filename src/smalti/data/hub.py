"""Datasets of the Hugging Face Hub, through the package `datasets`.

`pip install "smalti[hub-data]"` installs it. `hub:NAME` reads the split 'train', `hub:NAME:SPLIT`
another. The columns are found as in `smalti.data.parquet`: an image, and optionally `label`,
`caption` or `text`, and `key` or `id`.
"""

from __future__ import annotations

import importlib
from typing import Any

from PIL import Image

from smalti.data.decode import decode, to_rgb
from smalti.data.source import Example, class_labels, describe, digest


def open_hub(text: str) -> Hub:
    """Download, or take from the local cache, the dataset NAME or NAME:SPLIT.

    Raises ValueError if the package `datasets` is missing or the dataset cannot be loaded.
    """
    name, _, part = text.partition(":")
    try:
        datasets = importlib.import_module("datasets")
    except ImportError:
        raise ValueError(f'hub:{text} needs `pip install "smalti[hub-data]"`') from None
    try:
        rows = datasets.load_dataset(name, split=part or "train")
    except (OSError, ValueError) as error:  # not found, no network, no such split
        raise ValueError(f"cannot load hub:{text}: {error}") from error
    return Hub(rows, f"hub:{text}")


class Hub:
    """A loaded map-style `datasets.Dataset`.

    Raises ValueError if it has no image column or its labels are neither integers nor strings.
    """

    def __init__(self, rows: Any, name: str) -> None:
        self.name = name
        self.skipped: dict[str, str] = {}
        self._rows = rows
        features = rows.features
        self.column = _image_column(features, name)
        self._labels, self.classes = class_labels(self._values("label") or [None] * len(rows), name)
        self.classes = list(getattr(features.get("label"), "names", None) or self.classes)
        captions = self._values("caption", "text") or [""] * len(rows)
        self._captions = [c if isinstance(c, str) else "" for c in captions]
        keys = self._values("key", "__key__", "id")
        self._keys = [str(k) for k in keys] if keys else [str(i) for i in range(len(rows))]

    def _values(self, *names: str) -> list[Any]:
        """The first column of these names that exists; [] if none does."""
        return next((list(self._rows[n]) for n in names if n in self._rows.features), [])

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


def _image_column(features: Any, name: str) -> str:
    found = [n for n, kind in features.items() if type(kind).__name__ == "Image"]
    for column in [*found, "image", "img", "png", "jpg", "webp"]:
        if column in features:
            return column
    raise ValueError(f"{name} has no image column; it has {', '.join(features)}")
