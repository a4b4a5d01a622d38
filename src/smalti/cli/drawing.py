"""`smalti sample`, and the settings of drawing as options. Imports torch when it draws."""

from __future__ import annotations

import inspect
import time
import typing
from collections.abc import Callable
from dataclasses import asdict, dataclass, make_dataclass
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from smalti.arguments import sides
from smalti.cli import catalogue
from smalti.cli.best import best, check_choice, rounds
from smalti.cli.options import KINDS, spelled
from smalti.cli.placing import (
    asked_for,
    check_place,
    drawn,
    finish,
    so_many,
)
from smalti.cli.running import FLAT, Run, check_idle, opened
from smalti.files import check_output
from smalti.interop.starters import STARTER
from smalti.progress import say, show

OUT = Path("samples.png")


@cache
def with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """A command that takes `settings` with an option for each setting of `Sampling`, which is None
    for the pipeline's own."""
    made = list[tuple[str, Any, None]]()
    for name, s in catalogue.settings().items():
        kind = one_or_each(s.hint)
        metavar = None if kind is None else f"{kind.__name__.upper()}[,...]"
        note = arg(help=s.text, metavar=metavar)
        made.append((name, Annotated[(s.hint if kind is None else str) | None, note], None))
    group, signature = make_dataclass("Settings", made, frozen=True), inspect.signature(command)
    parameters = {**signature.parameters}
    parameters["settings"] = parameters["settings"].replace(default=group())
    command.__signature__ = signature.replace(parameters=list(parameters.values()))  # type: ignore[attr-defined]
    command.__annotations__["settings"] = Annotated[group, arg(name="")]
    return command


def chosen(settings: Any) -> dict[str, Any]:
    """The settings that were given, by name."""
    values = {} if settings is None else asdict(settings)
    hints = {name: s.hint for name, s in catalogue.settings().items()}
    given = {name: value for name, value in values.items() if value is not None}
    return {
        name: value if (kind := one_or_each(hints[name])) is None else in_numbers(name, value, kind)
        for name, value in given.items()
    }


def one_or_each(hint: Any) -> Any:
    """The kind of number of a setting that is one number, or one for each code of a position;
    None of any other setting."""
    kinds = typing.get_args(hint)
    return kinds[0] if any(typing.get_origin(kind) is tuple for kind in kinds) else None


def in_numbers(name: str, word: str, kind: Callable[[str], Any]) -> Any:
    """One number, or several with commas between them, as a tuple. Raises ValueError naming the
    option for anything else."""
    try:
        found = tuple(kind(part) for part in word.split(","))
    except ValueError:
        raise ValueError(
            f"{spelled(name)} must be {KINDS[kind]}, or several with commas between them, "
            f"got {word!r}"
        ) from None
    return found[0] if len(found) == 1 else found


@dataclass(frozen=True)
class Conditions:
    """What images are drawn for."""

    classes: Annotated[tuple[str, ...], arg(aliases=["--class"])] = ()
    """Ids or names, drawn in turn; default: all."""
    text: tuple[str, ...] = ()
    """Prompts, drawn in turn, for a pipeline that draws from texts."""
    prompts: Path | None = None
    """A text file with a prompt on each line, after those of --text."""
    negative: str | None = None
    """A prompt that guidance leads away from."""
    style: str | None = None
    """What is added to each prompt, for a pipeline that knows styles: one of them."""
    map: tuple[Path, ...] = ()
    """Maps, drawn in turn, for a pipeline that draws from maps; for one that draws from edges,
    pictures whose edges are taken."""

    def named(self) -> dict[str, Any]:
        """As a pipeline takes them."""
        from smalti.text.prompts import read_prompts

        texts = [*self.text, *(read_prompts(self.prompts) if self.prompts is not None else ())]
        return {
            "classes": self.classes or None,
            "text": texts or None,
            "negative": self.negative,
            "style": self.style,
            "map": list(self.map) or None,
        }


@dataclass(frozen=True)
class Pictures:
    """Images as pictures."""

    n: int | None = None
    """Number of images; default: one of each class or prompt."""
    out: Path = OUT
    """A .png file gets all images as a grid, with a column for each class or prompt under
    its name; any other name is a folder, one PNG per image."""
    best_of: int = 1
    """How many images are drawn for each that is kept: those nearest to their prompt by
    --towers."""
    towers: str | None = None
    """With --best-of: towers that see and read, a folder or a hub id."""
    recaption: str | None = None
    """A pipeline of text and pictures says each prompt in other words first, which are then drawn:
    it completes this phrase, such as "{} is {}.", where the prompt stands in the first {}."""


@dataclass(frozen=True)
class Archive:
    """Images in one file."""

    count: int | None = None
    """With --npz: how many images. Classes or prompts are interleaved: image i has number
    i modulo how many there are, so that every part of the file is as mixed as all of it."""
    npz: Path | None = None
    """An .npz file as evaluations take it (arr_0 uint8 (N, H, W, 3), arr_1 the classes), with
    a .json file beside it. A drawing that was cut off goes on; processes of torchrun share
    the work, and with as many threads each the file is the same."""
    balanced: bool = False
    """With --npz: exactly as many images of each class or prompt; --count must then be a
    multiple of their number. Without it some have one more than others."""


@dataclass(frozen=True)
class Numbers:
    """Which images of a request, of which size, and how many at a time."""

    seed: int = 0
    """Random seed."""
    size: str | None = None
    """Height and width in pixels, such as 48x32, of a pipeline that draws other sizes than its
    own, which is the default."""
    first: int = 0
    """Number of the first image: image i of a seed is always the same."""
    batch: int = 64
    """Images drawn at a time."""
    like: Path | None = None
    """A PNG of one image that smalti drew: draw it again."""
    decoder_dtype: Literal["float32", "bfloat16"] = "float32"
    """What pictures are decoded in; bfloat16 costs a little precision, and pays where the device
    multiplies faster in it."""

    def sized(self) -> dict[str, Any]:
        """The size that is asked for, as a pipeline takes it; nothing if it is its own."""
        return {} if self.size is None else {"size": sides(self.size, "--size")}


def sample(
    pipeline: Annotated[Positional[str], arg(metavar="PIPELINE")] = STARTER,
    conditions: Annotated[Conditions, FLAT] = Conditions(),  # noqa: B008 - it is frozen, as all are
    pictures: Annotated[Pictures, FLAT] = Pictures(),  # noqa: B008
    archive: Annotated[Archive, FLAT] = Archive(),  # noqa: B008
    numbers: Annotated[Numbers, FLAT] = Numbers(),  # noqa: B008
    run: Annotated[Run, FLAT] = Run(),  # noqa: B008
    settings: Any = None,
) -> None:
    """Draw images from a pipeline. Settings not given are the pipeline's own.

    Args:
        pipeline: Folder or Hugging Face hub id; default: the one that comes with smalti.
    """
    from smalti.devices.named import named_dtype
    from smalti.loading import load_towers

    named, changes = conditions.named(), numbers.sized() | chosen(settings)
    check_archive(archive, pictures, numbers)
    if archive.npz is not None:
        sample_npz(pipeline, archive, numbers, named | changes, run)
        return
    check_place(pictures.out)
    check_choice(pictures.best_of, pictures.towers)
    check_again(conditions, pictures, numbers)
    pipe = opened(pipeline, run)
    judge = None if pictures.towers is None else load_towers(pictures.towers, pipe.device)
    pipe.decoder_dtype = named_dtype(numbers.decoder_dtype)
    tag = {} if numbers.like is None else read_tag(numbers.like, pipe)
    again = as_drawn(tag) if tag else {}
    check_idle(pipe, changes, conditions.negative, others=again)
    if tag:
        wanted, n, first, each = again | changes, 1, tag["index"], 1
    else:
        first, each = numbers.first, count_of(pipe, named)
        n = each if pictures.n is None else pictures.n
        named = in_other_words(pipe, named, pictures.recaption, numbers)
        wanted = {"seed": numbers.seed, **named, **changes}
    began, images, batch = time.monotonic(), list[Any](), numbers.batch
    draw = partial(pipe, batch=batch, **wanted)
    for start in rounds(n, first, each, pictures.best_of):
        images += drawn(draw, n, start, batch, pictures.out, keep=judge is None)
    if judge is not None:
        images = best(images, n, [asked_for(i.info["smalti"]) for i in images], judge)
    finish(images, pictures.out, time.monotonic() - began, run.json)


def count_of(pipe: Any, named: dict[str, Any]) -> int:
    """How many conditions are drawn in turn: those that are given, or all that there are."""
    given = named["text"] or named["classes"] or named["map"]
    return max(1, len(given or pipe.classes or pipe.wording.classes))


def in_other_words(
    pipe: Any, named: dict[str, Any], phrase: str | None, numbers: Numbers
) -> dict[str, Any]:
    """What is asked for with texts as the pipeline says them in other words, completing a phrase;
    each is told. Raises ValueError for a pipeline that writes no text, and if there are none."""
    from smalti.pipeline.unified import UnifiedPipeline

    if phrase is None:
        return named
    if not isinstance(pipe, UnifiedPipeline) or not named["text"]:
        raise ValueError(
            "--recaption needs prompts, by --text or --prompts, and a pipeline of text and pictures"
        )
    words = pipe.recaption(named["text"], phrase, seed=numbers.seed, batch=numbers.batch)
    for asked, word in zip(named["text"], words, strict=True):
        say(f"{asked!r} is drawn as {word!r}")
    return named | {"text": words}


def check_archive(archive: Archive, pictures: Pictures, numbers: Numbers) -> None:
    """Raise ValueError for options of pictures and of one file together, or half of the latter."""
    if (archive.count is None) != (archive.npz is None) or (archive.balanced and not archive.npz):
        raise ValueError("--count N and --npz FILE go together, and --balanced with them")
    if archive.npz is not None and (pictures != Pictures() or numbers.like is not None):
        raise ValueError(
            "--n, --out and --like are for pictures, as --best-of, --towers and --recaption are, "
            "not for --npz"
        )


def sample_npz(
    pipeline: str, archive: Archive, numbers: Numbers, wanted: dict[str, Any], run: Run
) -> None:
    """`smalti sample --npz`, on all processes; the main one says what became of it."""
    from smalti.devices.named import named_dtype
    from smalti.pipeline.npz import draw_npz
    from smalti.train.parallel import start, stop

    assert archive.npz is not None and archive.count is not None
    npz, count, began = archive.npz, archive.count, time.monotonic()
    check_output(npz)
    given = {k: getattr(numbers, k) for k in ("seed", "first", "batch")}
    world = start(run.device)
    try:
        pipe = opened(pipeline, run, device=world.device)
        check_idle(pipe, wanted, wanted["negative"])
        pipe.decoder_dtype = named_dtype(numbers.decoder_dtype)
        balanced = archive.balanced
        drawn = draw_npz(pipe, npz, count, balanced=balanced, world=world, **given, **wanted)
    finally:
        stop()
    if not world.main:
        return
    seconds = time.monotonic() - began
    if run.json:
        show({"file": str(npz), "count": count, "drawn": drawn, "seconds": seconds})
    else:
        before = f", {count - drawn} of them before" if drawn < count else ""
        say(f"{npz}: {so_many(count)}{before}, in {seconds:.1f} s")


def check_again(conditions: Conditions, pictures: Pictures, numbers: Numbers) -> None:
    """Raise ValueError if a picture is drawn again, and something else is asked for that would be
    left out."""
    given = {**asdict(conditions), "n": pictures.n, "seed": numbers.seed or None}
    given |= {"first": numbers.first or None, "best-of": pictures.best_of > 1}
    given |= {"recaption": pictures.recaption}
    others = [f"--{name}" for name, value in given.items() if value]
    if numbers.like is not None and others:
        raise ValueError(
            f"--like draws one picture again, with its own condition and seed: {', '.join(others)} "
            "cannot be given with it"
        )


def read_tag(path: Path, pipe: Any) -> dict[str, Any]:
    """The settings in a picture that this pipeline drew; it says in which other numbers, if so."""
    from smalti.cli.info import png_metadata

    tag = png_metadata(path)
    if "index" not in tag:
        raise ValueError(f"{path} does not say how one image was drawn")
    if "edit" in tag:
        raise ValueError(
            f"{path} was edited: give smalti edit the same picture and mask, or instruction, again"
        )
    if tag["pipeline"] != (mark := pipe.fingerprint):
        raise ValueError(f"{path} was drawn by pipeline {tag['pipeline']}, this is {mark}")
    say_other(tag, pipe.precision)
    return tag


def say_other(tag: dict[str, Any], now: dict[str, Any]) -> None:
    """Say in which other numbers a picture was drawn than those in which it is drawn again."""
    from smalti.pipeline.coded import USUAL

    for name, value in (USUAL | now).items():
        if (drawn := (USUAL | tag).get(name, value)) != value:
            say(f"drawn with {spelled(name)} {drawn}, now with {value}: the picture may differ")


def as_drawn(tag: dict[str, Any]) -> dict[str, Any]:
    """What a picture was drawn for and how, as a pipeline takes it. A setting that its tag does not
    name was unknown when it was drawn, so at its default."""
    from smalti.config import renamed, written
    from smalti.pipeline.sampling import Sampling

    tag = renamed(Sampling, tag)
    settings = {name: tag.get(name, value) for name, value in written(Sampling()).items()}
    asked = {name: tag[name] for name in ("text", "negative", "size") if name in tag}
    asked |= {"classes": [tag["class"]]} if "class" in tag else {}
    asked |= {"map": [tag["map"]]} if tag.get("map") else {}
    return {"seed": tag["seed"], **asked, **settings}
