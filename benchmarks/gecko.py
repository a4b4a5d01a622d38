"""How far are a reader's marks of words to be trusted? Beside the exact oracle of shapes.

    python benchmarks/gecko.py READER [--count 300] [--draw PIPELINE] [--guidance 2] [--batch 64]
    python benchmarks/gecko.py oracle [--lies 0.1]

READER is a pipeline of text and pictures that answers questions about shapes. Three sets of
pictures are judged, each of so many captions: drawn right; drawn right but for one attribute in
every second; and drawn by --draw, a pipeline, by default READER itself. Prints a JSON line for each
with the score, the share of words and of attributes in which reader and oracle agree, with their
intervals, and the agreement of a reader that always says what is expected. A READER that draws
nothing judges the first two, and what --draw names. With `oracle` the oracle itself reads, but for
the share --lies of its answers, which are another value: that measures the metric, not a reader.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common import report
from smalti.data.drawn_shapes import Attributes, draw, recognise
from smalti.data.shape_scenes import VALUES, any_scene, one_of
from smalti.eval.gecko import Answer, Judged, agreement, judged, records
from smalti.eval.metrics import How
from smalti.eval.reading import Asked, Reader, Reads
from smalti.eval.sets import ImageSet, open_set
from smalti.files import write_json
from smalti.loading import load, load_unified

SEED = 7


def asked_for(count: int) -> list[Attributes]:
    """What pictures are to show, by chance."""
    rng = np.random.default_rng(SEED)
    return [any_scene(rng, (SEED, i)).shapes[0] for i in range(count)]


def changed(shapes: Sequence[Attributes]) -> list[Attributes]:
    """The same with another value of one attribute in every second."""
    rng, found = np.random.default_rng(SEED + 1), list(shapes)
    for i in range(0, len(found), 2):
        name = one_of(rng, list(VALUES))
        others = [value for value in VALUES[name] if value != getattr(found[i], name)]
        found[i] = found[i]._replace(**{name: one_of(rng, others)})
    return found


class Oracle:
    """Reads the one shape of a picture exactly, and says another value now and then."""

    begins = {"What": "colour", "Which": "shape", "How": "size", "Where": "position"}

    def __init__(self, lies: float) -> None:
        self.lies, self.rng = lies, np.random.default_rng(SEED)
        self.fingerprint = f"oracle, lies {lies:g}"

    def read(self, asked: Sequence[Asked]) -> list[str]:
        return [self.answer(one) for one in asked]

    def answer(self, one: Asked) -> str:
        """What the picture shows of what is asked about, or another value of it."""
        seen, name = recognise(np.asarray(one.pictures[0])), self.begins[one.text.split()[0]]
        value = "" if seen is None else getattr(seen, name)
        others = [other for other in VALUES[name] if other != value]
        return one_of(self.rng, others) if self.rng.random() < self.lies else value


def as_set(pictures: Sequence[Any], captions: Sequence[str], folder: Path) -> ImageSet:
    """Pictures with what they were to show."""
    np.savez(folder / "d.npz", arr_0=np.stack([np.asarray(picture) for picture in pictures]))
    write_json(folder / "d.json", {"text": list(captions), "first": 0})
    return open_set(folder / "d.npz")


def credulous(found: Sequence[Judged]) -> float:
    """In how many attributes the oracle agrees with who always says what is expected."""
    same = list[float]()
    for one in found:
        answers = tuple(Answer(a.question, a.question.expected) for a in one.answers)
        same += agreement([Judged(one.number, one.prompt, answers, one.oracle)])["words"]
    return float(np.mean(same))


def measured(case: str, reader: Reads, pictures: ImageSet, batch: int) -> None:
    """Judge a set, and report it."""
    how, began = How((), batch=batch, seed=SEED), time.monotonic()
    found = judged(pictures, reader, how, print)
    told: dict[str, Any] = {"case": case, "reader": reader.fingerprint, "pictures": len(found)}
    for one in records(found, reader, pictures, how):
        name = one.metric.rpartition("_")[0]
        told[name] = one.value
        if name in ("gecko", "gecko_agreement_words", "gecko_agreement_wrong") and one.interval:
            told[f"{name}_interval"] = [round(end, 4) for end in one.interval]
    told["oracle_right"] = float(np.mean([bool(one.oracle and one.oracle["all"]) for one in found]))
    told["credulous_agreement"] = credulous(found)
    report(told | {"seconds": time.monotonic() - began})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("reader")
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--draw")
    parser.add_argument("--guidance", type=float, default=2.0)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lies", type=float, default=0.0)
    options = parser.parse_args()
    reader: Reads = Oracle(options.lies)
    drawer = None if options.draw is None else load(options.draw)
    if options.reader != "oracle":
        pipe = load_unified(options.reader)
        reader, drawer = Reader(pipe, seed=SEED), drawer or (pipe if pipe.draws else None)
    shapes = asked_for(options.count)
    captions = [shape.caption for shape in shapes]
    rngs = [np.random.default_rng([SEED, i]) for i in range(len(shapes))]
    sets = {"right": shapes, "one changed in every second": changed(shapes)}
    with tempfile.TemporaryDirectory() as folder:
        for case, some in sets.items():
            pictures = [draw(shape, rng=rng) for shape, rng in zip(some, rngs, strict=True)]
            measured(case, reader, as_set(pictures, captions, Path(folder)), options.batch)
        if drawer is None:
            return
        drawn = drawer(text=captions, n=len(captions), seed=SEED, guidance=options.guidance)
        case = f"drawn with guidance {options.guidance:g}"
        measured(case, reader, as_set(drawn, captions, Path(folder)), options.batch)


if __name__ == "__main__":
    main()
