"""How well does a pipeline of text and pictures do what it is asked for? Shapes, judged exactly.

    python benchmarks/unified.py PIPELINE [--only TASK ...] [--count 200] [--out DIR]
        [--recaption PHRASE] [setting=value ...]

Prints a JSON line with the share of right answers of each task and its 95 % interval; of questions
how many of each kind are right and how many there are, and so of riddles of each fact; and how
often the reply in a conversation, of COUNT / 4 of each task, is a picture where one is asked for
and words where an answer is. With --recaption, such as "{} is {}.", riddles are said in other words
by the pipeline first, which are then drawn. With --out a sheet of pictures that were drawn and
changed, and a list of questions and answers. Further words are settings of drawing and writing,
such as guidance=2.
"""

from __future__ import annotations

import argparse
import ast
import json
import time
from pathlib import Path
from typing import Any

from PIL import Image

from common import report
from smalti.data.shape_documents import ShapeDocuments
from smalti.data.shape_facts import KNOWN, WITHHELD
from smalti.eval.shape_answers import ASKED, Judged, interval, judged
from smalti.loading import load_unified
from smalti.pictures import grid, named_grid, save_png
from smalti.pipeline.conversation import Turn
from smalti.pipeline.going_on import Shown
from smalti.pipeline.unified import UnifiedPipeline

TALKED = ("draw", "riddle", "edit", "ask", "describe")
"""What a conversation is begun with."""
RIDDLES = ("riddle", "withheld riddle")


class With:
    """A pipeline with some settings, which may say what it draws in other words first."""

    def __init__(self, pipe: Any, settings: dict[str, Any], phrase: str | None) -> None:
        self.pipe, self.settings, self.phrase = pipe, settings, phrase

    def follow(self, documents: Any, picture: bool, seed: int = 0) -> Any:
        if picture and self.phrase is not None:
            asked = [text.strip().removeprefix("draw ") for (text,) in documents]
            words = self.pipe.recaption(asked, self.phrase, seed=seed, **self.settings)
            return self.pipe(words, seed=seed, **self.settings)
        return self.pipe.follow(documents, picture, seed=seed, **self.settings)


def sheet(found: list[Judged], path: Path) -> None:
    """What is asked for, and what was drawn, of some; an edit's picture before beside it."""
    images, names = list[Image.Image](), list[str]()
    for one in found[:24]:
        texts = [c for c, _ in one.script.parts if isinstance(c, str)]
        mark = "right" if one.right else "wrong"
        made: Image.Image = one.made  # type: ignore[assignment]
        if one.script.task == "edit":
            before = one.script.parts[0][0].draw().resize(made.size)  # type: ignore[union-attr]
            made = grid([before, made], columns=2)
        images.append(made)
        names.append(f"{' '.join(' '.join(texts).split())} ({mark})")
    save_png(named_grid(images, names, 2 if images[0].width > images[0].height else 3), path, {})


def replied(pipe: UnifiedPipeline, task: str, count: int) -> float:
    """How often a conversation that begins with documents of a task is replied to in kind."""
    documents, right = ShapeDocuments(count, 1, (task,)), 0
    for i in range(count):
        *asked, answer = documents[i]
        told = Turn("user", [piece.image or piece.text.strip() for piece in asked])
        first = next(event for event in pipe.chat([told], seed=i) if event.whole)
        right += isinstance(first, Shown) == (answer.image is not None)
    return right / count


def by_kind(found: list[Judged]) -> dict[str, list[int]]:
    """Right answers and questions, by how these begin and by how many shapes the picture has."""
    counts = dict[str, list[int]]()
    for one in found:
        (scene, _), (question, _), _ = one.script.parts
        for kind in (" ".join(question.split()[:2]), f"shapes: {len(scene.shapes)}"):  # type: ignore[union-attr]
            right, asked = counts.get(kind, (0, 0))
            counts[kind] = [right + one.right, asked + 1]
    return dict(sorted(counts.items()))


def by_fact(found: list[Judged]) -> dict[str, list[int]]:
    """Right answers and riddles, by the thing whose colour or shape is to be known."""
    counts = dict[str, list[int]]()
    for one in found:
        text = " ".join(c for c, _ in one.script.parts if isinstance(c, str))
        thing = next(fact.thing for fact in (*KNOWN, *WITHHELD) if f" {fact.thing} " in text)
        right, asked = counts.get(thing, (0, 0))
        counts[thing] = [right + one.right, asked + 1]
    return dict(sorted(counts.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pipeline")
    parser.add_argument("--only", nargs="+", choices=ASKED, default=ASKED, metavar="TASK")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--recaption", metavar="PHRASE")
    parser.add_argument("settings", nargs="*")
    options = parser.parse_intermixed_args()
    named = dict(word.split("=", 1) for word in options.settings)
    settings = {name: ast.literal_eval(value) for name, value in named.items()}
    if options.recaption is not None and set(options.only) - set(RIDDLES):
        parser.error(f"--recaption goes with --only and {' or '.join(RIDDLES)}")
    pipe = load_unified(options.pipeline)
    found, seconds, kinds = dict[str, Any](), dict[str, float](), dict[str, list[int]]()
    facts = dict[str, dict[str, list[int]]]()
    for task in options.only:
        began = time.monotonic()
        made = judged(With(pipe, settings, options.recaption), task, options.count)
        seconds[task] = round(time.monotonic() - began, 1)
        right = sum(one.right for one in made)
        found[task] = [right / len(made), *interval(right, len(made))]
        kinds = by_kind(made) if task == "ask" else kinds
        if task in RIDDLES:
            facts[task] = by_fact(made)
        if options.out is not None:
            options.out.mkdir(parents=True, exist_ok=True)
            lines = [
                {"asked": [c for c, _ in one.script.parts if isinstance(c, str)],
                 "made": one.made, "right": one.right}
                for one in made if isinstance(one.made, str)
            ]  # fmt: skip
            if lines:
                text = "".join(json.dumps(line) + "\n" for line in lines)
                (options.out / f"{task}.jsonl").write_text(text)
            if drawn := [one for one in made if not isinstance(one.made, str)]:
                sheet(drawn, options.out / f"{task.replace(' ', '-')}.png")
    talked = [task for task in TALKED if task in options.only]
    replies = {task: replied(pipe, task, max(1, options.count // 4)) for task in talked}
    about = {"pipeline": pipe.fingerprint, "count": options.count, "settings": settings}
    about |= {} if options.recaption is None else {"recaption": options.recaption}
    about |= {"right": found, "questions": kinds, "facts": facts, "replied": replies}
    report(about | {"seconds": seconds})


if __name__ == "__main__":
    main()
