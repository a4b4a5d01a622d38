"""What does one decode step of LlamaGen-B or RAR-B cost, beside reading its weights once?

    python benchmarks/decode.py [--quick] [--profile] [--model rar_b] [--dtype bfloat16]

One image with guidance (two rows), through `smalti.engine.causal.stream`: inside `packed` as a
pipeline runs it, without it, and with plain `F.linear`. Steps at the middle and at the end of the
sequence are timed, each beside a float32 sum over 400 MB, which is the memory's speed of that
moment. `ratio` is the step's time divided by the time in which that speed reads the step's weights
(all but the embedding tables): 1 is the limit, 2.5 the target of the packed way.

RAR's adaLN layers do not count as the step's weights: they are evaluated for `MODULATED` steps at
once, which makes one step in so many slower. The mean is over that many consecutive steps, so it
has its share of them; `modulation_MB` is what is kept for them.
"""

import argparse
import statistics
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import nn

import smalti.nn.linear
from common import report, seconds
from smalti.codes import Cond
from smalti.devices.named import cache_dtype
from smalti.engine import causal
from smalti.engine.step import Step
from smalti.models.llamagen import LlamaGen
from smalti.models.rar import MODULATED, RAR
from smalti.nn.linear import packed
from smalti.recipes.base import GeneratorRecipe
from smalti.recipes.llamagen import llamagen_b
from smalti.recipes.rar import rar_b
from smalti.runs.bench import step_bytes
from smalti.sampling.noise import Noise

MODELS = {"llamagen_b": (llamagen_b, LlamaGen), "rar_b": (rar_b, RAR)}
WAYS = ("packed", "smalti linear", "F.linear")


def build(name: str, dtype: torch.dtype, layers: int = 0) -> nn.Module:
    recipe, kind = MODELS[name]
    config = recipe().model
    model = kind(replace(config, layers=layers) if layers else config).eval()
    nn.init.normal_(model.head.proj.weight, std=0.02)  # zeros would make every draw alike
    return model.to(dtype)


def modulation_bytes(model: nn.Module, dtype: torch.dtype) -> int:
    """Of the modulation that is kept for two conditions."""
    widths = [m.out_features for n, m in model.named_modules() if n.endswith("adaln")]
    return 2 * MODULATED * sum(widths) * dtype.itemsize


def steps(model: nn.Module, recipe: GeneratorRecipe) -> Iterator[Step]:
    cond, noise = Cond(labels=torch.tensor([7])), Noise.request(0, 1)
    yield from causal.stream(model, recipe.sampling.request(model, cond, noise))


def advance(run: Iterator[Step], count: int) -> None:
    for _ in range(count):
        next(run)


def measure(
    name: str, model: nn.Module, way: str, memory: torch.Tensor, count: int, profile: bool
) -> None:
    recipe, total = MODELS[name][0](), model.spec.positions
    size = step_bytes(model)
    c, dtype = model.config, model.head.proj.weight.dtype
    kept = cache_dtype(dtype, torch.device("cpu"))
    context = packed(model) if way == "packed" else nullcontext()
    plain = patch.object(smalti.nn.linear, "linear", F.linear)
    with context, plain if way == "F.linear" else nullcontext():
        run, done = steps(model, recipe), 0
        for place, end in (("middle", total // 2), ("end", total)):
            advance(run, end - count - done)
            done = end
            pairs = [(seconds(memory.sum), seconds(lambda: next(run))) for _ in range(count)]
            case = {
                "script": "decode",
                "model": name,
                "dtype": str(dtype).removeprefix("torch."),
                "way": way,
                "place": place,
                "weights_MB": size / 1e6,
                "cache_MB": 2 * c.layers * 2 * c.dim * end * kept.itemsize / 1e6,
                "modulation_MB": modulation_bytes(model, dtype) / 1e6,
            }
            reduced = {"min": min, "median": statistics.median, "mean": statistics.fmean}
            for kind, reduce in reduced.items():
                read, step = (reduce(t) for t in zip(*pairs, strict=True))
                speed = 4 * memory.numel() / read
                case[f"sum_GB_per_s_{kind}"] = speed / 1e9
                case[f"step_ms_{kind}"] = step * 1e3
                case[f"ratio_{kind}"] = step * speed / size
            report(case)
        if profile and way == "packed":
            run = steps(model, recipe)
            advance(run, total // 2)
            with torch.profiler.profile() as p:
                advance(run, count)
            table = p.key_averages().table(sort_by="self_cpu_time_total", row_limit=20)
            print(f"{name}, {way}, {count} steps\n{table}", file=sys.stderr)


def main() -> None:
    question = "a decode step of LlamaGen-B and RAR-B beside reading the weights once"
    parser = argparse.ArgumentParser(description=question)
    parser.add_argument("--quick", action="store_true", help="one layer and few steps: a trial")
    parser.add_argument(
        "--profile", action="store_true", help="operators of the packed way, on stderr"
    )
    parser.add_argument("--model", choices=MODELS, help="one instead of both")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="one instead of both")
    options = parser.parse_args()
    memory = torch.ones(100_000_000)  # 400 MB
    for name in (options.model,) if options.model else MODELS:
        for dtype in (options.dtype,) if options.dtype else ("float32", "bfloat16"):
            model = build(name, getattr(torch, dtype), layers=1 if options.quick else 0)
            for way in WAYS:
                count = 3 if options.quick else MODULATED
                measure(name, model, way, memory, count, options.profile)


if __name__ == "__main__":
    main()
