"""Maps beside pictures: `depth/NAME` and `segmentation/NAME` of the picture `NAME` in a folder.

A map has the size of its picture, both as their EXIF orientations say that they stand, and may be
another kind of file. A depth is grey. A segmentation has in each pixel the number of a kind of
thing, as a grey or as a place in a palette; numbers are never averaged, so its picture is one of a
palette (mode P), which is resized by nearest pixels.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from PIL import Image

from smalti.data.decode import Picture, decode, numbers_of, opened, to_rgb, upright_size
from smalti.data.source import Example, Source, digest

KINDS = ("depth", "segmentation")
"""Names of folders of maps."""
CHECKED = 20_000
"""Of so many maps the size is compared when a source is opened."""


class Mapped(Source, Protocol):
    """A source with maps."""

    root: Path

    def file(self, i: int) -> str:
        """The file of picture i, relative to the root."""
        ...


def stem(file: str) -> str:
    """A file without its ending."""
    return str(PurePosixPath(file).with_suffix(""))


def apart(files: Iterable[str]) -> tuple[list[str], dict[str, dict[str, str]]]:
    """The pictures among files relative to a folder, and the maps of each kind that has any, by the
    picture's file without its ending. A folder of that name which has none is like any other."""
    pictures, maps = list(files), dict[str, dict[str, str]]()
    inside = {kind: [f for f in pictures if f.startswith(f"{kind}/")] for kind in KINDS}
    names = {stem(f) for f in pictures if not f.startswith(tuple(f"{kind}/" for kind in KINDS))}
    for kind, some in inside.items():
        found = {stem(f.removeprefix(f"{kind}/")): f for f in some}
        if found.keys() & names:
            maps[kind] = found
            pictures = [f for f in pictures if f not in set(some)]
    return pictures, maps


def with_maps(source: Source, kind: str) -> Any:
    """The source itself, which has such maps; '' and edges need none.

    Raises ValueError if it has no such maps, none of a picture, or one of another size.
    """
    if kind not in KINDS:
        return source
    maps = source.maps.get(kind)
    if maps is None:
        raise ValueError(
            f"{source.name} has no maps: {kind} maps are files in a folder {kind} beside the "
            "pictures, with the same names"
        )
    mapped: Mapped = source  # pyright: ignore[reportAssignmentType]
    missing = [f for f in map(mapped.file, range(len(source))) if stem(f) not in maps]
    if missing:
        raise ValueError(
            f"{source.name}: {len(missing)} of {len(source)} pictures have no map in {kind}/, "
            f"such as {missing[0]}"
        )
    for i in range(min(len(source), CHECKED)):
        check_size(mapped, i, kind)
    return mapped


def check_size(source: Mapped, i: int, kind: str) -> None:
    """Raise ValueError if the map of picture i has another size, both upright."""
    names = source.file(i), source.maps[kind][stem(source.file(i))]
    with Image.open(source.root / names[0]) as picture, Image.open(source.root / names[1]) as map:
        (width, height), wanted = upright_size(map), upright_size(picture)
        if (width, height) != wanted:
            raise ValueError(
                f"{source.name}: {names[1]} has {width} x {height} pixels, its picture "
                f"{names[0]} {wanted[0]} x {wanted[1]}"
            )


def map_of(source: Mapped, i: int, kind: str) -> Image.Image:
    """The map of picture i. Raises ValueError if it cannot be read, or has another size."""
    if i >= CHECKED:
        check_size(source, i, kind)
    file = source.maps[kind][stem(source.file(i))]
    return read_map(source.root / file, kind)


def read_map(file: Path, kind: str) -> Image.Image:
    """A file of a map as a picture. Raises ValueError naming it if it cannot be read as one."""
    if kind == "segmentation":
        return numbers_of(opened(file, ""), str(file))
    return decode(file, str(file))


def as_map(picture: Picture, kind: str) -> Image.Image:
    """A map, or of edges the picture itself, in any form that people have it in."""
    image, name = opened(picture, "the map"), "the map"
    if isinstance(picture, str | Path):
        name = str(picture)
    return numbers_of(image, name) if kind == "segmentation" else to_rgb(image, name)


class MapsOf(Source):
    """The maps of a source as pictures, with the keys, labels and captions of theirs."""

    def __init__(self, source: Source, kind: str) -> None:
        self.source, self.kind = with_maps(source, kind), kind
        self.name, self.classes, self.skipped = source.name, source.classes, source.skipped
        self.group, self.credit = source.group, source.credit

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, i: int) -> Example:
        return Example(map_of(self.source, i, self.kind), self.label(i), self.caption(i))

    def label(self, i: int) -> int:
        return self.source.label(i)

    def caption(self, i: int) -> str:
        return self.source.caption(i)

    def key(self, i: int) -> str:
        return self.source.key(i)

    def size(self, i: int) -> int:
        """Bytes of the map's file."""
        file = self.source.maps[self.kind][stem(self.source.file(i))]
        return (self.source.root / file).stat().st_size

    def fingerprint(self) -> str:
        sizes = [self.size(i) for i in range(len(self))]
        return digest([self.source.fingerprint(), self.kind, sizes])


def alone(source: Source, kind: str) -> Source:
    """The pictures that codes of such maps are made of: maps, or of edges the pictures."""
    return MapsOf(source, kind) if kind in KINDS else source
