"""`smalti edit`. Imports torch when it draws."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from smalti.cli.drawing import chosen
from smalti.cli.placing import (
    check_place,
    drawn,
    finish,
)
from smalti.cli.running import FLAT, UNKNOWN, UNSEEN, Run, check_idle, opened
from smalti.interop.starters import STARTER

FILLED = "a model that draws codes in a row: this one knows them all from the start"
"""What an order of what is known needs."""


@dataclass(frozen=True)
class Original:
    """The picture that is edited."""

    image: Path
    """Picture; one of another size than the model's is resized and cropped to its middle."""
    mask: Path | None = None
    """Picture of the same size. Where it has transparency, what is transparent is painted
    anew, whatever its colours; of any other, what is white. The rest is kept."""


@dataclass(frozen=True)
class Subject:
    """What the painted part is drawn for."""

    classes: Annotated[tuple[str, ...], arg(name="class", aliases=["--classes"])] = ()
    """Ids or names, drawn in turn; default: without a class."""
    text: tuple[str, ...] = ()
    """Prompts, drawn in turn, for a pipeline that draws from texts; default: without a text."""
    negative: str | None = None
    """A prompt that guidance leads away from."""
    style: str | None = None
    """What is added to each prompt, for a pipeline that knows styles: one of them."""
    map: tuple[Path, ...] = ()
    """Maps of the picture, drawn in turn, for a pipeline that draws from maps; default: without a
    map. Each has the picture's size."""
    instruct: str | None = None
    """What is to be changed, for a pipeline of text and pictures: it draws the whole picture
    anew."""


@dataclass(frozen=True)
class Around:
    """What lies around the painted part."""

    extend: str | None = None
    """Pixels to add at the sides, such as left=16,top=8, at the model's size."""
    keep_pixels: bool = False
    """What is kept comes back bit by bit, with a seam inside the painted part,
    instead of as the tokenizer's reconstruction."""


@dataclass(frozen=True)
class Edited:
    """Which pictures are drawn, and where they are written."""

    n: int | None = None
    """Number of pictures; default: one of each class or prompt."""
    out: Path = Path("edited.png")
    """A .png file gets all pictures as a grid, with a column for each class or prompt under
    its name; any other name is a folder, one PNG per picture."""
    seed: int = 0
    """Random seed."""
    first: int = 0
    """Number of the first picture: picture i of a seed is always the same."""
    batch: int = 64
    """Pictures drawn at a time."""


def edit(
    original: Annotated[Original, FLAT],
    pipeline: Annotated[Positional[str], arg(metavar="PIPELINE")] = STARTER,
    subject: Annotated[Subject, FLAT] = Subject(),  # noqa: B008 - it is frozen, as all are
    around: Annotated[Around, FLAT] = Around(),  # noqa: B008
    edited: Annotated[Edited, FLAT] = Edited(),  # noqa: B008
    run: Annotated[Run, FLAT] = Run(),  # noqa: B008
    settings: Any = None,
) -> None:
    """Paint a part of a picture anew, or go on beyond its edges.

    Args:
        pipeline: Folder or Hugging Face hub id; default: the one that comes with smalti.
    """
    check_place(edited.out)
    if subject.instruct is not None:
        instruct(pipeline, original, subject, around, edited, run, chosen(settings))
        return
    from smalti.pipeline.editing import Extend

    task = {"mask": original.mask, "keep_pixels": around.keep_pixels}
    task["extend"] = None if around.extend is None else Extend.parse(around.extend)
    wanted = {name: value or None for name, value in asdict(subject).items() if name != "instruct"}
    wanted["map"] = list(subject.map) or None
    given, each = chosen(settings), len(subject.text or subject.classes or subject.map)
    wanted |= {"seed": edited.seed, **given}
    pipe = opened(pipeline, run)
    nothing = not each and subject.negative is None
    others = {"guidance": 1.0, "guidance_pictures": None} if nothing else {}
    first = {} if pipe.model.draws_by != "masked" else {"known_first": FILLED}
    check_idle(pipe, given, subject.negative, UNSEEN | first, others)
    n = max(1, each) if edited.n is None else edited.n
    began, batch = time.monotonic(), edited.batch
    draw = partial(pipe.edit, original.image, **task, **wanted, batch=batch)
    images = drawn(draw, n, edited.first, batch, edited.out)
    finish(images, edited.out, time.monotonic() - began, run.json)


def instruct(
    pipeline: str,
    original: Original,
    subject: Subject,
    around: Around,
    edited: Edited,
    run: Run,
    changes: dict[str, Any],
) -> None:
    """`smalti edit --instruct`."""
    if (original.mask, around, replace(subject, instruct=None)) != (None, Around(), Subject()):
        raise ValueError(
            "--instruct says what is to be changed: --mask, --extend, --keep-pixels, --text, "
            "--class, --negative and --map do not go with it"
        )
    assert subject.instruct is not None
    pipe = opened(pipeline, run, unified=True)
    check_idle(pipe, changes, lacks=UNKNOWN)
    began, n = time.monotonic(), 1 if edited.n is None else edited.n
    draw = partial(pipe.instruct, original.image, subject.instruct, seed=edited.seed, **changes)
    images = drawn(draw, n, edited.first, edited.batch, edited.out)
    finish(images, edited.out, time.monotonic() - began, run.json)
