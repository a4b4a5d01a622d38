"""Held-out bits per token of new categories: from scratch, fine-tuned in full, fine-tuned by LoRA.

    python benchmarks/finetune.py [--quick] [--out DIR]

A tokenizer and a generator learn seven categories of the emoji; then the generator learns the two
others, of which a quarter is held out, all three ways with the same codes, batches and number of
steps. `best_bits_per_token` is the lowest of ten evaluations on the way, at `best_step`.
"""

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from common import report, seconds
from smalti.data.open import open_source
from smalti.recipes.base import DataConfig, GeneratorRecipe, Recipe
from smalti.recipes.llamagen import emoji_llamagen, emoji_vqgan
from smalti.runs.run import train
from smalti.train.lora import LoraConfig

NEW = ("Animals & Nature", "Food & Drink")


def write_folders(out: Path) -> None:
    """The emoji as class folders: out/old and out/new."""
    source = open_source("emoji")
    for i in range(len(source)):
        name = source.classes[source.label(i)]
        folder = out / ("new" if name in NEW else "old") / name
        folder.mkdir(parents=True, exist_ok=True)
        source[i].image.save(folder / f"{source.key(i)}.png")


def short(recipe: Any, steps: int, lr: float | None = None) -> Any:
    """The recipe in so many steps, evaluated ten times, without previews on the way."""
    optim = recipe.train.optim
    optim = replace(optim, lr=lr or optim.lr, warmup=min(optim.warmup, steps // 10))
    often = {"eval_every": max(1, steps // 10), "preview_every": 0, "save_every": steps}
    return replace(recipe, train=replace(recipe.train, steps=steps, optim=optim, **often))


def run(case: str, recipe: Recipe, out: Path) -> None:
    told: dict[str, Any] = {}
    took = seconds(lambda: told.update(train(recipe, out)))
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    name = "held_out_bits_per_token"
    if found := [(line[name], line["step"]) for line in lines if name in line]:
        told["best_bits_per_token"], told["best_step"] = min(found)
    told = {k: v for k, v in told.items() if not k.startswith("source")}  # a temporary folder
    lr = recipe.train.optim.lr
    report({"script": "finetune", "case": case, "lr": lr, "seconds": took, **told})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a twentieth of the steps")
    parser.add_argument("--out", type=Path, help="keep the runs, and go on from those there")
    parser.add_argument("--steps", type=int, default=300, help="on the new categories")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--scratch", type=float, default=2e-3)
    parser.add_argument("--full", type=float, default=2.5e-4)
    parser.add_argument("--lora", type=float, default=2e-3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        compare(options, options.out or Path(temporary))


def compare(options: argparse.Namespace, out: Path) -> None:
    share = 0.05 if options.quick else 1.0
    steps = round(options.steps * share)
    if not (out / "old").exists():
        write_folders(out)
    old = DataConfig(source=f"folder:{out / 'old'}")
    new = DataConfig(source=f"folder:{out / 'new'}", holdout=0.25)
    first = short(replace(emoji_vqgan(), data=old), round(400 * share))
    codebook = replace(first.objective.codebook, warmup=min(20, steps // 2))
    first = replace(first, objective=replace(first.objective, codebook=codebook))
    run("tokenizer", first, out / "tokenizer")
    tokenizer = str(out / "tokenizer" / "tokenizer")
    base: GeneratorRecipe = replace(emoji_llamagen(), data=old, tokenizer=tokenizer)
    run("old categories", short(base, round(1000 * share)), out / "base")
    init = str(out / "base" / "pipeline")
    ways = {
        "scratch": (base, options.scratch),
        "full": (replace(base, init=init), options.full),
        "lora": (replace(base, init=init, lora=LoraConfig(options.rank)), options.lora),
    }
    for name, (recipe, lr) in ways.items():
        run(name, short(replace(recipe, data=new), steps, lr), out / f"{name}-{lr:g}")


if __name__ == "__main__":
    main()
