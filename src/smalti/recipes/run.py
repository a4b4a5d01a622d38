"""A recipe and a folder in, a trained tokenizer or pipeline out.

A run's folder holds recipe.json, data.parquet and init.json (see `run_data`), metrics.jsonl,
checkpoints/, previews/, and in the end tokenizer/ or pipeline/ and report.json. Run again with the
same recipe it goes on from the last checkpoint, and with more steps it goes on longer; a finished
run returns its report at once. One process, or those of one `torchrun`, writes there at a time.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from smalti.config import read_json
from smalti.files import LOCK, expand
from smalti.recipes.base import Recipe, TokenizerRecipe
from smalti.recipes.generator import train_generator
from smalti.recipes.run_data import warn_of_changes
from smalti.recipes.run_folder import check, say_longer
from smalti.recipes.tokenizer import train_tokenizer
from smalti.train.parallel import World, locked, on_main, start, stop


def train(recipe: Recipe, out: Path) -> dict[str, Any]:
    """Run a recipe to its end in the folder `out` and return the report (None on other ranks).

    Raises ValueError if `out` holds a run of another recipe or of data that has changed, and while
    another process writes there.
    """
    world = start(recipe.train.device)
    try:
        return train_among(recipe, expand(out), world)
    finally:
        stop()


def train_among(recipe: Recipe, out: Path, world: World) -> dict[str, Any]:
    """`train` by processes that have joined already."""
    on_main(world, lambda: check(out, recipe))
    report = out / "report.json"
    if report.is_file() and read_json(report).get("steps") == recipe.train.steps:
        if world.main:
            warn_of_changes(out, recipe)
        return read_json(report)
    with locked(world, out / LOCK, out):
        if world.main:
            say_longer(out, recipe)
        if isinstance(recipe, TokenizerRecipe):
            return train_tokenizer(recipe, out, world)
        return train_generator(recipe, out, world)
