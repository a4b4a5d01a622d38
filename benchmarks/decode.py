"""What does one decode step of LlamaGen-B cost, beside reading its weights once from memory?

    python benchmarks/decode.py [--quick] [--profile] [--dtype bfloat16]

One image with guidance (two rows), through `smalti.engine.causal.stream`: inside `packed` as a
pipeline runs it, without it, and with plain `F.linear`. Steps at the middle and at the end of the
sequence are timed, each beside a float32 sum over 400 MB, which is the memory's speed of that
moment. `ratio` is the step's time divided by the time in which that speed reads the step's weights
(all but the embedding tables): 1 is the limit, 2.5 the target of the packed way.
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
from smalti.engine.causal import Step, stream
from smalti.models.llamagen import LlamaGen
from smalti.nn.linear import packed
from smalti.recipes.llamagen import llamagen_b
from smalti.sampling.noise import Noise

WAYS = ("packed", "smalti linear", "F.linear")


def build(dtype: torch.dtype, layers: int = 0) -> LlamaGen:
    config = llamagen_b().model
    model = LlamaGen(replace(config, layers=layers) if layers else config).eval()
    nn.init.normal_(model.head.proj.weight, std=0.02)  # zeros would make every draw alike
    return model.to(dtype)


def weight_bytes(model: nn.Module) -> int:
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    return sum(p.numel() * p.element_size() for p in model.parameters() if id(p) not in tables)


def steps(model: LlamaGen) -> Iterator[Step]:
    guidance, filters = llamagen_b().sampling.parts()
    cond = Cond(labels=torch.tensor([7]))
    yield from stream(model, cond, Noise.request(0, 1), guidance, filters)


def advance(run: Iterator[Step], count: int) -> None:
    for _ in range(count):
        next(run)


def measure(model: LlamaGen, way: str, memory: torch.Tensor, count: int, profile: bool) -> None:
    total = model.spec.positions
    size = weight_bytes(model)
    c, dtype = model.config, model.head.proj.weight.dtype
    context = packed(model) if way == "packed" else nullcontext()
    plain = patch.object(smalti.nn.linear, "linear", F.linear)
    with context, plain if way == "F.linear" else nullcontext():
        run, done = steps(model), 0
        for place, end in (("middle", total // 2), ("end", total)):
            advance(run, end - count - done)
            done = end
            pairs = [(seconds(memory.sum), seconds(lambda: next(run))) for _ in range(count)]
            case = {
                "script": "decode",
                "dtype": str(dtype).removeprefix("torch."),
                "way": way,
                "place": place,
                "weights_MB": size / 1e6,
                "cache_MB": 2 * c.layers * 2 * c.dim * end * dtype.itemsize / 1e6,
            }
            for name, reduce in (("min", min), ("median", statistics.median)):
                read, step = (reduce(t) for t in zip(*pairs, strict=True))
                speed = 4 * memory.numel() / read
                case[f"sum_GB_per_s_{name}"] = speed / 1e9
                case[f"step_ms_{name}"] = step * 1e3
                case[f"ratio_{name}"] = step * speed / size
            report(case)
        if profile and way == "packed":
            run = steps(model)
            advance(run, total // 2)
            with torch.profiler.profile() as p:
                advance(run, count)
            table = p.key_averages().table(sort_by="self_cpu_time_total", row_limit=20)
            print(f"{way}, {count} steps\n{table}", file=sys.stderr)


def main() -> None:
    question = "a decode step of LlamaGen-B beside reading its weights once"
    parser = argparse.ArgumentParser(description=question)
    parser.add_argument("--quick", action="store_true", help="one layer and few steps: a trial")
    parser.add_argument(
        "--profile", action="store_true", help="operators of the packed way, on stderr"
    )
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="one instead of both")
    options = parser.parse_args()
    memory = torch.ones(100_000_000)  # 400 MB
    for name in (options.dtype,) if options.dtype else ("float32", "bfloat16"):
        dtype = getattr(torch, name)
        model = build(dtype, layers=1 if options.quick else 0)
        for way in WAYS:
            measure(model, way, memory, 3 if options.quick else 24, options.profile)


if __name__ == "__main__":
    main()
