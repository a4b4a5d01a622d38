"""What does each flag cost that loses something? Speed beside quality, on trained pipelines.

    python benchmarks/price.py [RUNS] [--pipelines KIND=DIR ...] [--judge] [--images 512]
        [--only KIND ...] [--known FILE ...] [--docs DIR]

RUNS is the folder in which `rate_distortion.py` has trained: KIND-generator/pipeline, 64 pixels.
Others take the place of these by --pipelines, such as `vq=demo/pipeline` of `smalti demo`, which
trains for minutes; scales is `smalti demo --system var`, bsq infinity, hybrid hart, kl mar.
All ways of a pipeline draw the same requests in turn, in one process, on one thread, in float32. A
JSON line per way: `faster_1` and `faster_64` are ratios of the thread's time, of one picture and of
64 (medians of the codes alone, without decoding); `fwd_exact` is the Fréchet wavelet distance to
exact pictures of another seed, which of the way "exact" is what chance alone makes; `fwd_real` that
to held-out pictures; with --judge `accuracy` is the share that a classifier of real ones takes for
the class that was asked for, or that of the picture whose text was; `accuracy_real` is what it says
of held-out pictures. --known takes lines printed before. With --docs the table is
written into performance.md, between its marks, and exact pictures beside the others into price.png.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

import smalti
from common import earlier, machines, report
from comparison_page import rows_of
from smalti.data.loader import Images
from smalti.data.open import open_source
from smalti.data.source import split
from smalti.data.transforms import Transform
from smalti.eval.conditioning import ClassifierConfig, learn, recognised, small
from smalti.eval.pipelines import asked
from smalti.eval.sets import open_set
from smalti.eval.wavelet import fwd
from smalti.nn.linear import packed
from smalti.pictures import grid

EXACT, BATCH, SHOWN = "exact", 64, 8
MARKS = "<!-- the price list -->", "<!-- the end of the price list -->"


@dataclass(frozen=True)
class Way:
    """A pipeline, drawn with flags."""

    kind: str
    flags: str = EXACT
    settings: dict[str, Any] = field(default_factory=dict[str, Any])
    weights: str = EXACT

    @property
    def case(self) -> str:
        return f"{self.kind} {self.flags}"


def zipar(window: int) -> Way:
    settings = {"parallel": "zipar", "window": window}
    return Way("vq", f"--parallel zipar --window {window}", settings)


def prune(kind: str, *shares: float, layers: float = 0.5) -> Way:
    flags = f"--prune {' '.join(map(str, shares))}"
    flags += f" --prune-layers {layers:g}" * (layers != 0.5)
    return Way(kind, flags, {"prune": shares, "prune_layers": layers})


WAYS = [
    *(Way("vq"), *map(zipar, (2, 3, 4))),
    *(Way("vq", f"--weights {weights}", {}, weights) for weights in ("int8", "int4")),
    *(Way("scales"), prune("scales", 0.4, 0.5), prune("scales", 0.4, 0.5, layers=1)),
    *(Way("bsq"), prune("bsq", 0.4, 0.5), Way("hybrid"), prune("hybrid", 0.4, 0.5)),
    *(Way("kl"), *(Way("kl", f"--refresh {n}", {"refresh": n}) for n in (2, 4))),
]
"""Exact drawing of a kind stands before its others."""


class Drawer:
    """A pipeline that draws the conditions of held-out pictures in turn."""

    def __init__(self, folder: Path, reference: str) -> None:
        self.pipe, held = smalti.load(folder, "cpu", torch.float32), open_set(reference)
        self.each = self.pipe.asked(**asked(self.pipe, held))
        self.classes = held.labels

    def codes(self, way: Way, first: int, count: int, seed: int) -> tuple[Tensor, float]:
        """Codes of so many images, and the seconds of this thread that they took."""
        each = [self.each[i % len(self.each)] for i in range(first, first + count)]
        self.pipe.draw_with(way.weights)
        with packed(self.pipe.model):  # copies of weights are made once
            pass
        began = time.thread_time()
        codes = self.pipe.codes(each, first=first, seed=seed, **way.settings)
        return codes, time.thread_time() - began

    def pictures(self, codes: Tensor) -> Tensor:
        """uint8 (B, 3, H, W)."""
        return ((self.pipe.tokenizer.decode(codes).clamp(-1, 1) + 1) * 127.5).round().byte()

    def labels(self, images: int) -> np.ndarray:
        """Of the held-out pictures that are asked for in turn."""
        if len(self.classes) != len(self.each):
            raise ValueError(
                f"--judge asks for {len(self.classes)} held-out pictures in turn, but the pipeline "
                f"is asked for {len(self.each)}: it must be trained on --reference's classes"
            )
        return self.classes[np.arange(images) % len(self.classes)]


class Judge:
    """A classifier of the training pictures of a source."""

    def __init__(self, data: str) -> None:
        config, source = ClassifierConfig(), open_source(data)
        train = [i for i in split(source, 0.1)[0] if source.label(i) >= 0]
        views = Transform(config.pixels, "random", config.flip)
        images = Images(source, train, views, config.batch, config.seed)
        self.model, self.side = learn(images, len(source.classes), config), config.pixels

    def accuracy(self, pictures: list[Tensor], labels: np.ndarray) -> float:
        parts = np.split(labels, np.cumsum([len(p) for p in pictures])[:-1])
        seen = (small(p, self.side) for p in pictures)
        return recognised(self.model, zip(seen, parts, strict=True)).share()


def real(reference: str, size: int) -> list[Tensor]:
    return [rows.images for rows in open_set(reference, size).numbered(BATCH)]


def folder_of(kind: str, args: argparse.Namespace) -> Path:
    """The pipeline of a kind. Raises ValueError if none was named."""
    named = dict(pair.split("=", 1) for pair in args.pipelines)
    if kind in named:
        return Path(named[kind])
    if args.runs is None:
        raise ValueError(f"{kind} needs RUNS or --pipelines {kind}=DIR")
    return args.runs / f"{kind}-generator" / "pipeline"


def measured(ways: list[Way], args: argparse.Namespace, judge: Judge | None) -> Iterator[Any]:
    """The line of each way of one pipeline."""
    drawer = Drawer(folder_of(ways[0].kind, args), args.reference)
    held = real(args.reference, drawer.pipe.tokenizer.size[0])
    took: dict[tuple[str, int], list[float]] = {}
    pictures: dict[str, list[Tensor]] = {way.flags: [] for way in ways}
    for first in range(args.rounds):
        for way in ways:
            seconds = drawer.codes(way, first, 1, 0)[1]
            took.setdefault((way.flags, 1), []).append(seconds)
    for first in range(0, args.images, BATCH):
        for way in ways:
            codes, seconds = drawer.codes(way, first, BATCH, 0)
            took.setdefault((way.flags, BATCH), []).append(seconds)
            pictures[way.flags].append(drawer.pictures(codes))
    others = [
        drawer.pictures(drawer.codes(ways[0], first, BATCH, 1)[0])
        for first in range(0, args.images, BATCH)
    ]
    for way in ways:
        mine, line = pictures[way.flags], {"case": way.case, "images": args.images}
        for batch in (1, BATCH):
            times = took[way.flags, batch]
            ratios = [a / b for a, b in zip(took[EXACT, batch], times, strict=True)]
            line[f"ms_{batch}"] = 1e3 * statistics.median(times) / batch
            line[f"faster_{batch}"] = statistics.median(ratios)
        line |= {"fwd_exact": fwd(mine, others), "fwd_real": fwd(mine, held)}
        if judge is not None:
            line["accuracy"] = judge.accuracy(mine, drawer.labels(args.images))
            line["accuracy_real"] = judge.accuracy(held, drawer.classes)
        yield line


def table(lines: dict[str, Any]) -> str:
    """A row for each way that was measured."""
    rows = list[list[str]]()
    for way in (way for way in WAYS if way.case in lines):
        line = lines[way.case]
        speed = [f"{line[f'faster_{batch}']:.2f}" for batch in (1, BATCH)]
        share = f"{100 * line['accuracy']:.0f} %" if line.get("accuracy") else ""
        distances = [f"{line[key]:.3g}" for key in ("fwd_exact", "fwd_real")]
        flags = f"`{way.flags}`" if way.flags != EXACT else EXACT
        rows.append([way.kind, flags, *speed, *distances, share])
    names = ["pipeline", "flags", "speed, 1 picture", f"{BATCH} pictures", "FWD to exact ones"]
    names += ["FWD to real ones", "right class"]
    count = len(names) if any(row[-1] for row in rows) else len(names) - 1
    return rows_of(names[:count], [row[:count] for row in rows])


def sheet(args: argparse.Namespace) -> Image.Image:
    """The same pictures by every way, a row each, exact ones first."""
    tiles, kind, drawer = list[Image.Image](), "", None
    for way in WAYS:
        if way.kind != kind or drawer is None:
            kind = way.kind
            drawer = Drawer(folder_of(kind, args), args.reference)
        images = drawer.pictures(drawer.codes(way, 0, SHOWN, 0)[0]).permute(0, 2, 3, 1).numpy()
        tiles += [Image.fromarray(image) for image in images]
    whole = grid(tiles, SHOWN)
    named = Image.new("RGB", (whole.width + 250, whole.height), "white")
    named.paste(whole, (250, 0))
    pen, step = ImageDraw.Draw(named), whole.height // len(WAYS)
    for i, way in enumerate(WAYS):
        pen.text((8, i * step + step // 2 - 6), way.case, fill="black")
    return named


def written(lines: dict[str, Any], args: argparse.Namespace) -> None:
    """Put the table into the page, and the pictures beside it."""
    page = args.docs / "performance.md"
    before, rest = page.read_text(encoding="utf-8").split(MARKS[0])
    behind = rest.split(MARKS[1])[1]
    whole = f"{before}{MARKS[0]}\n{table(lines)}\n{MARKS[1]}{behind}"
    page.write_text(whole, encoding="utf-8")
    shown = sheet(args).quantize(256)  # a third of the bytes
    shown.save(args.docs / "price.png", optimize=True)
    report({"case": "machines"} | machines(lines.values()))


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="?")
    parser.add_argument("--pipelines", nargs="*", default=[], metavar="KIND=DIR")
    parser.add_argument("--images", type=int, default=512, help=f"a multiple of {BATCH}")
    parser.add_argument("--rounds", type=int, default=9, help="of one picture")
    parser.add_argument("--reference", default="emoji@held")
    parser.add_argument("--only", nargs="*", choices=dict.fromkeys(w.kind for w in WAYS))
    parser.add_argument("--known", nargs="*", type=Path, default=[], help="lines printed before")
    parser.add_argument("--judge", action="store_true", help="train a classifier for accuracy")
    parser.add_argument("--docs", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    lines, judge = earlier(args.known), None
    for kind in args.only or dict.fromkeys(way.kind for way in WAYS):
        ways = [way for way in WAYS if way.kind == kind]
        if all(way.case in lines for way in ways):
            continue
        if args.judge and judge is None:
            with torch.inference_mode(False):
                judge = Judge(args.reference.partition("@")[0])
        for line in measured(ways, args, judge):
            lines[line["case"]] = line
            report(line)
    if args.docs:
        written(lines, args)


if __name__ == "__main__":
    main()
