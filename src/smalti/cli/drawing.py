"""`smalti sample` and `smalti edit`, and what they share. Imports torch when it draws."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, make_dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from smalti.files import OTHER_KINDS, check_file, check_output, check_own, sweep
from smalti.progress import say, show, track

OUT = Path("samples.png")
Device = Annotated[str, arg(metavar="DEVICE")]
Dtype = Annotated[str, arg(metavar="DTYPE")]
UNLABELLED = "image"
"""The class of images that have none."""


def with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """A command that takes `settings` with an option for each setting of `Sampling`, which is None
    for the pipeline's own. Imports torch."""
    from smalti.cli.options import field_docs
    from smalti.config import settings_of
    from smalti.pipeline.sampling import Sampling

    made = [
        (name, Annotated[s.hint | None, arg(help=field_docs(s.owner)[s.field.name])], None)
        for name, s in settings_of(Sampling).items()
    ]
    group, signature = make_dataclass("Settings", made, frozen=True), inspect.signature(command)
    parameters = {**signature.parameters}
    parameters["settings"] = parameters["settings"].replace(default=group())
    command.__signature__ = signature.replace(parameters=list(parameters.values()))  # type: ignore[attr-defined]
    command.__annotations__["settings"] = Annotated[group, arg(name="")]
    return command


def chosen(settings: Any) -> dict[str, Any]:
    """The settings that were given, by name."""
    values = {} if settings is None else asdict(settings)
    return {name: value for name, value in values.items() if value is not None}


def sample(
    pipeline: Annotated[Positional[str], arg(metavar="PIPELINE")],
    classes: Annotated[tuple[str, ...], arg(aliases=["--class"])] = (),
    text: tuple[str, ...] = (),
    prompts: Path | None = None,
    negative: str | None = None,
    n: int | None = None,
    out: Path = OUT,
    count: int | None = None,
    npz: Path | None = None,
    balanced: bool = False,
    settings: Any = None,
    seed: int = 0,
    first: int = 0,
    batch: int = 64,
    like: Path | None = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    json: bool = False,
) -> None:
    """Draw images from a pipeline. Settings not given are the pipeline's own.

    Args:
        pipeline: Folder or Hugging Face hub id.
        classes: Ids or names, drawn in turn; default: all.
        text: Prompts, drawn in turn, for a pipeline that draws from texts.
        prompts: A text file with a prompt on each line, after those of --text.
        negative: A prompt that guidance leads away from.
        n: Number of images; default: one of each class or prompt.
        out: A .png file gets all images as a grid, with a column for each class or prompt under
            its name; any other name is a folder, one PNG per image.
        count: With --npz: how many images. Classes or prompts are interleaved: image i has number
            i modulo how many there are, so that every part of the file is as mixed as all of it.
        npz: An .npz file as evaluations take it (arr_0 uint8 (N, H, W, 3), arr_1 the classes), with
            a .json file beside it. A drawing that was cut off goes on; processes of torchrun share
            the work, and with as many threads each the file is the same.
        balanced: With --npz: exactly as many images of each class or prompt; --count must then be a
            multiple of their number. Without it some have one more than others.
        seed: Random seed.
        first: Number of the first image: image i of a seed is always the same.
        batch: Images drawn at a time.
        like: A PNG of one image that smalti drew: draw it again.
        device: Where it is computed: auto (the best there is), cpu, cuda, cuda:1 or mps.
        dtype: Of the generator's weights: float32, bfloat16, float16, or auto, which is bfloat16
            where the device is faster in it and float32 elsewhere.
        json: Print files and settings on standard output.
    """
    from functools import partial

    from smalti.config import written
    from smalti.loading import load
    from smalti.text.prompts import read_prompts

    texts = [*text, *(read_prompts(prompts) if prompts is not None else ())]
    request = {"classes": classes or None, "text": texts or None, "negative": negative}
    changes = chosen(settings)
    if (count is None) != (npz is None) or (balanced and npz is None):
        raise ValueError("--count N and --npz FILE go together, and --balanced with them")
    if npz is not None and count is not None:
        if n is not None or like is not None or out != OUT:
            raise ValueError("--n, --out and --like are for pictures, not for --npz")
        given = {"seed": seed, "first": first, "batch": batch, "balanced": balanced, **changes}
        sample_npz(pipeline, npz, count, request, given, (device, dtype), json)
        return
    check_place(out)
    pipe = load(pipeline, device, dtype)
    if like is not None:
        tag = read_tag(like, pipe.fingerprint)
        # a setting that the picture does not name was unknown when it was drawn, so at its default
        usual = written(type(pipe.sampling)())
        changes = {name: tag.get(name, value) for name, value in usual.items()} | changes
        n, seed, first = 1, tag["seed"], tag["index"]
        request = {k: tag[k] for k in ("text", "negative") if k in tag}
        request |= {"classes": [tag["class"]]} if "class" in tag else {}
    else:
        n = n if n is not None else max(1, len(texts or classes or pipe.classes))
    finish(partial(pipe, seed=seed, **request, **changes), out, n, first, batch, json)


def sample_npz(
    pipeline: str,
    npz: Path,
    count: int,
    request: dict[str, Any],
    given: dict[str, Any],
    place: tuple[str, str],
    json: bool,
) -> None:
    """`smalti sample --npz`, on all processes; the main one says what became of it. `place` are
    device and dtype."""
    from smalti.loading import load
    from smalti.pipeline.npz import draw_npz
    from smalti.train.parallel import start, stop

    check_output(npz)
    (device, dtype), began = place, time.monotonic()
    world = start(device)
    try:
        pipe = load(pipeline, world.device, dtype)
        drawn = draw_npz(pipe, npz, count, world=world, **request, **given)
    finally:
        stop()
    if not world.main:
        return
    seconds = time.monotonic() - began
    if json:
        show({"file": str(npz), "count": count, "drawn": drawn, "seconds": seconds})
    else:
        before = f", {count - drawn} of them before" if drawn < count else ""
        say(f"{npz}: {count} images{before}, in {seconds:.1f} s")


def read_tag(path: Path, fingerprint: str) -> dict[str, Any]:
    """The settings in a picture that this pipeline drew."""
    from smalti.cli.info import png_metadata

    tag = png_metadata(path)
    if "index" not in tag:
        raise ValueError(f"{path} does not say how one image was drawn")
    if "edit" in tag:
        raise ValueError(f"{path} was edited: give smalti edit the same picture and mask again")
    if tag["pipeline"] != fingerprint:
        raise ValueError(f"{path} was drawn by pipeline {tag['pipeline']}, this is {fingerprint}")
    return tag


def edit(
    pipeline: Annotated[Positional[str], arg(metavar="PIPELINE")],
    image: Path,
    mask: Path | None = None,
    classes: Annotated[tuple[str, ...], arg(name="class", aliases=["--classes"])] = (),
    text: tuple[str, ...] = (),
    negative: str | None = None,
    extend: str | None = None,
    keep_pixels: bool = False,
    n: int | None = None,
    out: Path = Path("edited.png"),
    settings: Any = None,
    seed: int = 0,
    first: int = 0,
    batch: int = 64,
    device: Device = "auto",
    dtype: Dtype = "auto",
    json: bool = False,
) -> None:
    """Paint a part of a picture anew, or go on beyond its edges.

    Args:
        pipeline: Folder or Hugging Face hub id.
        image: Picture; one of another size than the model's is resized and cropped to its middle.
        mask: Picture of the same size. Where it has transparency, what is transparent is painted
            anew, whatever its colours; of any other, what is white. The rest is kept.
        classes: Ids or names, drawn in turn; default: without a class.
        text: Prompts, drawn in turn, for a pipeline that draws from texts; default: without a text.
        negative: A prompt that guidance leads away from.
        extend: Pixels to add at the sides, such as left=16,top=8, at the model's size.
        keep_pixels: What is kept comes back bit by bit, with a seam inside the painted part,
            instead of as the tokenizer's reconstruction.
        n: Number of pictures; default: one of each class or prompt.
        out: A .png file gets all pictures as a grid, with a column for each class or prompt under
            its name; any other name is a folder, one PNG per picture.
        seed: Random seed.
        first: Number of the first picture: picture i of a seed is always the same.
        batch: Pictures drawn at a time.
        device: Where it is computed: auto (the best there is), cpu, cuda, cuda:1 or mps.
        dtype: Of the generator's weights: float32, bfloat16, float16, or auto, which is bfloat16
            where the device is faster in it and float32 elsewhere.
        json: Print files and settings on standard output.
    """
    check_place(out)
    from smalti.loading import load
    from smalti.pipeline.editing import Extend

    sides = None if extend is None else Extend.parse(extend)
    pipe = load(pipeline, device, dtype)

    def draw(**part: int) -> list[Any]:
        return pipe.edit(
            image,
            mask,
            classes=classes or None,
            text=text or None,
            negative=negative,
            extend=sides,
            keep_pixels=keep_pixels,
            seed=seed,
            **part,
            **chosen(settings),
        )

    finish(draw, out, max(1, len(text or classes)) if n is None else n, first, batch, json)


def finish(
    draw: Callable[..., list[Any]],
    out: Path,
    n: int,
    first: int,
    batch: int,
    json: bool,
) -> None:
    """Draw images first ... first + n - 1 by `draw(n=, first=)`, write them and say so."""
    if n < 1 or batch < 1 or first < 0:
        raise ValueError(
            f"--n and --batch must be at least 1 and --first 0 or more, got {n}, {batch}, {first}"
        )
    if out.suffix.lower() != ".png":
        check_numbers(out, range(first, first + n))
    began = time.monotonic()
    images: list[Any] = []
    for start in track(range(0, n, batch), "drawing", scale=batch, of=n):
        # conditions go by the image's number, so parts of a request join up
        images += draw(n=min(batch, n - start), first=first + start, batch=batch)
    seconds = time.monotonic() - began
    files = write(images, out)
    speed = len(images) / seconds
    if json:
        tags = [image.info["smalti"] for image in images]
        names = [str(file) for file in files]
        show({"files": names, "seconds": seconds, "images_per_s": speed, "images": tags})
    else:
        say(f"{out}: {len(images)} images in {seconds:.1f} s, {speed:.1f} per s")


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
