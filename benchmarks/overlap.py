"""Does it pay to decode one batch while the next one is drawn?

    python benchmarks/overlap.py [--generator RECIPE --tokenizer RECIPE] [--n 3] [--batch 1]
        [--rounds 2]

All ways take turns in one process: each batch decoded before the next one is drawn; decoded by a
thread of its own meanwhile, both with all threads; and both with half of them. `gain_beside` and
`gain_halves` are the ratios of the first way's time to theirs, medians. `largest_difference` is
that of pixels among the ways: other numbers of threads add up in another order.
Without --generator the model that comes with smalti draws, else new ones of the recipes.
"""

from __future__ import annotations

import argparse
import statistics
import time
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import smalti
from common import report
from smalti.pipeline.pipeline import Pipeline
from smalti.pipeline.request import Part
from smalti.runs.bench import drawer, tokenizer_of

CPU = torch.device("cpu")


def pipeline(generator: str, tokenizer: str) -> Pipeline:
    if not generator:
        pipe = smalti.load("smalti/emoji64", "cpu", torch.float32)
        assert isinstance(pipe, Pipeline)
        return pipe
    torch.manual_seed(0)
    drawn = drawer(generator, True, CPU)
    return Pipeline(tokenizer_of(tokenizer, True, CPU), drawn.model, sampling=drawn.sampling)


def in_turn(pipe: Pipeline, parts: list[Part]) -> list[Image.Image]:
    pictures = list[Image.Image]()
    for part in parts:
        pictures += pipe.tagged(pipe.shown(pipe.drawn(part), part), part)
    return pictures


def beside(pipe: Pipeline, parts: list[Part], threads: int) -> list[Image.Image]:
    """The same, with so many threads for drawing and as many for decoding."""

    def decoded(codes: Tensor, part: Part) -> list[Image.Image]:
        torch.set_num_threads(threads)  # of the thread that calls it
        return pipe.tagged(pipe.shown(codes, part), part)

    pictures, before, waiting = list[Image.Image](), torch.get_num_threads(), list[Future]()
    torch.set_num_threads(threads)
    with ThreadPoolExecutor(1) as decoder:
        for part in parts:
            waiting.append(decoder.submit(decoded, pipe.drawn(part), part))
        for future in waiting:
            pictures += future.result()
    torch.set_num_threads(before)
    return pictures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--generator", default="")
    parser.add_argument("--tokenizer", default="")
    parser.add_argument("--n", type=int, default=3)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=2)
    args = parser.parse_args()
    pipe, threads = pipeline(args.generator, args.tokenizer), torch.get_num_threads()
    asked = pipe.asked(classes=[0, 1, 2])
    parts = list(pipe.drawing(asked, seed=1).parts(args.n, 0, args.batch))
    ways = {
        "in_turn": lambda: in_turn(pipe, parts),
        "beside": lambda: beside(pipe, parts, threads),
        "halves": lambda: beside(pipe, parts, max(1, threads // 2)),
    }
    times: dict[str, list[float]] = {way: [] for way in ways}
    for round in range(args.rounds + 1):  # the first one makes copies of weights
        seen = list[np.ndarray]()
        for way, draw in ways.items():
            began = time.perf_counter()
            pictures = draw()
            if round:
                times[way].append(time.perf_counter() - began)
            seen.append(np.stack([np.asarray(picture) for picture in pictures]))
    line = {"case": f"{args.generator or 'smalti/emoji64'} batch {args.batch}", "n": args.n}
    line |= {f"s_{way}": statistics.median(taken) for way, taken in times.items()}
    for way in ("beside", "halves"):
        ratios = [a / b for a, b in zip(times["in_turn"], times[way], strict=True)]
        line[f"gain_{way}"] = statistics.median(ratios)
    line["largest_difference"] = max(int(abs(seen[0] - s.astype(int)).max()) for s in seen)
    report(line)


if __name__ == "__main__":
    main()
