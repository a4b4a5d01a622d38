"""Write what `smalti models` says of each recipe, counted from its configuration.

    python benchmarks/recipe_facts.py

Counting the parameters of every recipe takes seconds, and the list is to come at once: so they are
in `src/smalti/recipes/facts.json`. `tests/recipes/test_facts.py` says when that is out of date.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from smalti import modules
from smalti.arguments import by
from smalti.models.unified import Marks
from smalti.nn.unfilled import unfilled
from smalti.recipes import RECIPES
from smalti.recipes import base as kinds

FILE = Path(__file__).parents[1] / "src" / "smalti" / "recipes" / "facts.json"
SYSTEMS = modules.TOKENIZERS | modules.MODELS | modules.UNIFIED | modules.TOWERS | modules.LANGUAGES
TASKS = {
    kinds.WordsRecipe: "words",
    kinds.TokenizerRecipe: "tokenizer",
    kinds.TextRecipe: "text-to-image",
    kinds.MapRecipe: "map-to-image",
    kinds.GeneratorRecipe: "class-to-image",
    kinds.UnifiedRecipe: "text-and-images",
    kinds.TowersRecipe: "matching",
    kinds.LanguageRecipe: "text",
}
"""By kind of recipe, the special before the general."""
MARKS = Marks(0, (1,), 2)
"""Any ids: how many weights a model has does not depend on them."""
PUBLISHED = re.compile(
    r"Published: (?:r|reconstruction )?FID (\d+\.\d+)(?: (?:on|of) ([\w-]+))?"
    r"[^\[]*?(?:\. |\.$|\[M)"
)
"""A published FID, and the pictures that it is of, where these are said."""


def facts_of(recipe: Callable[[], Any]) -> dict[str, Any]:
    """System, task, size, parameters, training data and published FID of a recipe."""
    made = recipe()
    task = next(word for kind, word in TASKS.items() if isinstance(made, kind))
    known = {"system": "words", "task": task, "size": "", "parameters": 0}
    if task == "text-and-images":
        known |= model_facts(fitted(made, trained_before(recipe)), task)
    elif task != "words":
        known |= model_facts(made.model, task)
    return known | {"data": made.data.source} | published(recipe.__doc__ or "")


def trained_before(recipe: Callable[[], Any]) -> list[Any]:
    """The other recipes that the commands of a recipe's docstring train."""
    names = re.findall(r"^ *smalti train (\w+)", recipe.__doc__ or "", re.MULTILINE)
    return [RECIPES[name]() for name in names if name != recipe.__name__]


def fitted(made: kinds.UnifiedRecipe, before: list[Any]) -> Any:
    """The configuration of a model as training makes it: for the ids of its texts, the codes of the
    tokenizer that is trained before it, and what its eye sees. Without one it is as it is."""
    config = made.model
    for one in before:
        if isinstance(one, kinds.TokenizerRecipe):
            tokenizer = modules.module_of(one.model, modules.TOKENIZERS)  # a small one
            config = config.fitted(tokenizer.spec, made.vocab, MARKS)
            config = config.with_codebook(tokenizer.coder.codebook)
        elif isinstance(one, kinds.TowersRecipe) and config.sight is not None:
            config = config.seeing(config.eye_of(one.model).sight)
    return config


def model_facts(config: Any, task: str) -> dict[str, Any]:
    """What a configuration says; its module is made without numbers."""
    system = next(name for name, item in SYSTEMS.items() if type(config) is item.config)
    with unfilled():
        model = modules.module_of(config, SYSTEMS)
    count, size = sum(p.numel() for p in model.parameters()), ""
    if task == "tokenizer":
        size = by(config.size)
    elif task.endswith("-to-image") or (task == "text-and-images" and config.drawing):
        size = f"{by(config.spec.grids[-1])} codes"
    if task == "text-and-images" and not config.drawing:
        task = "image-to-text"
    if task == "class-to-image" and model.reads.classes < 2:
        task = "unconditional"
    return {"system": system, "task": task, "size": size, "parameters": count}


def published(text: str) -> dict[str, Any]:
    """The FID that a recipe's docstring quotes, unless it is one from memory, which [M] marks."""
    found = PUBLISHED.search(" ".join(text.split()))
    if found is None or found[0].endswith("[M"):
        return {}
    return {"fid": float(found[1]), "fid_on": found[2] or ""}


def facts() -> dict[str, dict[str, Any]]:
    """Of every recipe, by name."""
    return {name: facts_of(recipe) for name, recipe in RECIPES.items()}


if __name__ == "__main__":
    lines = [f"  {json.dumps(name)}: {json.dumps(told)}" for name, told in facts().items()]
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
