"""What does a training step of VAR and RAR cost, beside LlamaGen's and the operations on paper?

    python benchmarks/train_step.py [--quick] [--only NAME] [--rounds N] [--profile]

A step is forward, loss, backward, clipping and AdamW on a batch that is already there, with the
same width, depth, dropout and number of positions; RAR learns in random orders. `measured` is the
quotient of the two models' steps (medians; `measured_min` of the shortest), each round timing both.
`paper` is the quotient of their operations: the multiplications of forward and backward as
`products` counts them by part, in the line beside it. `counted` is the same by
`torch.utils.flop_counter`. `ratio` is measured / paper; the target is at most 1.1.
"""

import argparse
import statistics
import sys
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from common import report, seconds
from smalti.devices import rates
from smalti.models.llamagen import LlamaGen, LlamaGenConfig
from smalti.models.rar import RAR, RARConfig
from smalti.models.var import VAR, VARConfig
from smalti.tokenizers.multiscale_vqvae import VAR256
from smalti.tokenizers.quantize.multiscale import pyramid
from smalti.train.objectives import Likelihood, LikelihoodConfig
from smalti.train.optim import OptimConfig, adamw
from smalti.train.parallel import keep_freed_memory

EMOJI = {"layers": 4, "heads": 4, "dim": 160, "vocab": 512, "classes": 9, "dropout": 0.1}
LARGE = {"layers": 4, "heads": 12, "dim": 768, "vocab": 4096, "classes": 1000, "dropout": 0.1}
EMOJI_SCALES = pyramid(1, 2, 3, 4, 6, 8)

CASES: dict[str, tuple[int, LlamaGenConfig, RARConfig | VARConfig]] = {
    "rar_emoji": (
        16,
        LlamaGenConfig(grid=(8, 8), multiple_of=32, **EMOJI),
        RARConfig(grid=(8, 8), ffn_dim=640, **EMOJI),
    ),
    "var_emoji": (
        16,
        LlamaGenConfig(grid=(10, 13), multiple_of=32, **EMOJI),
        VARConfig(scales=EMOJI_SCALES, latent=8, **EMOJI),
    ),
    "rar_large": (
        4,
        LlamaGenConfig(grid=(16, 16), **LARGE),
        RARConfig(grid=(16, 16), ffn_dim=3072, **LARGE),
    ),
    "var_large": (
        4,
        LlamaGenConfig(grid=(20, 34), **LARGE),
        VARConfig(scales=VAR256, **LARGE),
    ),
}
"""Images in a batch, the yardstick, and what is measured."""

Parts = dict[str, float]


def transformer(config: Any, rows: int, ffn_products: int) -> Parts:
    """The multiplications that all three models have, forward, for one image of `rows` rows.

    Attention in training computes the scores of all rows, those that the mask hides as well.
    """
    return {
        "projections": config.layers * rows * 4 * config.dim**2,
        "attention": config.layers * rows * rows * 2 * config.dim,
        "feed_forward": config.layers * rows * ffn_products,
        "head": config.spec.positions * config.dim * config.vocab,
    }


def products(config: Any, batch: int, conditions: int) -> Parts:
    """Multiplications of a training step, by part; `conditions` is how many differ in the batch.

    A product of a forward pass is two more in the backward one, for its input and its weights.
    """
    n, d = config.spec.positions, config.dim
    modulated = (6 * config.layers + 2) * d**2 if not isinstance(config, LlamaGenConfig) else 0
    if isinstance(config, LlamaGenConfig):
        image, once = transformer(config, n, 3 * d * config.ffn_dim), {}
    elif isinstance(config, RARConfig):  # a condition and a step give a modulation
        image = transformer(config, n + 1, 2 * d * config.ffn_dim)
        once = {"adaln": 3.0 * conditions * (n + 1) * modulated}
    else:  # an image has one modulation; codes are constants, so their pyramid has no backward pass
        image = transformer(config, n, 2 * d * round(config.mlp_ratio * d))
        h, w = config.scales[-1]
        first = config.scales[0][0] * config.scales[0][1]
        once = {
            "adaln": 3.0 * batch * modulated,
            "pyramid": batch * (len(config.scales) - 1) * h * w * 9 * config.latent**2,
            "read": 2.0 * batch * (n - first) * config.latent * d,
        }
    return {name: 3.0 * batch * count for name, count in image.items()} | once


class Steps:
    """A model with its optimizer and a batch."""

    def __init__(self, config: Any, batch: int) -> None:
        torch.manual_seed(0)
        kind = {LlamaGenConfig: LlamaGen, RARConfig: RAR, VARConfig: VAR}[type(config)]
        always = 1_000_000 if kind is RAR else 0
        shuffled = LikelihoodConfig(random_until=always, random_end=always)
        self.objective = Likelihood(kind(config), shuffled).train()
        self.optimizer = adamw(self.objective.model, OptimConfig())
        self.batch: dict[str, Tensor] = {
            "codes": torch.randint(config.vocab, config.spec.shape(batch)),
            "labels": torch.arange(batch) % config.classes,
            "chance": torch.linspace(0, 1, batch),  # of a tenth the condition is dropped
            "shuffle": torch.arange(batch),
        }
        dropped = self.batch["chance"] < shuffled.cond_dropout
        self.conditions = len(self.batch["labels"].masked_fill(dropped, -1).unique())

    def step(self) -> None:
        losses = self.objective(self.batch, 0)
        sum(losses.totals.values()).backward()
        nn.utils.clip_grad_norm_(self.objective.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def run(self, count: int) -> float:
        """Seconds of a step."""
        return seconds(lambda: [self.step() for _ in range(count)]) / count

    def counted(self) -> float:
        """Multiplications of a step by torch's own count."""
        return rates.counted(self.step) / 2


def measure(name: str, rounds: int, count: int, quick: bool) -> dict[str, Any]:
    batch, *configs = CASES[name]
    if quick:
        configs = [replace(c, layers=1) for c in configs]
    made = [Steps(config, batch) for config in configs]
    paper = [products(c, batch, m.conditions) for c, m in zip(configs, made, strict=True)]
    counted = [m.counted() for m in made]
    times: list[list[float]] = [[], []]
    for i in range(rounds):
        for which in (0, 1) if i % 2 else (1, 0):  # neither is always first
            times[which].append(made[which].run(count))
    totals = [sum(parts.values()) for parts in paper]
    middle, least = ([reduce(t) for t in times] for reduce in (statistics.median, min))
    quotient = totals[1] / totals[0]
    return {
        "script": "train_step",
        "case": name,
        "batch": batch,
        "positions": configs[0].spec.positions,
        "conditions": made[1].conditions,
        "rounds": rounds,
        "llamagen_ms_median": middle[0] * 1e3,
        "ms_median": middle[1] * 1e3,
        "llamagen_Mproducts": as_millions(paper[0]),
        "Mproducts": as_millions(paper[1]),
        "paper": quotient,
        "counted": counted[1] / counted[0],
        "measured": middle[1] / middle[0],
        "measured_min": least[1] / least[0],
        "ratio": middle[1] / middle[0] / quotient,
        "ratio_min": least[1] / least[0] / quotient,
    }


def as_millions(parts: Parts) -> dict[str, float]:
    return {name: float(f"{count / 1e6:.4g}") for name, count in parts.items()}


def profile(name: str, count: int = 5) -> None:
    """The operators of both models' steps, on stderr."""
    batch, *configs = CASES[name]
    for config in configs:
        made = Steps(config, batch)
        made.run(2)
        with torch.profiler.profile() as p:
            made.run(count)
        table = p.key_averages().table(sort_by="self_cpu_time_total", row_limit=30)
        print(f"{name}, {type(config).__name__}, {count} steps\n{table}", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one layer and few rounds: a trial")
    parser.add_argument("--only", choices=CASES, help="one case instead of all four")
    parser.add_argument("--rounds", type=int, default=12, help="how often both models are timed")
    parser.add_argument("--profile", action="store_true", help="operators as well, on stderr")
    options = parser.parse_args()
    keep_freed_memory()
    for name in CASES if options.only is None else (options.only,):
        steps = 1 if name.endswith("large") else 5
        rounds = 2 if options.quick else options.rounds
        report(measure(name, rounds, steps, options.quick))
        if options.profile:
            profile(name, steps)


if __name__ == "__main__":
    main()
