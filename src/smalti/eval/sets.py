"""Sets of pictures to measure: folders, .npz files, data sources, statistics of a reference.

Pictures are streamed in batches that threads read ahead, so memory does not depend on their number.
Those of another size than asked for are cropped and resized as in training (`data.transforms`), and
the set says so. B pictures, H and W pixels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from smalti.config import no_such, read_json
from smalti.data.loader import ahead
from smalti.data.open import SCHEMES, is_local, open_source
from smalti.data.source import split
from smalti.eval import npz
from smalti.eval.readers import Numbered, Pictures, SourcePictures, text_of
from smalti.files import expand

PARTS = ("train", "held")
CROP, FILTER = "center", "box+bicubic"
"""What is done to pictures of another size; see `data.transforms.center_crop`."""


def open_set(
    given: str | Path, size: int | None = None, skip_bad: bool = False, holdout: float = 0.1
) -> ImageSet:
    """A folder of pictures, an .npz file (see `npz`), or a data source such as emoji; @train or
    @held behind it takes one part: `emoji@held` is the share `holdout` that training never saw.

    `size` are the pixels of a side that pictures are brought to; None takes them as they are.
    `skip_bad` leaves out and counts pictures that cannot be decoded; else the first one is an
    error. Raises ValueError for what cannot be read or is none of these.
    """
    if size is not None and size < 1:
        raise ValueError(f"size must be at least 1, got {size}")
    path, text = expand(given), str(given)
    if path.suffix == ".npz" or (path.is_file() and path.suffix != ".parquet"):
        return _open_npz(path, size)
    name, _, part = text.rpartition("@")
    if part not in PARTS or path.is_dir():
        name, part = text, ""
    if name.partition(":")[0] not in SCHEMES and not is_local(name):
        raise ValueError(
            f"{text!r} is no folder, no .npz file and no data source ({no_such(Path(name))}; "
            f"{'; '.join(SCHEMES.values())}; with @train or @held behind it, a part)"
        )
    source = open_source(name)
    if source.skipped and not skip_bad:
        key = min(source.skipped)
        raise ValueError(f"{key}: {source.skipped[key]}; --skip-bad leaves such pictures out")
    chosen = list(range(len(source)))
    if part:
        chosen = split(source, holdout)[PARTS.index(part)]
    if not chosen:
        raise ValueError(f"{text} holds no pictures: {holdout} of {len(source)} are held out")
    return ImageSet(text, SourcePictures(source, chosen, size, skip_bad), {}, {})


def _open_npz(path: Path, size: int | None) -> ImageSet:
    if not path.is_file():
        raise ValueError(f"{path} does not exist")
    names, statistics, beside = npz.arrays(path), npz.statistics(path), path.with_suffix(".json")
    about = read_json(beside) if beside.is_file() else {}
    if "arr_0" in names:
        return ImageSet(str(path), npz.ArrayPictures(path, size, about), statistics, about)
    if not statistics:
        raise ValueError(
            f"{path} has no arr_0, uint8 pictures (N, H, W, 3), and no mu and sigma; "
            f"it has {', '.join(names) or 'nothing'}"
        )
    return ImageSet(str(path), None, statistics, about)


class ImageSet:
    """Pictures, statistics of pictures, or both. See `open_set`."""

    def __init__(
        self,
        name: str,
        pictures: Pictures | None,
        statistics: dict[str, np.ndarray],
        about: dict[str, Any],
    ) -> None:
        self.name = name
        """As it was given."""
        self.statistics = statistics
        """Those of a reference, float64, by the names of `npz.STATISTICS`."""
        self.about = about
        """What `smalti sample` wrote beside an .npz file: pipeline, sampling, seed, versions."""
        self._pictures = pictures
        self._hash = "" if pictures is not None else self._begin().hexdigest()[:16]

    def __len__(self) -> int:
        """The number of pictures, without those that turned out to be broken so far."""
        return len(self._pictures) if self._pictures is not None else 0

    def require(self, what: str, least: int = 1) -> Pictures:
        """The pictures. Raises ValueError if they are fewer than `what` needs, or none."""
        if self._pictures is None:
            held = ", ".join(self.statistics)
            raise ValueError(f"{what} needs pictures; {self.name} holds only {held}, no arr_0")
        if len(self) < least:
            raise ValueError(f"{what} needs at least {least} pictures, {self.name} has {len(self)}")
        return self._pictures

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width of every picture; None of statistics alone."""
        return self._pictures.size if self._pictures is not None else None

    @property
    def crop(self) -> str:
        """How pictures were cut; "none" while all that were read came at their size."""
        return CROP if self._pictures is not None and self._pictures.changed else "none"

    @property
    def filter(self) -> str:
        """How pictures were resized; "none" as for `crop`."""
        return FILTER if self.crop != "none" else "none"

    @property
    def skipped(self) -> dict[str, str]:
        """Names of pictures that cannot be used, with the reason; all of them after a pass."""
        return self._pictures.skipped if self._pictures is not None else {}

    @property
    def labels(self) -> np.ndarray:
        """The class of each picture by its number, (N,) int64; -1 = none."""
        return self.require("a class").labels

    @property
    def classes(self) -> list[str]:
        """Names by label; [] if they are not known."""
        return self.require("a class").classes

    def caption(self, i: int) -> str:
        """What picture i is to show, in words; '' = not known."""
        return self.require("a caption").caption(i)

    def batches(self, n: int = 64) -> Iterator[Tensor]:
        """All pictures in order, uint8 (B, 3, H, W), B at most n; see `numbered`."""
        return (rows.images for rows in self.numbered(n))

    def numbered(self, n: int = 64) -> Iterator[Numbered]:
        """All pictures in order with their numbers, at most n at a time.

        Raises ValueError if there are none, or for the first that is broken or of another size.
        """
        if n < 1:
            raise ValueError(f"batch must be at least 1, got {n}")
        pictures, sha = self.require("this"), self._begin()

        def note(rows: Numbered) -> Numbered:
            sha.update(rows.images.view(-1).numpy().data)
            return rows

        yield from ahead(note, pictures.read(n))
        self._hash = sha.hexdigest()[:16]

    @property
    def hash(self) -> str:
        """16 hex digits of the sha256 of size, pixels and statistics, whatever file they are in.

        A whole pass over the pictures finds it; where there was none, this makes one.
        """
        if not self._hash:
            for _ in self.numbered():
                pass
        return self._hash

    def _begin(self) -> Any:
        """The hash of all but the pixels."""
        sha = hashlib.sha256(str(self.size).encode())
        for key, value in sorted(self.statistics.items()):
            sha.update(f"{key} {value.shape}".encode() + value.tobytes())
        return sha


def same_size(a: ImageSet, b: ImageSet) -> None:
    """Raise ValueError if the pictures of the two sets have different sizes."""
    if a.size and b.size and a.size != b.size:
        raise ValueError(
            f"{a.name} has pictures of {text_of(a.size)} pixels, {b.name} of {text_of(b.size)}; "
            "--size brings both to one"
        )
