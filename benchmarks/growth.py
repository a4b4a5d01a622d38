"""How does the cost of a picture grow with the batch, and with the number of codes?

    python benchmarks/growth.py [--recipe llamagen_b] [--batches 1 2 4 8 16 32 64]
        [--sides 16 24 32] [--dtype float32] [--rounds 5] [--clock wall] [--known FILE ...]

Steps of a model of random weights with guidance, all keys before them in the cache: of each batch
in the middle of the first grid; of one picture and of eight at the beginning, the middle and the
end of each grid. A JSON line for each has the median and the least time of a step, that for one
picture, the memory of the cache, and the share of the limit on paper that is reached (`smalti
bench` says what that is). Lines that --known holds are not measured again. On a machine that others
use, --clock cpu counts the processor's time.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from common import earlier, report, seconds
from smalti.codes import Span
from smalti.devices import rates
from smalti.modules import MODELS, module_of
from smalti.nn.linear import packed
from smalti.progress import track
from smalti.recipes import RECIPES
from smalti.runs.bench import Bench, conditions, step_bytes
from smalti.sampling.chance import Chance
from smalti.sampling.filters import Filters
from smalti.sampling.guidance import Guidance
from smalti.sampling.noise import Noise, SlotNoise

CPU, FEW, MANY = torch.device("cpu"), 1, 8
"""Pictures of which longer grids are measured."""
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


class Case(NamedTuple):
    """A step."""

    recipe: str
    side: int
    batch: int
    at: int
    """The slot that it draws."""

    @property
    def name(self) -> str:
        return f"{self.recipe} {self.side}x{self.side}, batch {self.batch}, slot {self.at}"


def cases(options: argparse.Namespace) -> list[Case]:
    """Each step once, those of a grid together."""
    recipe, first = options.recipe, options.sides[0]
    found = [Case(recipe, first, batch, first**2 // 2) for batch in options.batches]
    for side in options.sides:
        for batch in (FEW, MANY):
            places = (1, side**2 // 2, side**2 - 1)
            found += [Case(recipe, side, batch, at) for at in places]
    return sorted(dict.fromkeys(found), key=lambda case: case.side)


def model_of(recipe: str, side: int, dtype: torch.dtype) -> Any:
    """A recipe's model of another grid, whose head is random too."""
    config: Any = RECIPES[recipe]().model
    model = module_of(replace(config, grid=(side, side)), MODELS).eval()
    nn.init.normal_(model.get_parameter("head.proj.weight"), std=0.02)
    return model.to(dtype)


def measured(model: Any, case: Case, rounds: int, bench: Bench) -> dict[str, Any]:
    """The times of a step, after one that is not counted."""
    guidance, filters = Guidance(2.0), Filters()
    branches = guidance.branches(conditions(model, case.batch, CPU))
    prepared, cache = model.prepare(branches), model.cache(branches.batch)
    span = Span(torch.tensor([case.at]), case.at + 1, case.at)
    noise = SlotNoise(Noise.request(0, case.batch), span.slots)
    chance = Chance(guidance.at(case.at, model.spec.positions), noise, filters)
    codes = model.spec.empty(case.batch)

    def step() -> None:
        model.draw(codes, prepared, span, cache, chance)

    with packed(model):
        operations = rates.counted(step)
        times = [seconds(step) for _ in range(rounds)]
    middle = statistics.median(times)
    limit = bench.limit(step_bytes(model) + cache_bytes(cache, case), operations, bench.drawn_in)
    return {
        "case": case.name,
        "codes": model.spec.positions,
        "batch": case.batch,
        "slot": case.at,
        "ms": 1e3 * middle,
        "least_ms": 1e3 * min(times),
        "ms_per_picture": 1e3 * middle / case.batch,
        "cache_mb": cache.nbytes / 1e6,
        "limit_ms": 1e3 * limit,
        "share": limit / middle,
    }


def cache_bytes(cache: Any, case: Case) -> float:
    """What a step reads of a cache."""
    return cache.nbytes * (case.at + 1) / cache.keys[0].shape[2]


def lines(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    known, dtype, model, side = earlier(options.known), getattr(torch, options.dtype), None, 0
    left = [case for case in cases(options) if case.name not in known]
    for case in track(left, f"steps of {options.recipe}"):
        if case.side != side:
            model, side = None, case.side  # the memory of one is enough
            model = model_of(options.recipe, side, dtype)
        yield measured(model, case, options.rounds, Bench(CPU, dtype)) | {"dtype": options.dtype}


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description="how cost grows with batch and positions")
    parser.add_argument(
        "--recipe", default="llamagen_b", help="of a model that draws a code a step"
    )
    parser.add_argument("--batches", nargs="*", type=int, default=[1, 2, 4, 8, 16, 32, 64])
    parser.add_argument("--sides", nargs="+", type=int, default=[16, 24, 32], help="of grids")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--known", nargs="*", type=Path, default=[], help="lines printed before")
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    options = parser.parse_args()
    rates.clock = CLOCKS[options.clock]
    torch.manual_seed(0)
    for line in lines(options):
        report({"script": "growth"} | line)


if __name__ == "__main__":
    main()
