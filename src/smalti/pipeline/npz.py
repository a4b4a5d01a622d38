"""Many images in one .npz file, drawn in parts by any number of processes; cut off, it goes on.

Image i of a request depends on seed and i alone but for the last rounding, which may depend on the
images drawn with it. So the work is cut into parts of `batch` consecutive images, each drawn by one
process and written under the number of its first, whole or not at all: the file is the same however
many processes drew it and however often they were stopped. H and W pixels.
"""

from __future__ import annotations

import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Unpack

import numpy as np
import torch

from smalti import __version__
from smalti.arguments import whole
from smalti.config import read_json, to_dict
from smalti.files import (
    LOCK,
    SETTINGS,
    begin_parts,
    check_own,
    expand,
    is_json_of,
    remove_files,
    replacing,
    write_json,
)
from smalti.pipeline.coded import USUAL
from smalti.pipeline.facts import Json
from smalti.pipeline.pipeline import Pipeline
from smalti.pipeline.request import Drawing, Part, Wanted, divided
from smalti.pipeline.unified import UnifiedPipeline
from smalti.progress import track
from smalti.train.parallel import World, locked, on_main, wait

Drawer = Pipeline | UnifiedPipeline
PART = r"\d{9}\.rgb"
"""Names of parts."""


def draw_npz(
    pipe: Drawer,
    out: Path,
    count: int,
    *,
    first: int = 0,
    batch: int = 64,
    balanced: bool = False,
    world: World | None = None,
    **wanted: Unpack[Wanted],
) -> int:
    """Draw `count` images into the .npz file `out`, and return how many of them were drawn now.

    The other arguments are those of `Pipeline.__call__`; `balanced` insists on as many images of
    each class or prompt. The file holds arr_0, uint8 (count, H, W, 3), and for classes arr_1, int64
    (count,); the .json file beside it says how they were drawn. Until it is there parts wait in the
    folder `out`.parts. Called by all processes of `world`.
    Raises ValueError for numbers that cannot be, if a file or parts of other settings are there,
    and while another process draws the file; KeyboardInterrupt says how many images there are.
    """
    given, how = divided(wanted)
    asked, out = pipe.asked(size=how.get("size"), **given), expand(out)
    world = world or World(0, 1, pipe.device)
    _check(out, len(asked), count, first, batch, balanced)
    drawing = pipe.drawing(asked, **how)
    numbers = {"count": count, "seed": drawing.seed, "first": first, "batch": batch}
    numbers = {name: whole(value, name) for name, value in numbers.items()}
    parts = drawing.parts(count, first, batch)
    settings = numbers | _told(pipe, drawing)
    folder = Folder(out.with_name(out.name + ".parts"), *pipe.tokenizer.size_of(drawing.spec))
    if _finished(out, folder.path, settings):
        return 0
    with locked(world, out.with_name(f".{out.name}{LOCK}"), out):
        on_main(world, lambda: begin_parts(folder.path, settings, PART, "parts of a drawing"))
        missing = [part for part in parts if not folder.has(part)]
        wait(world)  # nobody draws before all have looked
        try:
            _draw(pipe, missing, folder, world)
            if world.main:
                write_json(out.with_suffix(".json"), settings)  # first: by it the other is known
                _join(parts, folder, out)
                remove_files(folder.path, PART, SETTINGS)
        except KeyboardInterrupt:
            have = _images([part for part in parts if folder.has(part)])
            raise KeyboardInterrupt(
                f"stopped; {have} of {count} images are drawn, the same command goes on with the "
                "rest"
            ) from None
    return _images(missing)


def _draw(pipe: Drawer, missing: list[Part], folder: Folder, world: World) -> None:
    """Draw the parts that are missing, this process its share of them."""
    mine = missing[world.rank :: world.size]
    if world.main and mine:
        scale, ours = len(mine[0].asked) * world.size, _images(missing)
        mine = track(mine, "drawing", scale=scale, of=ours)
    for part in mine:
        images = pipe.shown(pipe.drawn(part), part)  # (n, 3, H, W)
        folder.write(part, images.permute(0, 2, 3, 1).cpu().numpy())
    wait(world)


def _images(parts: list[Part]) -> int:
    return sum(len(part.asked) for part in parts)


def _check(out: Path, turns: int, count: int, first: int, batch: int, balanced: bool) -> None:
    if count < 1 or batch < 1 or first < 0:
        raise ValueError(
            "--count and --batch must be at least 1 and --first 0 or more, "
            f"got {count}, {batch}, {first}"
        )
    if out.suffix != ".npz":
        raise ValueError(f"--npz must name a file that ends in .npz, got {out}")
    if balanced and count % turns:
        below = count - count % turns
        near = " or ".join(str(n) for n in (below, below + turns) if n)
        raise ValueError(
            f"--balanced takes a multiple of the {turns} classes or prompts, such as {near}, "
            f"got {count} images"
        )


def _told(pipe: Drawer, drawing: Drawing) -> dict[str, Json]:
    """What the images depend on beside their numbers."""
    drawing.sampling.check(pipe.model, drawing.spec)
    asked = drawing.asked
    if asked and "class" in asked[0]:
        about = {"classes": [a.get("class") for a in asked], "class_names": pipe.classes}
    else:
        about = {key: [a.get(key) for a in asked] for key in asked[0]}
    return {
        **about,
        "pipeline": pipe.fingerprint,
        "size": list(pipe.tokenizer.size_of(drawing.spec)),
        **pipe.precision,
        "device": pipe.device.type,
        "sampling": to_dict(drawing.sampling),
        "versions": {"smalti": __version__, "torch": str(torch.__version__)},
    }


def is_own(out: Path) -> bool:
    """Whether the .json file beside an .npz file says that smalti drew it."""
    return is_json_of(out.with_suffix(".json"), ("pipeline", "count"))


def _finished(out: Path, folder: Path, settings: dict[str, Json]) -> bool:
    """Whether `out` is there. Raises ValueError if it, or what there is of it in `folder`, has
    other settings, and for files of something else."""
    beside, begun = out.with_suffix(".json"), folder / SETTINGS
    for path in (out, beside):
        check_own(path, lambda _: is_own(out))
    told = begun if begun.is_file() else beside
    if told is beside and not out.exists():
        return False
    have, wanted = USUAL | _flat(read_json(told)), USUAL | _flat(settings)
    for name in sorted(have.keys() | wanted.keys()):
        old, new = have.get(name), wanted.get(name)
        if old != new:
            where = folder if told is begun else out
            raise ValueError(
                f"{where} was drawn with {name} {_cut(old)}, now it is {_cut(new)}: "
                "give the same settings or another name, or remove it"
            )
    return told is beside


def _flat(settings: dict[str, Json]) -> dict[str, Json]:
    """Settings and those of their groups under one name each."""
    groups = [settings, *(value for value in settings.values() if isinstance(value, dict))]
    return {k: v for group in groups for k, v in group.items() if not isinstance(v, dict)}


def _cut(value: Json) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


@dataclass(frozen=True)
class Folder:
    """A folder of finished parts: the pixels of their images, row by row."""

    path: Path
    height: int
    width: int

    def file(self, part: Part) -> Path:
        return self.path / f"{part.offset:09d}.rgb"

    def has(self, part: Part) -> bool:
        file, size = self.file(part), len(part.asked) * self.height * self.width * 3
        return file.is_file() and file.stat().st_size == size

    def write(self, part: Part, pixels: np.ndarray) -> None:
        """Write uint8 pixels (n, H, W, 3) onto the disk, or nothing."""
        with replacing(self.file(part)) as temporary, open(temporary, "wb") as file:
            file.write(np.ascontiguousarray(pixels).data)
            file.flush()
            os.fsync(file.fileno())


def _join(parts: list[Part], folder: Folder, out: Path) -> None:
    """Write the .npz file of all parts, one in memory at a time; its bytes depend on nothing else.

    The name of an array in the archive has no date, so that equal images give equal files.
    """
    shape = (_images(parts), folder.height, folder.width, 3)
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    labels = [asked["class"] for part in parts for asked in part.asked if "class" in asked]
    with replacing(out) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        with archive.open(zipfile.ZipInfo("arr_0.npy"), "w", force_zip64=True) as file:
            np.lib.format.write_array_header_1_0(file, header)
            for part in parts:
                file.write(folder.file(part).read_bytes())
        if labels:
            with archive.open(zipfile.ZipInfo("arr_1.npy"), "w") as file:
                np.lib.format.write_array(file, np.array(labels, np.int64))
