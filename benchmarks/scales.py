"""How many forward passes does an image of VAR take, and how many rows do they evaluate?

    python benchmarks/scales.py [--quick] [--layers N] [--dtype bfloat16]

A 256-px image of VAR-d16 (random weights) with guidance, through `smalti.engine.causal.stream`
inside `packed`. Every call of every layer is counted, and its rows of one branch: the targets are
10 passes and 680 rows, each slot once. Beside it the same image drawn with everything computed
again at each scale, as without a cache; both must draw the same codes. Times are medians, in
seconds, of the codes alone; `gain` is their quotient.
"""

import argparse
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from common import report, seconds
from smalti.codes import Cond
from smalti.engine import causal
from smalti.models.var import SIZES, VAR, VARConfig
from smalti.nn.linear import packed
from smalti.recipes.var import var_d16
from smalti.sampling.chance import Chance
from smalti.sampling.noise import Noise, SlotNoise

COND, NOISE = Cond(labels=torch.tensor([7])), Noise.request(0, 1)
SAMPLING = var_d16().sampling


def cached(model: VAR) -> Tensor:
    *_, last = causal.stream(model, SAMPLING.request(model, COND, NOISE))
    return last.codes


@torch.inference_mode()
def recomputed(model: VAR) -> Tensor:
    """The same codes with an empty cache at each scale, filled by all scales before."""
    guidance = SAMPLING.guidance
    codes, steps = model.spec.empty(1), causal.spans(model.blocks())
    branches = guidance.branches(COND)
    for i, span in enumerate(steps):
        cache, prepared = model.cache(branches.batch), model.prepare(branches)
        guide = guidance.at(i, len(steps))
        for before in steps[:i]:
            seen = model.read(codes, prepared, before, cache)
            model.transform(None if seen is None else guide.tile(seen), prepared, before, cache)
        chance = Chance(guide, SlotNoise(NOISE, span.slots), SAMPLING.filters)
        draw = model.draw(codes, prepared, span, cache, chance)
        codes[:, span.slots] = draw.codes
    return codes


@contextmanager
def counted(model: VAR) -> Iterator[list[list[int]]]:
    """The rows of each call of each layer, filled within the block."""
    calls: list[list[int]] = [[] for _ in model.layers]

    def counter(rows: list[int]) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda _, inputs: rows.append(inputs[0].shape[1])

    pairs = zip(model.layers, calls, strict=True)
    hooks = [layer.register_forward_pre_hook(counter(rows)) for layer, rows in pairs]
    yield calls
    for hook in hooks:
        hook.remove()


def passes(model: VAR, way: Callable[[VAR], Tensor]) -> tuple[int, int, Tensor]:
    """Forward passes, rows that they evaluate, and codes of an image."""
    with counted(model) as calls:
        codes = way(model)
    assert all(rows == calls[0] for rows in calls)
    return len(calls[0]), sum(calls[0]), codes


def measure(layers: int, dtype: torch.dtype, rounds: int) -> None:
    config = VARConfig(**SIZES["d16"] | {"layers": layers})
    model = VAR(config).eval().to(dtype)
    model.quantize.float()
    ways = (cached, recomputed)
    with packed(model):
        made = [passes(model, way) for way in ways]
        assert torch.equal(made[0][2], made[1][2])
        times = [seconds(partial(way, model)) for _ in range(rounds) for way in ways]
    case = {
        "script": "scales",
        "dtype": str(dtype).removeprefix("torch."),
        "layers": layers,
        "dim": config.dim,
        "positions": model.spec.positions,
        "rounds": rounds,
    }
    for i, (count, rows, _) in enumerate(made):
        name, time = ways[i].__name__, statistics.median(times[i :: len(ways)])
        case |= {f"{name}_passes": count, f"{name}_rows": rows, f"{name}_s": time}
    report(case | {"gain": case["recomputed_s"] / case["cached_s"]})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one layer, one round: a trial")
    parser.add_argument("--layers", type=int, default=16, help="fewer where time or memory asks")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    options = parser.parse_args()
    layers, rounds = (1, 1) if options.quick else (options.layers, 5)
    measure(layers, getattr(torch, options.dtype), rounds)


if __name__ == "__main__":
    main()
