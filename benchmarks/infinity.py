"""How large are Infinity's sizes, in how many passes does it draw, what does self-correction cost?

    python benchmarks/infinity.py [--quick] [--only parameters|passes|training] [--rounds N]

`parameters`: of each size, on the meta device, beside the number in its name; text of 512 words of
2048 features, 32 bits (125M: 16; 8B: 2 x 2 cells of 14).
`passes`: a picture of 0.06M pixels of the 125M model (random weights) with guidance, through
`smalti.engine.causal.stream` inside `packed`. Every call of every layer is counted, and its rows of
one branch: the targets are 7 passes and 521 rows, each slot once. Times are medians, in seconds.
`training`: a step is forward, loss, backward, clipping and AdamW on a batch that is already there,
with flipped bits and without; each round times both, in processor time of one thread, which other
work on the machine hardly changes. `ratio` is the quotient of the medians, the target is at most
1.1.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from common import report, seconds
from smalti.codes import Cond
from smalti.engine import causal
from smalti.models.infinity import SIZES, Infinity, InfinityConfig
from smalti.nn.linear import packed
from smalti.recipes.infinity import emoji_infinity, infinity_125m
from smalti.sampling.noise import Noise
from smalti.train.objectives import Likelihood, LikelihoodConfig
from smalti.train.optim import OptimConfig, adamw
from smalti.train.parallel import keep_freed_memory

BITS = {"125M": {"bits": 16}, "8B": {"bits": 14, "cells": 2}}
"""Where they are not 32."""


def parameters() -> None:
    for name, size in SIZES.items():
        with torch.device("meta"):
            model = Infinity(InfinityConfig(**size, **BITS.get(name, {})))
        count = sum(p.numel() for p in model.parameters())
        named = float(name[:-1]) * {"M": 1e6, "B": 1e9}[name[-1]]
        layers = sum(p.numel() for p in model.layers.parameters())
        case = {"size": name, "parameters": count, "in_layers": layers, "to_name": count / named}
        report({"script": "infinity", "case": "parameters"} | case)


def text_of(config: InfinityConfig, batch: int) -> Cond:
    """Random texts of half the words that there may be."""
    mask = torch.arange(config.text_length) >= config.text_length // 2
    text = torch.randn(batch, config.text_length, config.text_dim) * mask[:, None]
    return Cond(text=text, text_mask=mask.expand(batch, -1))


def counted(model: Infinity, draw: Callable[[], object]) -> list[list[int]]:
    """The rows of each call of each layer in a drawing."""
    calls: list[list[int]] = [[] for _ in model.layers]

    def counter(rows: list[int]) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda _, inputs: rows.append(inputs[0].shape[1])

    pairs = zip(model.layers, calls, strict=True)
    hooks = [layer.register_forward_pre_hook(counter(rows)) for layer, rows in pairs]
    draw()
    for hook in hooks:
        hook.remove()
    return calls


def passes(layers: int, rounds: int) -> None:
    recipe = infinity_125m()
    assert isinstance(recipe.model, InfinityConfig)
    config = replace(recipe.model, bits=16, layers=layers)
    model = Infinity(config).eval()
    request = recipe.sampling.request(model, text_of(config, 1), Noise.request(0, 1))

    def draw() -> Tensor:
        *_, last = causal.stream(model, request)
        return last.codes

    with packed(model):
        rows = counted(model, draw)
        times = [seconds(draw) for _ in range(rounds)]
    assert all(one == rows[0] for one in rows)
    case = {
        "layers": layers,
        "positions": model.spec.positions,
        "rounds": rounds,
        "passes": len(rows[0]),
        "rows": sum(rows[0]),
        "picture_s": statistics.median(times),
    }
    report({"script": "infinity", "case": "passes"} | case)


class Steps:
    """A model with its optimizer and a batch."""

    def __init__(self, config: InfinityConfig, batch: int) -> None:
        torch.manual_seed(0)
        self.objective = Likelihood(Infinity(config), LikelihoodConfig()).train()
        self.optimizer = adamw(self.objective.model, OptimConfig())
        text = text_of(config, batch)
        assert text.text is not None and text.text_mask is not None
        self.batch = {
            "codes": torch.randint(2, config.spec.shape(batch)),
            "text": text.text,
            "text_mask": text.text_mask,
            "chance": torch.linspace(0, 1, batch),  # of a tenth the condition is dropped
            "shuffle": torch.arange(batch),
        }

    def run(self, count: int) -> float:
        """Processor seconds of a step."""
        began = time.process_time()
        for _ in range(count):
            self.step()
        return (time.process_time() - began) / count

    def step(self) -> None:
        losses = self.objective(self.batch, 0)
        sum(losses.totals.values()).backward()
        nn.utils.clip_grad_norm_(self.objective.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()


def training(name: str, config: InfinityConfig, batch: int, rounds: int) -> None:
    pair = [Steps(replace(config, flip=flip), batch) for flip in (0.0, 0.3)]
    for steps in pair:
        steps.run(2)
    times: list[list[float]] = [[], []]
    for i in range(rounds):
        for which in (0, 1) if i % 2 else (1, 0):  # neither is always first
            times[which].append(pair[which].run(2))
    plain, corrected = map(statistics.median, times)
    case: dict[str, Any] = {
        "model": name,
        "batch": batch,
        "positions": config.spec.positions,
        "rounds": rounds,
        "plain_ms": plain * 1e3,
        "corrected_ms": corrected * 1e3,
        "ratio": corrected / plain,
        "ratio_min": min(times[1]) / min(times[0]),
    }
    report({"script": "infinity", "case": "training"} | case)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one layer and few rounds: a trial")
    parser.add_argument("--only", choices=("parameters", "passes", "training"))
    parser.add_argument("--rounds", type=int, default=9, help="how often each is timed")
    options = parser.parse_args()
    keep_freed_memory()
    rounds = 2 if options.quick else options.rounds
    if options.only in (None, "parameters"):
        parameters()
    if options.only in (None, "passes"):
        passes(1 if options.quick else 12, rounds)
    if options.only in (None, "training"):
        torch.set_num_threads(1)
        small, large = emoji_infinity().model, infinity_125m().model
        assert isinstance(small, InfinityConfig) and isinstance(large, InfinityConfig)
        training("emoji", small, 16, rounds)
        layers = 1 if options.quick else 4
        training("125M", replace(large, bits=16, text_length=64, layers=layers), 2, rounds)


if __name__ == "__main__":
    main()
