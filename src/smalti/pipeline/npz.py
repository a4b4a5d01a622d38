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
from typing import Any

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
from smalti.pipeline.pipeline import Pipeline
from smalti.pipeline.request import Asked
from smalti.progress import track
from smalti.train.parallel import World, locked, on_main, wait

PART = r"\d{9}\.rgb"
"""Names of parts."""


def draw_npz(
    pipe: Pipeline,
    out: Path,
    count: int,
    request: dict[str, Any],
    *,
    seed: int = 0,
    first: int = 0,
    batch: int = 64,
    balanced: bool = False,
    world: World | None = None,
    **sampling: Any,
) -> int:
    """Draw `count` images into the .npz file `out`, and return how many of them were drawn now.

    `request` are conditions as `Pipeline.__call__` takes them, in turn; `balanced` insists on as
    many images of each. The file holds arr_0, uint8 (count, H, W, 3), and for classes arr_1, int64
    (count,); the .json file beside it says how they were drawn. Until it is there parts wait in the
    folder `out`.parts. Called by all processes of `world`.
    Raises ValueError for numbers that cannot be, if a file or parts of other settings are there,
    and while another process draws the file; KeyboardInterrupt says how many images there are.
    """
    out, asked, world = expand(out), pipe.asked(**request), world or World(0, 1, pipe.device)
    _check(out, len(asked), count, first, batch, balanced)
    numbers = {"count": count, "seed": seed, "first": first, "batch": batch}
    numbers = {name: whole(value, name) for name, value in numbers.items()}
    settings = numbers | _told(pipe, asked, sampling)
    height, width = pipe.tokenizer.config.size
    parts = Parts(out.with_name(out.name + ".parts"), count, batch, height, width)
    if _finished(out, parts.folder, settings):
        return 0
    with locked(world, out.with_name(f".{out.name}{LOCK}"), out):
        labels = [a["class"] for a in asked if "class" in a]
        turns = [labels[(first + i) % len(labels)] for i in range(count)] if labels else []
        return _drawn(pipe, out, parts, settings, turns, world, **request, **sampling)


def _drawn(
    pipe: Pipeline,
    out: Path,
    parts: Parts,
    settings: dict[str, Any],
    labels: list[int],
    world: World,
    **given: Any,
) -> int:
    """Draw the parts that are missing, join all, and return how many images were drawn."""
    count, batch, first = parts.count, parts.batch, settings["first"]
    on_main(world, lambda: begin_parts(parts.folder, settings, PART, "parts of a drawing"))
    missing = [start for start in range(0, count, batch) if not parts.has(start)]
    wait(world)  # nobody draws before all have looked
    mine, ours = missing[world.rank :: world.size], sum(map(parts.length, missing))
    try:
        for start in (
            track(mine, "drawing", scale=batch * world.size, of=ours) if world.main else mine
        ):
            n = parts.length(start)
            at = {"n": n, "first": first + start, "seed": settings["seed"], "batch": n}
            images = pipe(**given, **at)
            parts.write(start, np.stack([np.asarray(image) for image in images]))
        wait(world)
        if world.main:
            write_json(out.with_suffix(".json"), settings)  # first: by it the other one is known
            _join(parts, labels, out)
            remove_files(parts.folder, PART, SETTINGS)
    except KeyboardInterrupt:
        have = sum(parts.length(s) for s in range(0, count, batch) if parts.has(s))
        raise KeyboardInterrupt(
            f"stopped; {have} of {count} images are drawn, the same command goes on with the rest"
        ) from None
    return sum(map(parts.length, missing))


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
            f"got --count {count}"
        )


def _told(pipe: Pipeline, asked: list[Asked], changes: dict[str, Any]) -> dict[str, Any]:
    """What the images depend on beside their numbers, as JSON values."""
    settings = pipe.settings(changes)
    settings.check(pipe.model)
    if "class" in asked[0]:
        about = {"classes": [a["class"] for a in asked], "class_names": pipe.classes}
    else:
        about = {key: [a[key] for a in asked] for key in asked[0]}
    return {
        **about,
        "pipeline": pipe.fingerprint,
        "size": list(pipe.tokenizer.config.size),
        "dtype": str(pipe.dtype).removeprefix("torch."),
        "device": pipe.device.type,
        "sampling": to_dict(settings),
        "versions": {"smalti": __version__, "torch": str(torch.__version__)},
    }


def is_own(out: Path) -> bool:
    """Whether the .json file beside an .npz file says that smalti drew it."""
    return is_json_of(out.with_suffix(".json"), ("pipeline", "count"))


def _finished(out: Path, folder: Path, settings: dict[str, Any]) -> bool:
    """Whether `out` is there. Raises ValueError if it, or what there is of it in `folder`, has
    other settings, and for files of something else."""
    beside, begun = out.with_suffix(".json"), folder / SETTINGS
    for path in (out, beside):
        check_own(path, lambda _: is_own(out))
    told = begun if begun.is_file() else beside
    if told is beside and not out.exists():
        return False
    have, wanted = _flat(read_json(told)), _flat(settings)
    for name in sorted(have.keys() | wanted.keys()):
        old, new = have.get(name), wanted.get(name)
        if old != new:
            where = folder if told is begun else out
            raise ValueError(
                f"{where} was drawn with {name} {_short(old)}, now it is {_short(new)}: "
                "give the same settings or another name, or remove it"
            )
    return told is beside


def _flat(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings and those of their groups under one name each."""
    groups = [settings, *(value for value in settings.values() if isinstance(value, dict))]
    return {k: v for group in groups for k, v in group.items() if not isinstance(v, dict)}


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


@dataclass(frozen=True)
class Parts:
    """A folder of finished parts: the pixels, row by row, of up to `batch` images each."""

    folder: Path
    count: int
    batch: int
    height: int
    width: int

    def length(self, start: int) -> int:
        """The number of images of the part that begins with number `start`."""
        return min(self.batch, self.count - start)

    def path(self, start: int) -> Path:
        return self.folder / f"{start:09d}.rgb"

    def has(self, start: int) -> bool:
        path, size = self.path(start), self.length(start) * self.height * self.width * 3
        return path.is_file() and path.stat().st_size == size

    def write(self, start: int, pixels: np.ndarray) -> None:
        """Write uint8 pixels (n, H, W, 3) onto the disk, or nothing."""
        with replacing(self.path(start)) as temporary, open(temporary, "wb") as file:
            file.write(pixels.data)
            file.flush()
            os.fsync(file.fileno())


def _join(parts: Parts, labels: list[int], out: Path) -> None:
    """Write the .npz file of all parts, one in memory at a time; its bytes depend on nothing else.

    The name of an array in the archive has no date, so that equal images give equal files.
    """
    shape = (parts.count, parts.height, parts.width, 3)
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    with replacing(out) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        with archive.open(zipfile.ZipInfo("arr_0.npy"), "w", force_zip64=True) as file:
            np.lib.format.write_array_header_1_0(file, header)
            for start in range(0, parts.count, parts.batch):
                file.write(parts.path(start).read_bytes())
        if labels:
            with archive.open(zipfile.ZipInfo("arr_1.npy"), "w") as file:
                np.lib.format.write_array(file, np.array(labels, np.int64))
