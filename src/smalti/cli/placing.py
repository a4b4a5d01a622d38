"""Where `smalti sample` and `smalti edit` put what they draw: one PNG, or a folder of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from smalti.files import OTHER_KINDS, check_file, check_output, check_own, sweep
from smalti.progress import say, show, track

UNLABELLED = "image"
"""The class of images that have none."""


def batches(n: int, first: int, batch: int, out: Path) -> Iterator[tuple[int, int]]:
    """Images first ... first + n - 1 batch by batch: the number of the first, and how many.
    Conditions go by the image's number, so parts of a request join up.

    Raises ValueError for bad numbers, and if the images in `out` would replace somebody's files.
    """
    if n < 1 or batch < 1 or first < 0:
        raise ValueError(
            f"--n and --batch must be at least 1 and --first 0 or more, got {n}, {batch}, {first}"
        )
    if out.suffix.lower() != ".png":
        check_numbers(out, range(first, first + n))
    for start in track(range(0, n, batch), "drawing", scale=batch, of=n):
        yield first + start, min(batch, n - start)


def drawn(
    draw: Callable[..., Sequence[Any]],
    n: int,
    first: int,
    batch: int,
    out: Path,
    keep: bool = True,
) -> list[Any]:
    """Images first ... first + n - 1, of which `draw` draws the `n` from `first` on. Stopped by
    Ctrl-C it writes those that are drawn into the folder `out`, if that is one and they are to be
    kept; KeyboardInterrupt says so, and which are left.

    Raises ValueError as `batches` does.
    """
    images = list[Any]()
    try:
        for number, count in batches(n, first, batch, out):
            images += draw(n=count, first=number)
    except KeyboardInterrupt:
        if not (images and keep) or out.suffix.lower() == ".png":
            raise
        write(images, out)
        done = len(images)
        raise KeyboardInterrupt(
            f"stopped; {done} of {n} images are in {out}, --first {first + done} --n {n - done} "
            "draws the others"
        ) from None
    return images


def finish(images: Sequence[Any], out: Path, seconds: float, json: bool) -> None:
    """Write images that were drawn in so many seconds, and say so."""
    files = write(images, out)
    speed = len(images) / seconds
    if json:
        tags = [image.info["smalti"] for image in images]
        names = [str(file) for file in files]
        show({"files": names, "seconds": seconds, "images_per_s": speed, "images": tags})
    else:
        say(f"{out}: {so_many(len(images))} in {seconds:.1f} s, {speed:.1f} per s")


def so_many(count: int) -> str:
    """A number of images in words."""
    return "1 image" if count == 1 else f"{count} images"


def check_place(out: Path) -> None:
    """Raise ValueError unless pictures can be written to `out`: one PNG, or a folder of them."""
    from smalti.pictures import is_own

    if out.suffix.lower() == ".png":
        check_file(out, ".png", is_own)
        return
    if out.suffix.lower() in OTHER_KINDS and not out.is_dir():
        raise ValueError(f"{out}: pictures are written as .png, or into a folder, not {out.suffix}")
    check_output(out, folder=True)


def check_numbers(folder: Path, numbers: range) -> None:
    """Raise ValueError if a picture of these numbers would take the place of somebody's file."""
    from smalti.pictures import is_own

    sweep(folder)
    for number in numbers if folder.is_dir() else ():
        check_own(picture(folder, number), is_own)


def picture(folder: Path, number: int) -> Path:
    """The file of the picture with a number."""
    return folder / f"{number:06d}.png"


def write(images: Sequence[Any], out: Path) -> list[Path]:
    """Write images into one PNG, under the names of their classes or prompts, or, under any other
    name, into a folder."""
    from smalti.pictures import named_grid, save_png

    if out.suffix.lower() != ".png":
        files = [picture(out, image.info["smalti"]["index"]) for image in images]
        for image, file in zip(images, files, strict=True):
            save_png(image, file)
        return files
    if len(images) == 1:
        save_png(images[0], out)
        return [out]
    zoom = 2 if images[0].width <= 64 else 1
    tags = [image.info["smalti"] for image in images]
    save_png(named_grid(images, [asked_for(tag) for tag in tags], zoom), out, {"images": tags})
    return [out]


def asked_for(tag: dict[str, Any]) -> str:
    """The prompt or the class that an image was drawn for; "" if for none, or for the only class of
    images without labels."""
    name = str(tag.get("text") or tag.get("class_name") or "")
    return "" if "class" in tag and name == UNLABELLED else name
