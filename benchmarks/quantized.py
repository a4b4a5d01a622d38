"""What do weights of fewer bits cost in likelihood, and what do they gain in a step?

    python benchmarks/quantized.py RUN ... [--images 190] [--rounds 7] [--batches 1 4 8]

RUN is the folder of a generator that was trained (`smalti train`, with `codes.arrow` inside): its
loss on held-out codes is measured with each kind of `--weights`, in float32, teacher-forced: many
rows at a time, which are rounded as few are that are drawn. `more_nats` is what they add to each
token's loss.

Then a step of LlamaGen-B at position 128, with guidance and random weights, for 1, 4 and 8 images:
ways alternate, medians and minima of this thread's time in ms. `faster` is over the exact weights
of the same dtype. One JSON line per case.
"""

import argparse
import statistics
import time
from pathlib import Path
from typing import Any, get_args

import torch
from torch import nn

from common import report
from smalti import load
from smalti.codes import Cond, Span
from smalti.data.code_batches import CodeBatches
from smalti.data.token_cache import TokenCache
from smalti.eval.likelihood import likelihood
from smalti.models.llamagen import SIZES, LlamaGen, LlamaGenConfig
from smalti.nn.linear import copied_bytes, draw_with, packed
from smalti.nn.products import Weights
from smalti.sampling.chance import Chance
from smalti.sampling.filters import Filters
from smalti.sampling.guidance import Guidance
from smalti.sampling.noise import Noise, SlotNoise

WAYS = get_args(Weights)
AT = 128


def nats(run: Path, images: int) -> None:
    """Losses of a trained generator on held-out codes."""
    pipe, cache = load(run / "pipeline", "cpu", torch.float32), TokenCache(run / "codes.arrow")
    rows, exact = cache.indices("held_out")[:images], 0.0
    for way in WAYS:
        pipe.draw_with(way)
        batches = CodeBatches(cache, rows, 32, train=False).evaluation(32)
        with packed(pipe.model):
            told = likelihood(pipe.model, batches)
        loss = told["nats_per_token"]
        exact = loss if way == "exact" else exact
        copies = copied_bytes(pipe.model) / 1e6
        case = {"run": run.name, "weights": way, "images": len(rows), "nats_per_token": loss}
        report({"script": "quantized"} | case | {"more_nats": loss - exact, "copies_MB": copies})


class Stepped:
    """A model in one dtype, drawn with one kind of weights, before one step."""

    def __init__(self, way: str, dtype: torch.dtype, images: int) -> None:
        torch.manual_seed(0)
        self.model = LlamaGen(LlamaGenConfig(**SIZES["B"])).eval().to(dtype)
        nn.init.normal_(self.model.head.proj.weight, std=0.02)
        draw_with(self.model, way)
        self.codes, noise = self.model.spec.empty(images), Noise.request(0, images)
        guidance, cond = Guidance(2.0), Cond(labels=torch.zeros(images, dtype=torch.int64))
        self.prepared = self.model.prepare(guidance.branches(cond))
        self.cache = self.model.cache(2 * images)
        self.span = Span(torch.tensor([AT]), AT + 1, AT)
        slots = SlotNoise(noise, self.span.slots)
        self.chance = Chance(guidance.at(AT, 256), slots, Filters())

    def milliseconds(self) -> float:
        with packed(self.model):
            began = time.thread_time()
            self.model.draw(self.codes, self.prepared, self.span, self.cache, self.chance)
            return (time.thread_time() - began) * 1e3


def speed(rounds: int, batches: list[int]) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        for images in batches:
            ways = {way: Stepped(way, dtype, images) for way in WAYS}
            found: dict[str, list[float]] = {way: [] for way in WAYS}
            for turn in range(rounds + 1):
                for way, stepped in ways.items():
                    found[way] += [stepped.milliseconds()] * (turn > 0)
            base = statistics.median(found["exact"])
            for way, times in found.items():
                middle = statistics.median(times)
                case: dict[str, Any] = {"step": "llamagen_b", "dtype": str(dtype).split(".")[1]}
                case |= {"images": images, "weights": way, "ms": middle, "min_ms": min(times)}
                report({"script": "quantized"} | case | {"faster": base / middle})


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description="cost and gain of weights with fewer bits")
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN")
    parser.add_argument("--images", type=int, default=190, help="held-out images of each run")
    parser.add_argument(
        "--batches", type=int, nargs="*", default=[1, 4, 8], help="images of a step"
    )
    parser.add_argument("--rounds", type=int, default=7, help="of steps; 0 measures none")
    options = parser.parse_args()
    for run in options.runs:
        nats(run, options.images)
    if options.rounds:
        speed(options.rounds, options.batches)


if __name__ == "__main__":
    main()
