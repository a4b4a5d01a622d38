"""What do several codes at a position cost, in a decode step and in a training step?

    python benchmarks/depth_steps.py [--quick] [--only decode|train] [--rounds N] [--depth G]
        [--systems NAME ...]

Decoding: one step of LlamaGen's B size in float32, in the middle of the picture, with a stack of
codes at each position and with one code, in turns; `ratio` is the quotient of the medians, and the
target is at most 1.35. Codes are out of 4,096 each, as UniTok's, and out of 16,384, as
RQ-Transformer's, where each of the depths has to read a classifier of 50 MB. `dnd` draws the codes
between the layers, without a depth head, `dnd_shared` by one classifier for all depths; their
target is at most 1.1. `paper` is the quotient of the operations of a step, also that of the
weights it reads: no system can be much below it.

Training: a step of a model with a depth head beside one of a LlamaGen of the same width and depth,
as `bit_steps.py` has it; `ratio` is measured / paper, and the target is at most 1.1.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from typing import Any

import torch

from bit_steps import CASES, LIKELIHOOD, Case
from bit_steps import measure as trained
from common import report, seconds
from smalti.codes import Cond, Span
from smalti.devices import rates
from smalti.models.dnd import DnD, DnDConfig
from smalti.models.llamagen import SIZES, LlamaGen, LlamaGenConfig
from smalti.models.rq_transformer import RQTransformerConfig
from smalti.nn.linear import packed
from smalti.sampling.chance import Chance
from smalti.sampling.guidance import Unguided
from smalti.sampling.noise import Noise, SlotNoise

SMALL = {"layers": 4, "dim": 192, "dropout": 0.1}
LARGE = {"layers": 4, "dim": 768, "dropout": 0.1}
DECODED: dict[str, Callable[[int, int], DnD | LlamaGen]] = {
    "llamagen": lambda vocab, depth: LlamaGen(
        LlamaGenConfig(vocab=vocab, depth=depth, **SIZES["B"])),
    "dnd": lambda vocab, depth: DnD(DnDConfig(vocab=vocab, depth=depth, **SIZES["B"])),
    "dnd_shared": lambda vocab, depth: DnD(
        DnDConfig(vocab=vocab, depth=depth, shared_heads=True, **SIZES["B"])),
}  # fmt: skip
"""Models of the B size, of codes and depths."""
TRAINED: dict[str, Callable[[], Case]] = {
    "llamagen_small": lambda: Case(
        LlamaGenConfig(grid=(8, 8), vocab=512, depth=4, classes=9, heads=4, multiple_of=64,
                       **SMALL), LIKELIHOOD, 16),
    "llamagen_large": lambda: Case(
        LlamaGenConfig(vocab=4096, depth=4, heads=12, **LARGE), LIKELIHOOD, 2),
    "rq_small": lambda: Case(
        RQTransformerConfig(grid=(8, 8), vocab=512, classes=9, heads=4, head_layers=1,
                            code_dim=16, **SMALL), LIKELIHOOD, 16),
    "rq_large": lambda: Case(
        RQTransformerConfig(vocab=4096, heads=12, head_layers=2, **LARGE), LIKELIHOOD, 4),
    "dnd_small": lambda: Case(
        DnDConfig(grid=(8, 8), vocab=512, depth=4, classes=9, heads=4, multiple_of=64,
                  **SMALL), LIKELIHOOD, 16),
    "dnd_large": lambda: Case(
        DnDConfig(vocab=4096, depth=4, heads=12, **LARGE), LIKELIHOOD, 2),
}  # fmt: skip


class Decoding:
    """A model of LlamaGen's B size in the middle of a batch of pictures."""

    def __init__(self, system: str, vocab: int, depth: int, batch: int) -> None:
        torch.manual_seed(0)
        self.model = DECODED[system](vocab, depth).eval()
        cond = Cond(labels=torch.arange(batch))
        self.prepared, self.cache = self.model.prepare(cond), self.model.cache(batch)
        self.codes, slot = self.model.spec.empty(batch), self.model.spec.positions // 2
        slots = torch.tensor([slot])
        self.span = Span(slots, slot + 1, slot)
        self.chance = Chance(Unguided(), SlotNoise(Noise.request(0, batch), slots))
        self.operations = rates.counted(self.step)
        self.weights = packed(self.model)  # as the loop has them
        self.weights.__enter__()

    @torch.no_grad()
    def step(self) -> None:
        self.model.draw(self.codes, self.prepared, self.span, self.cache, self.chance)

    def run(self, count: int) -> float:
        """Seconds of a step."""
        return seconds(lambda: [self.step() for _ in range(count)]) / count


def decoded(
    system: str, vocab: int, depth: int, batch: int, rounds: int, count: int
) -> dict[str, Any]:
    two = [Decoding(system, vocab, depth, batch), Decoding("llamagen", vocab, 0, batch)]
    times: list[list[float]] = [[], []]
    for steps in two:
        steps.run(2)
    for _ in range(rounds):
        for taken, steps in zip(times, two, strict=True):
            taken.append(steps.run(count))
    mine, theirs = (statistics.median(t) for t in times)
    sizes = [sum(p.numel() for p in steps.model.parameters()) for steps in two]
    return {
        "case": "decode",
        "system": system,
        "vocab": vocab,
        "depth": depth,
        "batch": batch,
        "ms": 1000 * mine,
        "one_code_ms": 1000 * theirs,
        "ratio": mine / theirs,
        "paper": two[0].operations / two[1].operations,
        "parameters": sizes[0],
        "one_code_parameters": sizes[1],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--quick", action="store_true", help="a few steps, for a look")
    parser.add_argument("--only", choices=("decode", "train"))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--systems", nargs="+", choices=(*DECODED, *TRAINED))
    arguments = parser.parse_args()
    rounds, count = (3, 3) if arguments.quick else (arguments.rounds, 8)
    if arguments.only != "train":
        for system in [s for s in DECODED if s in (arguments.systems or DECODED)]:
            for vocab in (4096, 16384):
                for batch in (1, 8):
                    report(decoded(system, vocab, arguments.depth, batch, rounds, count))
    if arguments.only != "decode":
        CASES.update(TRAINED)
        for name in [n for n in TRAINED if n in (arguments.systems or TRAINED)]:
            report(trained(name, rounds, 1))


if __name__ == "__main__":
    main()
