"""Fields of a recipe that do nothing beside others: what a run refuses where they are named."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from smalti.recipes.base import GeneratorRecipe, Recipe, TextRecipe, TokenizerRecipe, UnifiedRecipe
from smalti.runs.finetune import RATES

OWN = tuple(f"model.{rate}" for rate in RATES)
"""What a model that goes on takes from the recipe."""


def check_idle(recipe: Recipe, named: Collection[str]) -> None:
    """Raise ValueError if a field of the recipe was `named`, by its dotted name, that does
    nothing."""
    for name, why in idle(recipe):
        for field in named:
            inside = field.startswith(f"{name}.") and field not in OWN
            if field == name or inside:
                raise ValueError(f"{field} does nothing {why}")


def idle(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Fields, or groups of fields, that do nothing, and why."""
    if isinstance(recipe, TokenizerRecipe):
        for name, of in recipe.objective.idle.items():
            off = "which is off; only a table of codes can be cared for"
            yield f"objective.{name}", f"without objective.{of}, {off}"
    init = getattr(recipe, "init", "")
    if init and isinstance(recipe, TokenizerRecipe | GeneratorRecipe | UnifiedRecipe):
        groups = ["model"]
        groups += ["sampling"] if isinstance(recipe, GeneratorRecipe | UnifiedRecipe) else []
        groups += ["text"] if isinstance(recipe, TextRecipe) else []
        groups += ["writing", "vocab"] if isinstance(recipe, UnifiedRecipe) else []
        yield from ((name, f"with --init {init}, which has its own") for name in groups)
    for given in ("codes", "documents"):
        if file := getattr(recipe, given, ""):
            made = f"with --{given} {file}: they are made"
            yield from ((f"data.{name}", made) for name in ("source", "crop", "flip", "holdout"))
    for given in ("words", "language"):
        if folder := getattr(recipe, given, ""):
            yield "vocab", f"with --{given} {folder}, which has its own"
    if isinstance(recipe, GeneratorRecipe):
        if not recipe.lora.rank:
            yield "lora.alpha", "without lora.rank, which is 0"
            yield "lora.targets", "without lora.rank, which is 0"
        if recipe.data.crop == "ten":
            yield "data.flip", "with data.crop ten, which has mirror images"
