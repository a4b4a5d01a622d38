"""Several codes in a pass beside one after another, on trained pipelines of this machine.

    python benchmarks/parallel.py PIPELINE ... [--images 1000] [--batch 8] [--windows 4,8,16,0]

All ways draw the same requests in turn, in one process, on one thread: classes in turn, or captions
of pictures that the pipeline never saw. A JSON line per pipeline and way: passes of a batch, CPU
seconds of it (medians), and how many pictures are not those of drawing one code after another. A
window of 0 follows what was right; `auto` and `speculative` are ways of their own, and pictures of
the last are others.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import Any

import torch
from torch import Tensor

import smalti
from smalti.cli.subjects import held_out, share_of
from smalti.codes import Cond
from smalti.engine import stream
from smalti.engine.step import Request
from smalti.eval.pipelines import asked
from smalti.eval.sets import open_set
from smalti.pipeline.pipeline import Pipeline
from smalti.pipeline.request import Asked, read_conditions
from smalti.sampling.noise import Noise
from smalti.sampling.parallel import Parallel


def drawn(model: Any, request: Request) -> tuple[Tensor, int, float]:
    """Codes of a request, in how many passes, in how many seconds of this thread."""
    began, passes, codes = time.thread_time(), 0, torch.empty(0)
    for step in stream(model, request):
        passes, codes = passes + 1, step.codes
    return codes.clone(), passes, time.thread_time() - began


def wanted(pipe: Pipeline) -> list[Asked]:
    """What is asked for in turn: every class, or captions of pictures that it never saw."""
    if pipe.text is None:
        return pipe.asked()
    return pipe.asked(**asked(pipe, open_set(held_out(pipe), holdout=share_of(pipe))))


def conditions(pipe: Pipeline, every: list[Asked], first: int, count: int) -> Cond:
    """Of so many images from one on."""
    some = [every[i % len(every)] for i in range(first, first + count)]
    return read_conditions(some, pipe.text, pipe.device, pipe.model.reads.map)[0]


def measured(name: str, pipe: Pipeline, options: argparse.Namespace) -> None:
    """All ways of one pipeline, a line each."""
    ways = {"off": Parallel()} | {
        f"exact {w}": Parallel("exact", w) for w in map(int, options.windows.split(","))
    }
    if options.others:
        ways |= {mode: Parallel(mode) for mode in ("auto", "speculative")}  # pyright: ignore
    found = {way: list[tuple[int, float]]() for way in ways}
    other, every = dict.fromkeys(ways, 0), wanted(pipe)
    sampling = pipe.sampling.changed(guidance=options.guidance, top_p=options.top_p)
    for first in range(0, options.images, options.batch):
        count = min(options.batch, options.images - first)
        cond, noise = conditions(pipe, every, first, count), Noise.request(0, count, first)
        in_turn = torch.empty(0)
        for way, parallel in ways.items():
            request = sampling.changed(parallel=parallel.mode, window=parallel.window).request(
                pipe.model, cond, noise
            )
            codes, passes, seconds = drawn(pipe.model, request)
            in_turn = codes if way == "off" else in_turn
            found[way].append((passes, seconds))
            other[way] += int((codes != in_turn).flatten(1).any(1).sum())
    least = [seconds for _, seconds in found["off"]]
    for way, rows in found.items():
        passes, seconds = zip(*rows, strict=True)
        ratio = statistics.median(a / b for a, b in zip(least, seconds, strict=True))
        case = {"pipeline": name, "way": way, "batch": options.batch, "images": options.images}
        case |= {"guidance": options.guidance, "top_p": options.top_p}
        case |= {"codes": pipe.model.spec.positions, "passes": round(statistics.mean(passes), 2)}
        case |= {"cpu_ms": round(1e3 * statistics.median(seconds), 1), "speed": round(ratio, 3)}
        print(json.dumps(case | {"other_pictures": other[way]}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="several codes in a pass beside one")
    parser.add_argument("pipelines", nargs="+")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--windows", default="4,8,16,0")
    parser.add_argument("--guidance", type=float, default=2.0)
    parser.add_argument("--top-p", type=float, default=1.0)
    parser.add_argument("--others", action="store_true", help="auto and speculative too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for path in options.pipelines:
        measured(path, smalti.load(path, "cpu", torch.float32), options)


if __name__ == "__main__":
    main()
