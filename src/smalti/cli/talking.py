"""`smalti ask`, `caption` and `chat`: what a pipeline of text and pictures says. Imports torch when
it begins."""

from __future__ import annotations

import json as jsons
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import count, groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, UseAppendAction, arg

from smalti.cli.drawing import chosen
from smalti.cli.options import spelled
from smalti.cli.placing import picture
from smalti.cli.running import FLAT, UNKNOWN, Run, check_idle, opened
from smalti.cli.terminal import shown
from smalti.files import LOCK, check_output, lock
from smalti.progress import say, show, track

if TYPE_CHECKING:
    from smalti.pipeline.unified import Said, Shown

Images = UseAppendAction[tuple[Path, ...]]
"""Files of pictures, each behind an option of its own, so that words may follow."""


@dataclass(frozen=True)
class Text:
    """How text is written; what is not given is the pipeline's own."""

    words: int | None = None
    """Ids that are written at most before a picture or the end."""
    text_temperature: float | None = None
    """Below 1 keeps to likely words, above 1 is more varied; 0 takes the likeliest."""
    text_top_k: int | None = None
    """Draw from the k likeliest ids; 0 draws from all."""
    text_top_p: float | None = None
    """Draw from the likeliest ids that hold this probability mass; 1 draws from all."""
    penalty: float | None = None
    """Above 1 makes ids less likely that are there already; 1 is off."""

    def given(self) -> dict[str, Any]:
        """What is given, by name."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def ask(
    pipeline: Annotated[Positional[str], arg(metavar="PIPELINE")],
    question: Annotated[Positional[str], arg(metavar="QUESTION")],
    image: Images = (),
    seed: int = 0,
    text: Annotated[Text, FLAT] = Text(),  # noqa: B008 - it is frozen, as all are
    run: Annotated[Run, FLAT] = Run(),  # noqa: B008
) -> None:
    """Answer a question about pictures.

    Args:
        pipeline: Folder or Hugging Face hub id of a pipeline of text and pictures.
        question: What is asked; where it says <image>, pictures stand there, in turn, else before
            it.
        image: A picture; once more for each of several.
        seed: Random seed.
    """
    if not image:
        raise ValueError("--image FILE is missing: what is asked about")
    pipe = opened(pipeline, run, unified=True)
    answer = pipe.ask(list(image), question, seed=seed, **text.given())
    if run.json:
        show({"images": [str(i) for i in image], "question": question, "answer": answer})
    else:
        print(answer)


def caption(
    pipeline: Annotated[Positional[str], arg(metavar="PIPELINE")],
    pictures: Annotated[Positional[str], arg(metavar="PICTURES")],
    out: Path = Path("captions.jsonl"),
    batch: int = 16,
    seed: int = 0,
    text: Annotated[Text, FLAT] = Text(),  # noqa: B008
    run: Annotated[Run, FLAT] = Run(),  # noqa: B008
) -> None:
    """Describe pictures: a line {"file_name": ..., "text": ...} of each.

    Args:
        pipeline: Folder or Hugging Face hub id of a pipeline of text and pictures.
        pictures: A folder of pictures, or any other source of them.
        out: A .jsonl file; one that holds captions of some is gone on with.
        batch: Pictures at a time.
        seed: Random seed.
    """
    if out.suffix != ".jsonl" or batch < 1:
        raise ValueError(f"--out must be a .jsonl file and --batch 1 or more, got {out}, {batch}")
    check_output(out)
    with lock(out.with_name(f".{out.name}{LOCK}"), out):
        try:
            count = describe(pipeline, pictures, out, batch, seed, text, run)
        except KeyboardInterrupt:
            held = len(captions_in(out)[0])
            goes_on = f"stopped; {out} holds {held} captions, the same command goes on"
            raise KeyboardInterrupt(goes_on if held else "") from None
    if run.json:
        show({"file": str(out), "captions": count})
    else:
        say(f"{out}: captions of {count} pictures")


def describe(
    pipeline: str, pictures: str, out: Path, batch: int, seed: int, text: Text, run: Run
) -> int:
    """Write the captions that a file lacks, and say how many pictures have one now. A folder whose
    metadata the file is has all its pictures, not those alone that are in it already."""
    from smalti.data.open import open_source
    from smalti.data.skipped import read, tell

    done, whole = captions_in(out)
    source = open_source(pictures, unread=out)
    left = [i for i in range(len(source)) if source.key(i) not in done]
    count = len(source) - len(left)
    if count:
        say(f"{out} holds {count} of {len(source)} captions; going on")
    pipe = opened(pipeline, run, unified=True)
    pipe.settings(text.given())  # mistakes before there is a file
    with open(out, "a", encoding="utf-8") as file:
        file.truncate(len(whole))  # what follows is a line that a crash cut off
        if whole and not whole.endswith(b"\n"):
            file.write("\n")
        for at in track(range(0, len(left), batch), "describing", scale=batch, of=len(left)):
            examples = {i: read(source, i) for i in left[at : at + batch]}
            images = {i: e.image for i, e in examples.items() if e is not None}
            for some in together(images):
                these = [images[i] for i in some]
                found = pipe.caption(these, first=some[0], batch=batch, seed=seed, **text.given())
                for i, words in zip(some, found, strict=True):
                    line = {"file_name": source.key(i), "text": words}
                    file.write(jsons.dumps(line, ensure_ascii=False) + "\n")
            file.flush()
            count += len(images)
    tell(source)
    return count


def together(numbers: Iterable[int]) -> list[list[int]]:
    """Numbers in their order, those that follow on each other in one list."""
    pairs = groupby(enumerate(numbers), lambda pair: pair[1] - pair[0])
    return [[number for _, number in some] for _, some in pairs]


def captions_in(path: Path) -> tuple[set[str], bytes]:
    """The names of the pictures whose captions a file holds, and the file without a line that a
    crash cut off; none if there is no file. Raises ValueError for a file of something else, which
    stays as it is."""
    if not path.exists():
        return set(), b""
    whole, found = path.read_bytes(), set[str]()
    lines = whole.splitlines(keepends=True)
    for number, line in enumerate(lines, 1):
        try:
            about = jsons.loads(line)
            if set(about) != {"file_name", "text"}:
                raise ValueError
            found.add(about["file_name"])
        except (ValueError, TypeError):
            if number == len(lines) and line.startswith(b'{"file_name": "') and line[-1:] != b"\n":
                return found, whole[: -len(line)]
            raise ValueError(
                f"{path} is not a file of captions (line {number}); it stays as it is: give "
                "another --out"
            ) from None
    return found, whole


def chat(
    pipeline: Annotated[Positional[str], arg(metavar="PIPELINE")],
    image: Images = (),
    out: Path = Path("chat"),
    pictures: int = 1,
    seed: int = 0,
    text: Annotated[Text, FLAT] = Text(),  # noqa: B008
    run: Annotated[Run, FLAT] = Run(),  # noqa: B008
    settings: Any = None,
) -> None:
    """Talk with a pipeline of text and pictures: a line is what you say, "/image FILE" shows it a
    picture, an empty line or the end of the input ends.

    Args:
        pipeline: Folder or Hugging Face hub id of a pipeline of text and pictures.
        image: A picture to begin with; once more for each of several.
        out: Folder for the pictures that it draws.
        pictures: How many pictures a reply may have.
        seed: Random seed.
    """
    from smalti.pipeline.conversation import Turn

    check_output(out, folder=True)
    asked = chosen(settings)
    if asked and not pictures:
        raise ValueError(f"{spelled(next(iter(asked)))} is how pictures are drawn: --pictures is 0")
    pipe, turns = opened(pipeline, run, unified=True), list[Turn]()
    check_idle(pipe, asked, lacks=UNKNOWN)
    given = {"pictures": pictures, **asked, **text.given()}
    pipe.settings({**asked, **text.given()})  # mistakes before anything is said
    if pipe.draws and pictures and not pipe.begins:
        say("the model does not begin pictures by itself: it replies in text; sample and edit draw")
    for pieces in heard(list(image)):
        turn, number = Turn("user", pieces), len(turns) // 2
        try:
            reply = told(pipe.chat([*turns, turn], seed=seed + number, **given), out)
        except ValueError as error:
            say(f"{error}; the conversation goes on without this")
            continue
        turns += [turn, Turn("model", reply)]


def told(events: Iterable[Said | Shown], out: Path) -> list[Any]:
    """Print a reply as it grows, with its pictures as new files of a folder: what it is made of."""
    from smalti.pictures import save_png
    from smalti.pipeline.unified import Said

    reply, voice = list[Any](), Voice()
    for event in events:
        if isinstance(event, Said):
            voice.say(event.text, event.whole)
        if not event.whole:
            continue
        if isinstance(event, Said):
            reply.append(event.text)
            continue
        file = next(file for i in count() if not (file := picture(out, i)).exists())
        save_png(event.image, file)
        print(shown(event.image) or file, flush=True)
        reply.append(event.image)
    return reply


class Voice:
    """Prints texts as they grow, each on lines of its own."""

    def __init__(self) -> None:
        self.said = ""

    def say(self, text: str, whole: bool) -> None:
        """Print what is new of a text, without blanks around it."""
        text = text.strip()
        if text.startswith(self.said):
            print(text[len(self.said) :], end="", flush=True)
        else:  # bytes that came later made other letters
            print(f"\n{text}", end="", flush=True)
        self.said = text
        if whole:
            print(end="\n" if text else "", flush=True)
            self.said = ""


def heard(images: list[Any]) -> Iterator[list[Any]]:
    """What the user says, line by line, with the pictures that were shown before it."""
    from smalti.data.decode import check_header

    while True:
        if sys.stdin.isatty():
            print("> ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline().strip()
        if not line:
            return
        if line.startswith("/image "):
            file = Path(line.removeprefix("/image ").strip()).expanduser()
            try:
                check_header(file)
                images.append(file)
            except ValueError as error:  # the conversation goes on
                say(str(error))
            continue
        yield [*images, line]
        images.clear()
