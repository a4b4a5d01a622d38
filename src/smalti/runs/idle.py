"""Fields of a recipe that do nothing beside others: what a run refuses where they are named."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from smalti import modules
from smalti.config import read_json, to_dict
from smalti.data.token_cache import TokenCache
from smalti.files import expand
from smalti.interop.towers import KINDS, config_of
from smalti.loading import pipeline_folder, tokenizer_at
from smalti.models.towers import TowersConfig
from smalti.modules import tokenizer_folder
from smalti.recipes.base import (
    GeneratorRecipe,
    LanguageRecipe,
    Recipe,
    TextRecipe,
    TokenizerRecipe,
    TowersRecipe,
)
from smalti.runs.finetune import RATES
from smalti.text.words import FOLDER, Words

OWN = tuple(f"model.{rate}" for rate in RATES)
"""What a generator that goes on takes from the recipe."""


def check_idle(recipe: Recipe, named: Collection[str], out: Path | None = None) -> None:
    """Raise ValueError if a field of the recipe was `named`, by its dotted name, that does nothing,
    unless the run in `out` was begun with it."""
    if out is not None and (out / "recipe.json").is_file():
        begun_with, now = read_json(out / "recipe.json"), to_dict(recipe)
        named = [name for name in named if at(begun_with, name) != at(now, name)]
    for name, why in idle(recipe):
        if name in named:
            raise ValueError(f"{name} does nothing {why}")
    mine, own = to_dict(recipe), OWN if isinstance(recipe, GeneratorRecipe) else ()
    for option, decided in (("init", begun), ("codes", encoded)):
        given = getattr(recipe, option, "")
        theirs = decided(recipe, given) if given else {}
        for name in sorted({*named} - {*own}):
            value = at(theirs, name)
            if value is not None and value != at(mine, name):
                raise ValueError(f"{name} does nothing with --{option} {given}, which has {value}")


def idle(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Fields that do nothing beside others of the recipe, and why."""
    if isinstance(recipe, TokenizerRecipe):
        for name, of in recipe.objective.idle.items():
            off = "which is off; only a table of codes can be cared for"
            yield f"objective.{name}", f"without objective.{of}, {off}"
    if isinstance(recipe, GeneratorRecipe | LanguageRecipe):
        yield "data.shift", "but for tokenizers and towers"
    for given in ("words", "language"):
        if folder := getattr(recipe, given, ""):
            yield "vocab", f"with --{given} {folder}, which has its own"
    if isinstance(recipe, GeneratorRecipe):
        if not recipe.lora.rank:
            yield "lora.alpha", "without lora.rank, which is 0"
            yield "lora.targets", "without lora.rank, which is 0"
        if recipe.data.crop == "ten":
            yield "data.flip", "with data.crop ten, which has mirror images"


def begun(recipe: Recipe, init: str) -> dict[str, Any]:
    """What a pipeline, tokenizer, towers or language model decide that the run goes on from, by the
    fields of the recipe; nothing where it is another kind or cannot be opened, of which the run
    says why."""
    try:
        if isinstance(recipe, TokenizerRecipe):
            folder = tokenizer_at(init)
            folder = folder if folder.is_dir() else tokenizer_folder(pipeline_folder(init))
            return {"model": _config(folder, recipe.model)}
        if isinstance(recipe, TowersRecipe | LanguageRecipe):
            folder = expand(init)
            return {"model": _config(folder, recipe.model), "vocab": Words.open(folder).vocab}
        folder = pipeline_folder(init)
        about = read_json(folder / "pipeline.json")
        found = {name: about[name] for name in ("sampling", "writing") if name in about}
        found["model"] = _config(folder / "model", recipe.model)
        if isinstance(recipe, TextRecipe):
            found["text"] = _config(folder / "text", recipe.text)
        words = folder / FOLDER
        return found | ({"vocab": Words.open(words).vocab} if words.is_dir() else {})
    except (ValueError, OSError):
        return {}


def encoded(recipe: Recipe, file: str) -> dict[str, Any]:
    """What a file of codes decides, by the fields of the recipe; nothing where it cannot be opened,
    of which the run says why. Its source may be named in other words, as of a folder that moved."""
    try:
        transform = TokenCache(file).transform
    except (ValueError, OSError):
        return {}
    return {"data": {name: transform.get(name) for name in ("crop", "flip")}}


def _config(folder: Path, mine: Any) -> Any:
    """The configuration of the module in a folder; {} if it is of another kind than `mine`."""
    file = folder / "config.json"
    told = read_json(file) if file.is_file() else {}
    if told.get("model_type") in KINDS and type(mine) is TowersConfig:
        return to_dict(config_of(told, str(file)))
    tables = (modules.MODELS, modules.TOKENIZERS, modules.UNIFIED, modules.TEXT)
    tables += (modules.TOWERS, modules.LANGUAGES)
    known = (table[told["type"]] for table in tables if told.get("type") in table)
    return told.get("config") if any(entry.config is type(mine) for entry in known) else {}


def at(values: Any, name: str) -> Any:
    """The value of a dotted name; None if there is none."""
    for part in name.split("."):
        values = values.get(part) if isinstance(values, Mapping) else None
    return values
