"""All systems on the emoji, at equal parameters and equal training compute: the page.

python benchmarks/comparison.py [--quick] [--out DIR] [--docs DIR]

Trains the recipes' tokenizers and generators in --out (finished runs there are used again, one that
was cut off goes on), measures them, prints a JSON line for each system and each way of in-painting,
and writes comparison.md, its pictures and edit.png into --docs. Operations are those of real
training steps as `torch.utils.flop_counter` counts them, a multiplication and an addition as two.
--quick trains a twentieth of the steps with four pictures each: the page then says nothing, but it
is whole.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import smalti
from common import machine, report, seconds
from comparison_bits import rates
from comparison_edit import TOKENIZERS, edits, inpainting, spread
from comparison_page import TITLES, page
from smalti import modules
from smalti.cli.demo import recipes
from smalti.config import read_json
from smalti.data.loader import Images
from smalti.data.open import open_source
from smalti.data.source import split
from smalti.data.token_cache import TokenCache
from smalti.data.transforms import Transform
from smalti.eval.codebook import histograms, parts, perplexity, usage
from smalti.pictures import grid, save_png, to_pil
from smalti.pipeline.pipeline import Pipeline
from smalti.recipes import DEMOS
from smalti.recipes.base import GeneratorRecipe, Recipe
from smalti.runs import ladder
from smalti.runs.generator import objective_of, open_encoder
from smalti.runs.run import train

PARAMETERS, COMPUTE = 0.05, 0.02
"""How far a recipe may lie from LlamaGen's."""
COLUMNS = 8


@dataclass(frozen=True)
class Trained:
    """A system whose two runs are done."""

    recipes: tuple[Recipe, GeneratorRecipe]
    runs: tuple[Path, Path]
    """Of the tokenizer and of the generator."""
    pipe: Pipeline


def fresh(config: Any) -> Any:
    """A new tokenizer or model."""
    among = modules.TOKENIZERS | modules.MODELS
    return modules.module_of(config, among)


def learned(config: Any) -> int:
    """How many numbers of a tokenizer or model training changes."""
    return ladder.learned(fresh(config))


def numbers(module: torch.nn.Module) -> int:
    """How many numbers a module has, frozen or not."""
    return sum(p.numel() for p in module.parameters())


def operations(recipe: GeneratorRecipe) -> float:
    """Of a training step, forward and backward, at the recipe's batch, also of the encoder of texts
    that learns with a model: of one of two batches if they take equally many, else the mean over
    batches of pictures drawn from the source, as RAR modulates equal conditions once."""
    return counted(replace(recipe, train=replace(recipe.train, steps=1)))


@cache
def counted(recipe: GeneratorRecipe, batches: int = 8) -> float:
    """The same, whatever the number of steps."""
    source, rng = open_source(recipe.data.source), np.random.default_rng(0)
    model, size = fresh(recipe.model).train(), recipe.train.batch
    encoder = open_encoder(recipe, None)
    spec, objective = model.spec, objective_of(model, recipe, encoder)
    shape = spec.shape(size)
    codes = torch.randint(spec.vocab, shape) if spec.discrete else torch.randn(shape)

    def drawn(step: int) -> dict[str, Tensor]:
        chosen = rng.choice(len(source), size).tolist()
        batch = {
            "codes": codes,
            "chance": torch.from_numpy(rng.random(size)),
            "shuffle": torch.arange(step * size, (step + 1) * size),
        }
        if encoder is not None:
            return batch | {"text_tokens": encoder.tokenize([source.caption(i) for i in chosen])}
        labels = [source.label(i) % recipe.model.classes for i in chosen]
        return batch | {"labels": torch.tensor(labels)}

    counts = [ladder.operations(objective, [drawn(step)]) for step in range(2)]
    if counts[0] != counts[1]:
        counts += [ladder.operations(objective, [drawn(step)]) for step in range(2, batches)]
    return statistics.mean(counts)


def check_equal() -> None:
    """The recipes agree in parameters, and in operations of the whole training."""
    full = {name: DEMOS[name].generator() for name in TITLES}
    for name, recipe in full.items():
        larger = learned(recipe.model) / learned(full["llamagen"].model) - 1
        assert abs(larger) < PARAMETERS, f"{name} has {larger:+.1%} parameters"
    whole = full["llamagen"].train.steps * operations(full["llamagen"])
    for name, recipe in full.items():
        steps, equal = recipe.train.steps, whole / operations(recipe)
        assert abs(steps / equal - 1) < COMPUTE, f"{name} has {steps} steps, not {equal:.0f}"


def trained(name: str, data: str, quick: bool, out: Path) -> Trained:
    """Train a system, or take what is there. Systems of one tokenizer share its run."""
    first, second = recipes(data, quick, 0, name)
    if quick:
        first = replace(first, train=replace(first.train, batch=4))
        second = replace(second, train=replace(second.train, batch=4))
    a, b = (out / recipe.__name__ for recipe in (DEMOS[name].tokenizer, DEMOS[name].generator))
    train(first, a)
    second = replace(second, tokenizer=str(a / "tokenizer"))
    train(second, b)
    return Trained((first, second), (a, b), smalti.load(b / "pipeline"))


def training_seconds(run: Path, recipe: Recipe, units: int = 1) -> float:
    """Seconds of all training steps by the run's own log, however often it was cut off."""
    total, last = 0.0, 0
    for line in map(json.loads, (run / "metrics.jsonl").read_text().splitlines()):
        speed = next((v for k, v in line.items() if k in ("images_per_s", "tokens_per_s")), None)
        if speed is not None:
            total += (line["step"] - last) * recipe.train.batch * units / speed
            last = line["step"]
    return total


def used(codes: TokenCache) -> dict[str, Any]:
    """How training images, mirrored ones too, use the codes: in all, and each scale."""
    spec, scales = codes.spec, [f"{h}x{w}" for h, w in codes.spec.grids]
    views = [codes.codes(codes.train, view) for view in range(codes.views)]
    counts = parts(histograms(torch.cat(views), spec), spec)
    each = [counts[f"_{scale}"] for scale in scales] if len(scales) > 1 else [counts[""]]
    return {
        "usage": usage(counts[""]),
        "pictures_with_mirrors": len(codes.train) * codes.views,
        "scales": scales,
        "usage_by_scale": [usage(count) for count in each],
        "perplexity_by_scale": [perplexity(count) for count in each],
    }


def facts(name: str, system: Trained, repeats: int, names: list[str]) -> dict[str, Any]:
    """What the table says of a system, which draws all classes, or these names."""
    (first, second), (a, b), pipe = system.recipes, system.runs, system.pipe
    told, held, spec = read_json(a / "report.json"), read_json(b / "report.json"), pipe.model.spec
    model, sampling = pipe.model, pipe.sampling
    masked = model.loop == "masked"
    bound = "_bound" if masked else ""
    asked = None if pipe.text is None else names
    pipe(asked, n=1)  # what is slow only once
    one = [seconds(lambda i=i: pipe(asked, n=1, seed=i)) for i in range(repeats)]
    many = [seconds(lambda i=i: pipe(asked, n=64, seed=i)) / 64 for i in range(repeats)]
    return {
        "case": name,
        "parameters": learned(pipe.model.config),
        "text_parameters": None if pipe.text is None else numbers(pipe.text),
        "tokenizer": modules.name_of(pipe.tokenizer),
        "tokenizer_parameters": learned(pipe.tokenizer.config),
        "codes": spec.positions,
        "words": spec.words.removeprefix("out "),
        "raw_bits": spec.bits * spec.positions if spec.discrete else None,
        "operations_per_step": operations(second),
        "steps": second.train.steps,
        "operations": operations(second) * second.train.steps,
        "batch": second.train.batch,
        "bound": masked,
        "bits_per_code": held.get(f"held_out_bits_per_token{bound}"),
        "bits_per_image": held.get(f"held_out_bits_per_image{bound}"),
        "diffusion_loss": held.get("held_out_diffusion_loss"),
        "bits_by_order": {
            k.removeprefix("bits_per_token_").replace("_", "-"): v
            for k, v in held.items()
            if k.startswith("bits_per_token_")
        },
        "psnr": told["held_out_psnr"],
        **(used(TokenCache(b / "codes.arrow")) if spec.discrete else {"usage": None}),
        "passes": sampling.reveal.steps if masked else len(model.blocks()),
        "head_passes": None if spec.discrete else int(sampling.solver.steps),
        "seconds_1": statistics.median(one),
        "seconds_64": statistics.median(many),
        "train_s": training_seconds(b, second, spec.positions),
        "tokenizer_steps": first.train.steps,
        "tokenizer_train_s": training_seconds(a, first),
        "guidance": f"{sampling.guidance.scale:g} ({sampling.guidance.schedule})",
        "dtype": str(pipe.dtype).removeprefix("torch."),
    }


def named(source: Any, classes: Sequence[str]) -> list[str]:
    """The caption of the first picture of each class that has one."""
    of = dict[str, str]()
    for i in range(len(source)):
        if caption := source.caption(i):
            of.setdefault(source.classes[source.label(i)], caption)
    return [of[name] for name in classes]


def figures(
    systems: dict[str, Trained], pictures: dict[str, Any], docs: Path, names: list[str]
) -> list[str]:
    """Samples of each system, by class or by name, reconstructions of the tokenizers, VAR's scales.
    Returns the classes of the samples' columns."""
    classes = systems["llamagen"].pipe.classes[:COLUMNS]
    for name, system in systems.items():
        asked = classes if system.pipe.text is None else names
        drawn = system.pipe(asked, n=4 * len(classes), seed=0)
        save_png(grid(drawn, len(classes), zoom=2), docs / f"comparison-{name}.png", {})
    images, rows = spread(pictures, 2 * COLUMNS)["images"], list[Any]()
    for some in images.split(COLUMNS):
        rows += to_pil(some)
        for name in TOKENIZERS.values():
            pipe = systems[name].pipe
            rows += to_pil(pipe.decode(pipe.encode(some)))
    columns = min(COLUMNS, len(images))
    save_png(grid(rows, columns, zoom=2), docs / "comparison-reconstructions.png", {})
    stages = systems["var"].pipe.stream(classes, len(classes), seed=0)
    by_scale = [image for stage in stages for image in stage.images]
    save_png(grid(by_scale, len(classes), zoom=2), docs / "comparison-scales.png", {})
    return classes


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a trial of a minute")
    parser.add_argument("--out", type=Path, default=Path("runs/comparison"))
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    parser.add_argument("--data", default="emoji", help="other pictures, for a trial")
    args = parser.parse_args(arguments)
    check_equal()
    systems: dict[str, Trained] = {
        name: trained(name, args.data, args.quick, args.out) for name in TITLES
    }
    source = open_source(args.data)
    _, held = split(source, systems["var"].recipes[1].data.holdout)
    size = systems["var"].pipe.tokenizer.config.size[0]
    pictures: dict[str, Any] = dict(
        next(Images(source, held, Transform(size), 1).evaluation(len(held)))
    )
    pictures["captions"] = [source.caption(i) for i in held]
    names = named(source, systems["llamagen"].pipe.classes[:COLUMNS])

    table: dict[str, dict[str, Any]] = {
        name: facts(name, system, 1 if args.quick else 5, names) for name, system in systems.items()
    }
    for row in table.values():
        report(row)
    pipes: dict[str, Pipeline] = {name: system.pipe for name, system in systems.items()}
    draws = 1 if args.quick else 4
    painted = inpainting(pipes, pictures, draws)
    for way, row in painted.items():
        told = {k: v for k, v in row.items() if not isinstance(v, list)}
        report({"case": f"in-painting, {way}", **told})
    classes = figures(systems, pictures, args.docs, names)
    equal = rates(args.data, args.quick, args.out, table)
    for row in equal:
        report(row)
    save_png(edits(pipes, pictures), args.docs / "edit.png", {})
    about = machine() | {
        "data": args.data,
        "images": len(source),
        "held_out": len(held),
        "pixels": size,
        "classes": classes,
        "names": names,
        "draws": draws,
    }
    (args.docs / "comparison.md").write_text(page(table, painted, equal, about))


if __name__ == "__main__":
    main()
