"""What does a picture inside a row cost to draw, counted in products?

    python benchmarks/unified_steps.py [--prefix N] [--steps N]

Draws a picture behind a text with guidance, by the small Transfusion and the small Chameleon of
the shapes, counts all products (torch's counter of operations) and compares them with the paper
count: the prefix of both branches once, and at each evaluation the rows of the picture alone
through every layer, looking at the prefix and themselves. `ratio` is counted / paper; the target
for a span is at most 1.1. `anew` is what it would cost to read the whole document at each
evaluation, in the same unit.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from common import report
from smalti import modules
from smalti.codes import Cond, TokenSpec
from smalti.engine import mixed
from smalti.engine.step import Request
from smalti.models.unified import Marks, Unified
from smalti.recipes.chameleon import shapes_chameleon
from smalti.recipes.transfusion import shapes_transfusion
from smalti.sampling.guidance import Guidance
from smalti.sampling.noise import Noise
from smalti.sampling.solvers import Solver
from smalti.text.sequence import Part, rows_of

WORDS, MARKS = 512, Marks(0, (1,), 2)


def counted(run: Any) -> float:
    """Operations of a call, two for each product."""
    with FlopCounterMode(display=False) as counter:
        run()
    return float(counter.get_total_flops())


def model_of(recipe: Any, spec: TokenSpec) -> Unified:
    """A new model of a recipe for such codes."""
    config = recipe.model.fitted(spec, WORDS, MARKS)
    made = modules.module_of(config, modules.UNIFIED).eval()
    made.init_weights()
    return made


def linear(model: Unified, per_row: tuple[str, ...] = ("output", "tok_embeddings")) -> int:
    """Weights that multiply each row, without those of the tables of ids."""
    return sum(
        m.weight.numel()
        for name, m in model.named_modules()
        if isinstance(m, nn.Linear) and not name.endswith(per_row)
    )


def drawing(name: str, model: Unified, prefix: int, steps: int) -> dict[str, Any]:
    """Products of a picture behind a text of so many ids."""
    spec, layers = model.spec, model.config
    decoder = getattr(layers, "language", layers)
    inner = decoder.heads * (decoder.head_dim or decoder.dim // decoder.heads)
    text = Part(torch.randint(3, WORDS, (prefix,)))
    how = Request(
        Cond(labels=torch.arange(1)),
        Noise.request(0, 1),
        Guidance(2.0),
        solver=Solver(steps=str(steps)),
    )
    wish = mixed.MixedRequest([[text]], how, torch.zeros(model.vocab).bool(), first="picture")
    found = counted(lambda: list(mixed.stream(model, wish)))
    picture = mixed.picture_of(model)
    whole = [text, picture]
    branches = rows_of([whole, list(model.nothing(whole))], model.wrapping, left=True)
    length = branches.ids.shape[1]  # both branches are as long as the longer one
    end = len(model.wrapping.end(spec))
    begin = length - end - spec.positions

    def read(rows: int, keys: float) -> float:
        """Of both branches: rows through all layers, looking at so many keys."""
        return 2 * 2 * rows * (linear(model) + decoder.layers * 2 * keys * inner)

    heads = 2 * 2 * spec.positions * decoder.dim * model.vocab
    if model.draws_by == "denoised":
        paper = read(begin, begin) + steps * read(spec.positions, begin + spec.positions)
        anew = steps * read(begin + spec.positions, begin + spec.positions)
    else:
        each = range(spec.positions - 1)
        paper = heads + read(begin, begin) + sum(read(1, begin + 1 + i) for i in each)
        anew = heads + sum(read(begin + i, begin + i) for i in range(spec.positions))
    return {
        "case": name, "prefix": prefix, "positions": spec.positions, "steps": steps,
        "gflop": found / 1e9, "ratio": found / paper, "anew": anew / paper,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prefix", type=int, default=64)
    parser.add_argument("--steps", type=int, default=25)
    options = parser.parse_args()
    torch.manual_seed(0)
    flow = model_of(shapes_transfusion(), TokenSpec(((4, 4),), channels=32))
    report(drawing("transfusion", flow, options.prefix, options.steps))
    ids = model_of(shapes_chameleon(), TokenSpec(((8, 8),), 512))
    report(drawing("chameleon", ids, options.prefix, options.steps))


if __name__ == "__main__":
    main()
