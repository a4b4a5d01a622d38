"""Pictures and statistics in .npz files, as the ADM evaluator and `smalti sample --npz` write them.

arr_0 holds uint8 pictures (N, H, W, 3), arr_1, if it is there, a label for each; a reference may
hold mu and sigma of its pool features, mu_s and sigma_s of its spatial ones, or these alone. arr_0
is read as a stream: 50,000 pictures of 256 pixels are 9.8 GB. B pictures, H and W pixels.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from smalti.data.loader import ahead
from smalti.data.transforms import center_crop
from smalti.eval.readers import Numbered, channels_first

STATISTICS = ("mu", "sigma", "mu_s", "sigma_s")
DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, ValueError, TypeError)
"""What a damaged file raises when it is read."""


class ArrayPictures:
    """arr_0 of a file, at `size` square, or None as it is. `about` is what the file beside it says:
    class_names, and text, the prompts that were drawn in turn from number `first` on."""

    def __init__(self, path: Path, size: int | None, about: dict[str, Any]) -> None:
        self.path, self.skipped, self.changed = path, dict[str, str](), False
        self._count, *own = _image_shape(path)
        self._own = (own[0], own[1])
        self.size = (size, size) if size else self._own
        self.labels = _labels(path, self._count)
        self.classes: list[str] = about.get("class_names", [])
        self._texts: list[str] = about.get("text", [])
        self._first: int = about.get("first", 0)

    def __len__(self) -> int:
        return self._count

    def caption(self, i: int) -> str:
        return self._texts[(self._first + i) % len(self._texts)] if self._texts else ""

    def read(self, n: int) -> Iterator[Numbered]:
        with _member(self.path, "arr_0") as file:
            _header(file)
            # one thread, which calls in order
            yield from ahead(lambda s: self._rows(file, s, n), range(0, self._count, n))

    def _rows(self, file: IO[bytes], start: int, n: int) -> Numbered:
        count, (h, w) = min(n, self._count - start), self._own
        try:
            pixels = np.frombuffer(file.read(count * h * w * 3), np.uint8).reshape(count, h, w, 3)
        except DAMAGE as error:
            raise ValueError(f"{self.path}: arr_0 is damaged: {error}") from None
        if self.size != self._own:
            self.changed = True
            pixels = np.stack([center_crop(picture, self.size[0]) for picture in pixels])
        return Numbered(np.arange(start, start + count), channels_first(pixels))


def arrays(path: Path) -> list[str]:
    """The names of what a file holds. Raises ValueError if it is no .npz file."""
    with _archive(path) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist()]


def statistics(path: Path) -> dict[str, np.ndarray]:
    """Those of `STATISTICS` that a file holds, float64.

    Raises ValueError unless mu is (D,) and sigma (D, D), and so mu_s and sigma_s.
    """
    names = arrays(path)
    found = {n: _array(path, n).astype(np.float64) for n in STATISTICS if n in names}
    for pair in (STATISTICS[:2], STATISTICS[2:]):
        shapes = {n: found[n].shape for n in pair if n in found}
        mean, covariance = (shapes.get(n, ()) for n in pair)
        if shapes and (len(mean) != 1 or covariance != mean * 2):
            told = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
            raise ValueError(f"{path}: {' and '.join(pair)} must be (D,) and (D, D), got {told}")
    return found


def _image_shape(path: Path) -> tuple[int, ...]:
    shape, fortran, dtype = _described(path, "arr_0")
    wrong = ""
    if len(shape) == 4 and shape[1] == 3 != shape[3]:
        wrong = "; channels come last"
    elif dtype != np.uint8:
        wrong = "; pixels are whole numbers from 0 to 255"
    elif fortran:
        wrong = " in Fortran's order"
    if wrong or len(shape) != 4 or shape[3] != 3 or not all(shape):
        raise ValueError(f"{path}: arr_0 must be uint8 (N, H, W, 3), got {dtype} {shape}{wrong}")
    return shape


def _labels(path: Path, count: int) -> np.ndarray:
    if "arr_1" in arrays(path):
        shape, _, dtype = _described(path, "arr_1")
        if shape == (count,) and dtype.kind in "iu":
            return _array(path, "arr_1").astype(np.int64)
    return np.full(count, -1)


@contextmanager
def _archive(path: Path) -> Generator[zipfile.ZipFile]:
    try:
        archive = zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path} is not an .npz file: {error}") from None
    with archive:
        yield archive


@contextmanager
def _member(path: Path, name: str) -> Generator[IO[bytes]]:
    with _archive(path) as archive, archive.open(f"{name}.npy") as file:
        yield file


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether in Fortran's order, and dtype; the file is then at the first number."""
    if np.lib.format.read_magic(file) == (1, 0):
        return np.lib.format.read_array_header_1_0(file)
    return np.lib.format.read_array_header_2_0(file)


def _described(path: Path, name: str) -> tuple[tuple[int, ...], bool, np.dtype]:
    with _member(path, name) as file:
        try:
            return _header(file)
        except DAMAGE as error:
            raise ValueError(f"{path}: {name} cannot be read: {error}") from None


def _array(path: Path, name: str) -> np.ndarray:
    shape, _, dtype = _described(path, name)
    if dtype.kind not in "fiu":
        raise ValueError(f"{path}: {name} must hold numbers, got {dtype} {shape}")
    try:
        with np.load(path) as file:
            return file[name]
    except DAMAGE as error:
        raise ValueError(f"{path}: {name} cannot be read: {error}") from None
