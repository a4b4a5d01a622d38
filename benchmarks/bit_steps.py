"""What does a training step of the models of bits cost, beside LlamaGen's and their operations?

    python benchmarks/bit_steps.py [--quick] [--only NAME] [--rounds N]

A step is forward, loss, backward, clipping and AdamW on a batch that is already there, by the
objective that the model's recipes have. Each model is timed in turns with a LlamaGen of the same
width, depth, heads, dropout and number of positions. `measured` is the quotient of the medians,
`paper` that of their operations, which are counted in real steps: what a model does more than
LlamaGen (groups of a code, a text, masks of all positions) is in it. `ratio` is measured / paper;
the target is at most 1.1.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from common import report, seconds
from smalti import modules
from smalti.devices import rates
from smalti.models.ibq import IBQConfig
from smalti.models.infinity import InfinityConfig
from smalti.models.llamagen import LlamaGenConfig
from smalti.models.maskbit import MaskBitConfig
from smalti.models.open_magvit2 import OpenMAGVIT2Config
from smalti.tokenizers.infinity import schedule
from smalti.tokenizers.quantize.multiscale import pyramid
from smalti.train.base import ObjectiveConfig
from smalti.train.masked_loss import MaskedConfig
from smalti.train.objectives import LikelihoodConfig
from smalti.train.optim import OptimConfig, adamw
from smalti.train.parallel import keep_freed_memory

SMALL = {"layers": 4, "heads": 4, "dim": 192, "dropout": 0.1}
LARGE = {"layers": 4, "heads": 12, "dim": 768, "dropout": 0.1}
WORDS = {"text_length": 16, "text_dim": 192}
LIKELIHOOD, MASKED = LikelihoodConfig(), MaskedConfig(masking="cosine", smoothing=0.1)


class Case(NamedTuple):
    """A model, how it is trained, and how many images a step has."""

    config: Any
    goal: ObjectiveConfig
    batch: int


CASES: dict[str, Callable[[], Case]] = {
    "magvit2_small": lambda: Case(
        OpenMAGVIT2Config(grid=(8, 8), channels=10, groups=(4, 6), classes=9, intra_layers=1,
                          multiple_of=64, **SMALL), LIKELIHOOD, 16),
    "magvit2_large": lambda: Case(OpenMAGVIT2Config(intra_layers=2, **LARGE), LIKELIHOOD, 4),
    "ibq_small": lambda: Case(
        IBQConfig(grid=(8, 8), vocab=512, classes=9, multiple_of=64, **SMALL), LIKELIHOOD, 16),
    "ibq_large": lambda: Case(IBQConfig(vocab=16384, **LARGE), LIKELIHOOD, 4),
    "maskbit_small": lambda: Case(
        MaskBitConfig(grid=(8, 8), channels=10, groups=2, classes=9, ffn_dim=768, **SMALL),
        MASKED, 16),
    "maskbit_large": lambda: Case(
        MaskBitConfig(channels=14, groups=2, ffn_dim=3072, **LARGE), MASKED, 4),
    "infinity_small": lambda: Case(
        InfinityConfig(scales=pyramid(1, 2, 3, 4, 6, 8), bits=12, multiple_of=64, **WORDS, **SMALL),
        LIKELIHOOD, 16),
    "infinity_large": lambda: Case(
        InfinityConfig(scales=schedule(1.0, "0.06M"), **WORDS, **LARGE), LIKELIHOOD, 4),
}  # fmt: skip


def yardstick(config: Any) -> LlamaGenConfig:
    """A LlamaGen as wide, deep and long as a model, with a vocabulary of its width."""
    positions, small = config.spec.positions, config.dim < 500
    sides = max(n for n in range(1, int(positions**0.5) + 1) if positions % n == 0)
    return LlamaGenConfig(
        grid=(sides, positions // sides),
        vocab=512 if small else 16384,
        classes=9 if small else 1000,
        multiple_of=64 if small else 256,
        layers=config.layers,
        heads=config.heads,
        dim=config.dim,
        dropout=config.dropout,
    )


class Steps:
    """A model with its optimizer and a batch."""

    def __init__(self, config: Any, goal: ObjectiveConfig, batch: int) -> None:
        torch.manual_seed(0)
        model = modules.module_of(config, modules.MODELS)
        self.objective: Any = goal.objective(model, None, 0).train()
        self.optimizer = adamw(model, OptimConfig())
        self.batch: dict[str, Tensor] = {
            "codes": torch.randint(config.spec.vocab, config.spec.shape(batch)),
            "chance": torch.linspace(0, 1, batch),  # of a tenth the condition is dropped
            "shuffle": torch.arange(batch),
        }
        if reads := model.reads.text:
            ids = torch.randint(max(model.reads.text_vocab, 1), (batch, *reads)).float()
            self.batch["text"] = ids if model.reads.text_vocab else torch.randn(batch, *reads)
            self.batch["text_mask"] = torch.ones(batch, reads[0], dtype=torch.bool)
        else:
            self.batch["labels"] = torch.arange(batch) % model.reads.classes

    def step(self) -> None:
        losses = self.objective(self.batch, 0)
        sum(losses.totals.values()).backward()
        nn.utils.clip_grad_norm_(self.objective.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def run(self, count: int) -> float:
        """Seconds of a step."""
        return seconds(lambda: [self.step() for _ in range(count)]) / count

    def counted(self) -> float:
        """Operations of a step."""
        return rates.counted(self.step)


def compare(two: list[Steps], rounds: int, count: int) -> dict[str, float]:
    """Milliseconds of a step of each, and their quotient beside that of the operations."""
    work = [steps.counted() for steps in two]
    times: list[list[float]] = [[], []]
    for steps in two:
        steps.run(1)
    for _ in range(rounds):
        for taken, steps in zip(times, two, strict=True):
            taken.append(steps.run(count))
    mine, theirs = (statistics.median(t) for t in times)
    measured, paper = mine / theirs, work[0] / work[1]
    return {
        "ms": 1000 * mine,
        "beside_ms": 1000 * theirs,
        "measured": measured,
        "paper": paper,
        "ratio": measured / paper,
    }


def measure(name: str, rounds: int, count: int) -> dict[str, Any]:
    case = CASES[name]()
    two = [Steps(*case), Steps(yardstick(case.config), LIKELIHOOD, case.batch)]
    found: dict[str, Any] = compare(two, rounds, count)
    told = {"case": name, "positions": case.config.spec.positions}
    return told | {"llamagen_ms": found.pop("beside_ms")} | found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--quick", action="store_true", help="one round of one step")
    parser.add_argument("--only", choices=CASES, help="one case")
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    keep_freed_memory()
    for name in [args.only] if args.only else CASES:
        report(measure(name, 1 if args.quick else args.rounds, 1 if args.quick else 3))


if __name__ == "__main__":
    main()
