"""A ladder of sizes of one recipe: trained on the same codes, and the laws of their losses.

A size is a number of layers; all else keeps the recipe's proportions, heads their width. So a VAR
of d layers is w = 64 d wide with d heads and has N = 18 d w^2 = 73728 d^3 parameters in its
layers, as published. The learning rate falls with the root of the width. All sizes see the same
batches.

`out` holds recipe.json, the codes (unless the recipe names a cache), a run for each size, which is
used again when it is finished and goes on when it was cut off, and scaling.json.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypedDict, TypeVar

import numpy as np
import torch
from rich.box import SIMPLE_HEAD
from rich.table import Table
from torch import nn

from smalti import __version__
from smalti.config import written
from smalti.data.token_cache import TokenCache
from smalti.devices.rates import counted
from smalti.eval import scaling
from smalti.files import LOCK, write_json
from smalti.models.generator import GeneratorConfig
from smalti.progress import say
from smalti.recipes.base import GeneratorRecipe
from smalti.runs.codes import open_codes
from smalti.runs.folder import check, claim
from smalti.runs.generator import (
    fitted,
    objective_of,
    open_encoder,
    open_map,
    open_parts,
    open_tokenizer,
)
from smalti.runs.run import train_among
from smalti.train.base import Batch, Objective
from smalti.train.log import read_metrics
from smalti.train.parallel import World, autocast, blocks, locked, on_main, start, stop

C = TypeVar("C", bound=GeneratorConfig)
FEWEST = scaling.needed(floor=False) + 1
"""Sizes of a ladder: what a power law takes, and one to predict."""
EVALUATIONS = 20
"""On the way, at least; more where the recipe has more."""
COUNTED = 8
"""Training steps whose operations are counted: their number can change with the batch."""
LOSSES = ("nats_per_token", "nats_per_token_bound", "diffusion_loss")
"""What likelihood models, masked ones and those of continuous codes are measured by."""
NAMES = {"parameters": "N", "compute": "C", "tokens": "D"}
LAYERS = (
    *("layers", "encoder_layers", "decoder_layers", "intra_layers", "head_layers"),
    *("joint_layers", "single_layers"),
)
"""What configurations call the numbers of their layers, of each stack that they have."""
PER_LAYER = (*LAYERS, "heads", "decoder_heads", "kv_heads")
PER_WIDTH = ("ffn_dim", "decoder_dim")


Law = dict[str, Any]
"""What `scaling.study` says of a law, or under "none" why there is none."""


class Size(TypedDict):
    """What a finished run is in the laws: its size, its costs and its held-out loss on the way."""

    layers: int
    dim: int
    heads: int
    lr: float
    parameters: int
    """Those of the layers, as the literature counts them: without embeddings of codes, classes and
    positions and without the head."""
    parameters_all: int
    """All that are trained."""
    operations_per_step: float
    tokens_per_step: int
    steps: int
    unit: str
    """One of `LOSSES`."""
    curve: list[tuple[int, float]]
    """Steps and held-out losses."""


class About(TypedDict):
    """What a ladder learned from, and how."""

    model: str
    source: str
    source_fingerprint: str
    tokenizer: str
    codes: str
    images: int
    views: int
    held_out_images: int
    batch: int
    warmup: int
    seed: int
    versions: dict[str, str]


class Ladder(About):
    """scaling.json."""

    loss: str
    sizes: list[Size]
    laws: dict[str, dict[str, Law]]
    """Over what, with and without a floor."""


def layers_of(config: object) -> int:
    """The size of a model: its layers or, of one of several stacks, those of the deepest."""
    return max(getattr(config, name, 0) for name in LAYERS)


def number(config: GeneratorConfig, name: str) -> int:
    """A setting that models of every system have: `dim` or `heads`."""
    return written(config)[name]


def sized(config: C, layers: int) -> C:
    """The model of so many layers, `layers_of`, and the same proportions.

    Raises ValueError for less than one, and where the model cannot be of that size.
    """
    if layers < 1:
        raise ValueError(f"sizes are numbers of layers, at least 1, got {layers}")
    own = {f.name: getattr(config, f.name) for f in fields(config)}
    share = layers / layers_of(config)

    def scaled(count: int) -> int:
        return max(1, round(count * share)) if count else 0

    new: dict[str, object] = {name: scaled(own[name]) for name in PER_LAYER if name in own}
    dim = own["dim"] // own["heads"] * scaled(own["heads"])
    wider = dim / own["dim"]
    new |= {"dim": dim} | {name: round(own[name] * wider) for name in PER_WIDTH if name in own}
    if "drop_path" in own:
        new["drop_path"] = own["drop_path"] * share
    if "head" in own:
        head = own["head"]
        new["head"] = replace(head, depth=scaled(head.depth), width=round(head.width * wider))
    return replace(config, **new)


def rung(recipe: GeneratorRecipe, layers: int) -> GeneratorRecipe:
    """The recipe of one size, evaluated on the way and without pictures before the end."""
    own, optim = recipe.model, recipe.train.optim
    model = sized(own, layers)
    slower = replace(optim, lr=optim.lr * (number(own, "dim") / number(model, "dim")) ** 0.5)
    most = max(1, recipe.train.steps // EVALUATIONS)
    every = min(recipe.train.eval_every or most, most)
    trained = replace(recipe.train, optim=slower, eval_every=every, preview_every=0)
    return replace(recipe, model=model, train=trained)


def climb(
    recipe: GeneratorRecipe, sizes: Sequence[int], out: Path, note: str = ""
) -> Ladder | None:
    """Train every size in a folder of `out`, fit, and write and return scaling.json (None on other
    ranks). Raises ValueError for fewer than four sizes, and as `train` does."""
    sizes = sorted(set(sizes))
    if len(sizes) < FEWEST:
        raise ValueError(
            f"a ladder takes at least {FEWEST} different sizes, {FEWEST - 1} for a power law and "
            f"one for it to predict, got {len(sizes)}"
        )
    train, first = recipe.train, recipe.train.optim.warmup
    if train.steps <= first:
        raise ValueError(
            "laws see what comes after the warm-up: train.steps must be above "
            f"train.optim.warmup, {first}, got {train.steps}"
        )
    if recipe.init:
        raise ValueError("the sizes of a ladder are new models: init must be empty")
    rungs = {layers: rung(recipe, layers) for layers in sizes}  # mistakes before any work
    world = start(recipe.train.device)  # once: processes that have parted cannot join again
    try:
        on_main(world, lambda: check(out, recipe))
        with locked(world, out / LOCK, out):
            return _climbed(recipe, rungs, out, world, note)
    finally:
        stop()


def _climbed(
    recipe: GeneratorRecipe,
    rungs: dict[int, GeneratorRecipe],
    out: Path,
    world: World,
    note: str,
) -> Ladder | None:
    """Train each size, measure it, and fit."""
    cache = _opened(recipe, out, world)
    if note and world.main:
        say(note)
    measured = list[Size]()
    for layers, one in rungs.items():
        one, run = replace(one, codes=str(cache.path)), out / f"layers-{layers:02d}"
        if world.main:
            say(f"{layers} layers, width {number(one.model, 'dim')}: {run}")
        train_among(one, run, world)
        if world.main:
            measured.append(measure(one, run, world))
    if not world.main:
        return None
    report: Ladder = {
        **_about(recipe, cache),
        "loss": measured[0]["unit"],
        "sizes": measured,
        "laws": laws(measured, recipe.train.optim.warmup, recipe.train.seed),
    }
    write_json(out / "scaling.json", report)
    return report


def _opened(recipe: GeneratorRecipe, out: Path, world: World) -> TokenCache:
    """Claim the folder, and make the codes if the recipe names none."""
    tokenizer = open_tokenizer(recipe, world)
    fitted(recipe.model, tokenizer, 1, None)
    encoder, map = open_encoder(recipe, None), open_map(recipe, None, tokenizer, world)
    cache = open_codes(recipe, out, tokenizer, encoder, map, world)
    claim(out, recipe, world)
    return cache


def _about(recipe: GeneratorRecipe, cache: TokenCache) -> About:
    return {
        "model": type(recipe.model).__name__.removesuffix("Config"),
        "source": cache.source,
        "source_fingerprint": cache.source_fingerprint,
        "tokenizer": cache.tokenizer,
        "codes": cache.fingerprint(),
        "images": len(cache.train),
        "views": cache.views,
        "held_out_images": len(cache.held_out),
        "batch": recipe.train.batch,
        "warmup": recipe.train.optim.warmup,
        "seed": recipe.train.seed,
        "versions": {"smalti": __version__, "torch": torch.__version__},
    }


def measure(recipe: GeneratorRecipe, run: Path, world: World) -> Size:
    """What a finished run is in the laws, by this process alone. Operations are those of the first
    of the parts into which a step is cut, as often as there are parts; a part is an item where
    blocks are to be recomputed."""
    config, train, device = recipe.model, recipe.train, world.device
    cuts = train.batch if train.recompute or train.memory else world.size * train.accumulate
    parts = open_parts(recipe, run, World(0, 1, device))
    objective = objective_of(parts.pipeline.model, recipe, parts.learned).to(device).train()
    batches, (unit, curve) = parts.batches(recipe, World(0, cuts, device)), loss_curve(run)
    with autocast(device, train.precision):
        per_part = operations(
            objective,
            (
                {k: v.to(device) for k, v in batches.batch(step).items()}
                for step in range(min(COUNTED, train.steps))
            ),
        )
    return {
        "layers": layers_of(config),
        "dim": number(config, "dim"),
        "heads": number(config, "heads"),
        "lr": recipe.train.optim.lr,
        "parameters": sum(map(learned, blocks(objective.model))),
        "parameters_all": learned(objective.model),
        "operations_per_step": cuts * per_part,
        "tokens_per_step": recipe.train.batch * parts.cache.spec.positions,
        "steps": recipe.train.steps,
        "unit": unit,
        "curve": curve,
    }


def learned(module: nn.Module) -> int:
    """How many numbers training changes."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def operations(objective: Objective, batches: Iterable[Batch]) -> float:
    """Of a training step, forward and backward, as `rates.counted` has them: the mean over real
    steps of these batches."""
    chosen = list(batches)

    def run() -> None:
        for step, batch in enumerate(chosen):
            objective(batch, step).totals["model"].backward()

    return counted(run) / len(chosen)


def loss_curve(run: Path) -> tuple[str, list[tuple[int, float]]]:
    """What held-out loss a run was measured by, and its values: (step, loss) of each evaluation."""
    records = read_metrics(run)
    name = next(n for n in LOSSES if any(f"held_out_{n}" in r for r in records))
    key = f"held_out_{name}"
    return name, [(r["step"], float(r[key])) for r in records if key in r]


def laws(sizes: Sequence[Size], warmup: int, seed: int) -> dict[str, dict[str, Law]]:
    """Both laws over parameters, compute and tokens; evaluations in the warm-up do not count.

    Over parameters: the loss at the end. Over compute: the lower envelope of all sizes on the way.
    Over tokens: the lowest loss of any size after so many of them, also repeated ones.
    """
    ends, costs, amounts = list[np.ndarray](), list[np.ndarray](), dict[float, list[float]]()
    for size in sizes:
        curve = [(step, loss) for step, loss in size["curve"] if step > warmup]
        ends.append(np.array([[size["parameters"], size["curve"][-1][1]]]))
        costs.append(np.array([[step * size["operations_per_step"], loss] for step, loss in curve]))
        for step, loss in curve:
            amounts.setdefault(step * size["tokens_per_step"], []).append(loss)
    shared = [(x, min(found)) for x, found in amounts.items() if len(found) == len(sizes)]
    told = {
        "parameters": (ends, False),
        "compute": (costs, True),
        "tokens": ([np.array([point]) for point in sorted(shared)], False),
    }
    return {
        name: {
            "power": _study(runs, False, envelope, seed),
            "floor": _study(runs, True, envelope, seed),
        }
        for name, (runs, envelope) in told.items()
    }


def _study(runs: list[np.ndarray], floor: bool, envelope: bool, seed: int) -> Law:
    """A law, or why there is none: what was trained is not lost for that."""
    try:
        return scaling.study(runs, floor, envelope, seed)
    except ValueError as error:
        return {"none": str(error)}


def tables(report: Ladder) -> list[Table]:
    """The sizes and the laws, for a terminal."""
    title = f"{report['model']} on {report['source']}, {report['loss']}"
    sizes = Table(title=title, box=SIMPLE_HEAD)
    columns = ("layers", "width", "parameters", "in all", "operations", "tokens", "held out")
    for name in columns:
        sizes.add_column(name, justify="right")
    for s in report["sizes"]:
        sizes.add_row(
            str(s["layers"]),
            str(s["dim"]),
            f"{s['parameters']:,}",
            f"{s['parameters_all']:,}",
            f"{s['operations_per_step'] * s['steps']:.3g}",
            f"{s['tokens_per_step'] * s['steps']:,}",
            f"{s['curve'][-1][1]:.4f}",
        )
    title = "laws over parameters N, compute C and tokens D"
    found = Table(title=title, box=SIMPLE_HEAD, pad_edge=False)
    found.add_column("loss")
    for name in ("95 % of alpha", "r", "predicted"):
        found.add_column(name, justify="right", no_wrap=True)
    for over, kinds in report["laws"].items():
        for law in kinds.values():
            found.add_row(*_row(law, NAMES[over]))
    return [sizes, found]


def _row(law: Law, name: str) -> list[str]:
    """A law in a table."""
    if "none" in law:
        return [f"{name}: {law['none']}"]
    among, held = law["intervals"], law["held_out"]
    alpha = "{:.3f}, {:.3f}".format(*among["alpha"]) if among else ""
    predicted = f"{held['predicted']:.4f} ({held['error']:+.1%})" if held else ""
    return [law["formula"].replace("X", name), alpha, f"{law['pearson']:.4f}", predicted]
