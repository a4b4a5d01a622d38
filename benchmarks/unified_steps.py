"""What does a picture inside a row cost to draw, and a step of training, counted in products?

    python benchmarks/unified_steps.py [--prefix N] [--steps N]

Draws a picture behind a text with guidance, by the small Transfusion and the small Chameleon of
the shapes, counts all products (torch's counter of operations) and compares them with the paper
count: the prefix of both branches once, and at each evaluation the rows of the picture alone
through every layer, looking at the prefix and themselves; what layers make of a picture's time is
not counted on paper. `ratio` is counted / paper; the target
for a span is at most 1.1. `anew` is what it would cost to read the whole document at each
evaluation, in the same unit.

Then a step of training of the small Chameleon, Transfusion, Show-o and UniFluid on rows of a text
and a picture: forward and backward are three times the products of every layer, with attention
whole, and of the head at positions that learn an id, or of the diffusion head at each time of each
vector. The target is at most 1.1 as well.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from torch import nn

from common import report
from smalti import modules
from smalti.codes import Cond, TokenSpec
from smalti.devices.rates import counted
from smalti.engine import mixed
from smalti.engine.step import Request
from smalti.heads.diffusion import DiffusionConfig, DiffusionHead
from smalti.models.eye import Sight
from smalti.models.unified import Marks, Unified
from smalti.recipes.chameleon import shapes_chameleon
from smalti.recipes.show_o import shapes_show_o
from smalti.recipes.transfusion import shapes_transfusion
from smalti.recipes.unifluid import shapes_unifluid
from smalti.sampling.guidance import Guidance
from smalti.sampling.noise import Noise
from smalti.sampling.solvers import Solver
from smalti.text.sequence import Part, rows_of
from smalti.train.joint import batch_of

WORDS, MARKS = 512, Marks(0, (1,), 2)
SIGHT = Sight(TokenSpec(((8, 8),), channels=96))
"""What the eye of `shapes_siglip` gives."""


def model_of(recipe: Any, spec: TokenSpec) -> Unified:
    """A new model of a recipe for such codes."""
    config = recipe.model.fitted(spec, WORDS, MARKS)
    if config.sight is not None:
        config = config.seeing(SIGHT)
    made = modules.module_of(config, modules.UNIFIED).eval()
    made.init_weights()
    return made


NOT_EACH = (
    *("output", "time", "to_film", "to_ada_ln_zero", "rows", "columns"),
    *("head", "aligner"),
)
"""Names in those of weights that do not multiply each row: heads, what is seen, and what follows
times and places, of which few are different."""


def linear(model: Unified) -> int:
    """Weights that multiply each row."""
    return sum(
        m.weight.numel()
        for name, m in model.named_modules()
        if isinstance(m, nn.Linear) and not set(name.split(".")) & set(NOT_EACH)
    )


def of_vectors(model: Unified) -> int:
    """Weights of a diffusion head that multiply a vector at each of its times; 0: it has none."""
    if not isinstance(head := getattr(model, "head", None), DiffusionHead):
        return 0
    once = ("time_embed", "cond_embed")
    return sum(p.numel() for n, p in head.named_parameters() if p.dim() > 1 and
               not n.startswith(once))  # fmt: skip


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

    ids = decoder.dim * model.vocab if spec.discrete else steps * of_vectors(model)
    heads = 2 * 2 * spec.positions * ids
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


def training(name: str, recipe: Any, model: Unified, prefix: int, batch: int = 4) -> dict[str, Any]:
    """Products of a step of training on rows of a learned text and picture."""
    text = Part(torch.randint(3, WORDS, (prefix,)))
    document = [text, mixed.picture_of(model)]
    rows = rows_of([document] * batch, model.wrapping)
    objective = recipe.objective.objective(model.train())
    fields = batch_of(rows) | {"shuffle": torch.arange(batch)}
    found = counted(lambda: objective(fields, 0).totals["model"].backward())
    decoder = getattr(model.config, "language", model.config)
    inner = decoder.heads * (decoder.head_dim or decoder.dim // decoder.heads)
    count, length = rows.ids.shape
    learned = batch * (prefix + model.spec.positions * model.spec.discrete)
    layers = count * length * (linear(model) + decoder.layers * 2 * length * inner)
    repeat = getattr(model.config, "head", DiffusionConfig()).repeat
    times = batch * model.spec.positions * repeat * of_vectors(model)
    paper = 3 * 2 * (layers + learned * decoder.dim * model.vocab + times)
    return {
        "case": f"{name}, training", "rows": count, "length": length,
        "gflop": found / 1e9, "ratio": found / paper,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prefix", type=int, default=64)
    parser.add_argument("--steps", type=int, default=25)
    options = parser.parse_args()
    torch.manual_seed(0)
    codes, numbers = TokenSpec(((8, 8),), 512), TokenSpec(((4, 4),), channels=32)
    for name, recipe, spec in (
        ("transfusion", shapes_transfusion(), numbers),
        ("chameleon", shapes_chameleon(), codes),
        ("show-o", shapes_show_o(), codes),
        ("unifluid", shapes_unifluid(), numbers),
    ):
        model = model_of(recipe, spec)
        if model.draws_by != "masked":
            report(drawing(name, model, options.prefix, options.steps))
        report(training(name, recipe, model, options.prefix))


if __name__ == "__main__":
    main()
