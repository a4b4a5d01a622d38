"""Where does a training step go, operator by operator, beside the least that paper allows?

    python benchmarks/step_paper.py [RECIPE] [--batch 8] [--rounds 2] [--clock wall] [--rows 20]

A step is that of `smalti bench train`: forward, loss, backward, clipping, AdamW. A JSON line for
each operator has its calls and time in a step (means), its share of the step, and its limit: the
products, which are counted, at the rate of a large one; all others by the bytes that they read and
write, at the speed of copying as much within a step. The first line is the whole step. Weights are
random. On a machine that others use, --clock cpu counts the time of one thread.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from common import report
from smalti.devices import rates
from smalti.runs.bench import drawer, learning_step
from smalti.train.parallel import keep_freed_memory

CPU = torch.device("cpu")
CLOCKS = {"wall": time.perf_counter, "cpu": time.thread_time}
PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "convolution", "attention")
"""Parts of the names of operators that multiply."""
COPIED = 1 << 22
"""Float32 numbers, some more than an activation of LlamaGen-B at batch 8 has."""


@dataclass
class Cost:
    """Of all calls of an operator."""

    calls: int = 0
    seconds: float = 0.0
    bytes: int = 0
    """Read and written."""


class Operators(TorchDispatchMode):
    """What each operator costs that runs inside, forward and backward."""

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__()
        self.clock, self.costs = clock, defaultdict[str, Cost](Cost)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        begin = self.clock()
        out = func(*args, **(kwargs or {}))
        cost = self.costs[func.overloadpacket.__name__]
        cost.seconds += self.clock() - begin
        cost.calls += 1
        if not func.is_view:
            tensors = [t for t in tree_leaves((args, kwargs, out)) if isinstance(t, Tensor)]
            cost.bytes += sum(t.numel() * t.element_size() for t in tensors)
        return out


def copying() -> float:
    """Bytes a second of a copy of an activation's size, read and written."""
    source = torch.ones(COPIED)
    target = torch.empty_like(source)
    return 2 * source.nbytes / rates.shortest(partial(target.copy_, source))


def measured(
    step: Callable[[], None], rounds: int, clock: Callable[[], float]
) -> tuple[float, dict[str, Cost]]:
    """Seconds of a step, and what each operator costs in so many steps."""
    with Operators(clock) as mode:
        whole = statistics.median(rates.seconds(step) for _ in range(rounds))
    return whole, mode.costs


def lines(costs: dict[str, Cost], rounds: int, whole: float, products: float) -> list[Any]:
    """A row for each operator, the longest first; the limit of all that multiply stands with the
    longest of them."""
    speed, rows, left = copying(), list[Any](), products / rates.product_rate(CPU)
    for name, cost in sorted(costs.items(), key=lambda item: -item[1].seconds):
        row = {"case": name, "calls": cost.calls / rounds, "ms": 1e3 * cost.seconds / rounds}
        row |= {"share": cost.seconds / rounds / whole, "mb": cost.bytes / rounds / 1e6}
        multiplies = any(part in name for part in PRODUCTS)
        paper, left = (left, 0.0) if multiplies else (cost.bytes / rounds / speed, left)
        rows.append(row | {"limit_ms": 1e3 * paper, "multiplies": multiplies})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description="a training step, operator by operator")
    parser.add_argument("recipe", nargs="?", default="llamagen_b")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--rows", type=int, default=20)
    options = parser.parse_args()
    rates.clock = clock = CLOCKS[options.clock]
    torch.manual_seed(0)
    keep_freed_memory()
    step = learning_step(drawer(options.recipe, True, CPU), options.batch, CPU, torch.float32)
    products = rates.counted(step)  # which also warms up
    whole, costs = measured(step, options.rounds, clock)
    told = {"script": "step_paper", "recipe": options.recipe, "batch": options.batch}
    limit = 1e3 * products / rates.product_rate(CPU)
    report(told | {"case": "whole step", "ms": 1e3 * whole, "limit_ms": limit, "share": 1.0})
    for row in lines(costs, options.rounds, whole, products)[: options.rows]:
        report(told | row)


if __name__ == "__main__":
    main()
