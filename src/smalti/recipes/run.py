"""A recipe and a folder in, a trained tokenizer or pipeline out.

A run's folder holds recipe.json (and init.json, if it began from something trained), metrics.jsonl,
checkpoints/, previews/, and in the end tokenizer/ or pipeline/ and report.json. Run again with the
same recipe it goes on from the last checkpoint; a finished run returns its report at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from smalti.config import read_json
from smalti.recipes.base import Recipe, TokenizerRecipe
from smalti.recipes.generator import train_generator
from smalti.recipes.run_folder import check
from smalti.recipes.tokenizer import train_tokenizer
from smalti.train.parallel import World, start, stop


def train(recipe: Recipe, out: Path) -> dict[str, Any]:
    """Run a recipe to its end in the folder `out` and return the report (None on other ranks).

    Raises ValueError if `out` holds a run of another recipe.
    """
    world = start(recipe.train.device)
    try:
        return train_among(recipe, out, world)
    finally:
        stop()


def train_among(recipe: Recipe, out: Path, world: World) -> dict[str, Any]:
    """`train` by processes that have joined already."""
    if world.main:
        check(out, recipe)
    report = out / "report.json"
    if report.is_file() and read_json(report).get("steps") == recipe.train.steps:
        return read_json(report)
    if isinstance(recipe, TokenizerRecipe):
        return train_tokenizer(recipe, out, world)
    return train_generator(recipe, out, world)
