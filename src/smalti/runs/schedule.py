"""Schedules that follow the number of steps.

A recipe's warm-up, the ends of its random orders and the like are numbers of steps that belong to
its own number of steps. When that number alone is changed, they change with it by one rule:

- points of the schedule (`POINTS`) keep their share of the training;
- `codebook.warmup`, which needs so many steps whatever comes after, ends by a quarter of them;
- there are as many evaluations and previews as before or, of a shorter training, five at least
  where there were more; checkpoints are written no less often than the recipe writes them.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from smalti.config import read_json
from smalti.recipes.base import Recipe, TokenizerRecipe

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

R = TypeVar("R", bound=Recipe)
D = TypeVar("D", bound="DataclassInstance")

RELAXED = "objective.relaxed.temperature_steps"
"""All tokenizers that quantize have this field; it is a point of those that draw their codes."""
POINTS = (
    "train.optim.warmup",
    "train.optim.hold",
    "objective.random_until",
    "objective.random_end",
    "objective.gan_start",
    "objective.temperature_steps",
    RELAXED,
    "objective.kl_steps",
)
WARMUP = "objective.codebook.warmup"
INTERVALS = ("train.eval_every", "train.preview_every", "train.save_every")
FOLLOWING = (*POINTS, WARMUP, *INTERVALS)
"""All fields that follow `train.steps`."""


def with_steps(recipe: R, steps: int) -> R:
    """The recipe for another number of steps, with the schedules that belong to it."""
    return _set(recipe, {"train.steps": steps, **_scaled(recipe, steps)})


def follow(recipe: R, default: Recipe, named: Collection[str], out: Path) -> tuple[R, str]:
    """The recipe with the schedules that belong to its steps, but for the fields that were `named`,
    and a line that says what changed, or "".

    `default` is the recipe before any change. A run that `out` holds already keeps its schedules.
    """
    steps = recipe.train.steps
    values = _scaled(default, steps) if steps != default.train.steps else {}
    path = out / "recipe.json"
    if path.is_file():
        begun = read_json(path)
        values |= {n: v for n in FOLLOWING if (v := _read(begun, n)) is not None}
    changed = {
        name: value
        for name, value in values.items()
        if name not in named and _get(recipe, name) not in (None, value)
    }
    lacks_gan = not getattr(recipe.objective, "gan_weight", 0)
    moved = [
        f"{name} {value}"
        for name, value in changed.items()
        if name not in INTERVALS and not (lacks_gan and name == "objective.gan_start")
    ]
    text = f"schedules follow the {steps} steps: {', '.join(moved)}"
    return _set(recipe, changed), text if moved and not path.is_file() else ""


def _scaled(recipe: Recipe, steps: int) -> dict[str, int]:
    """The fields of a recipe that follow its steps, for another number of steps."""
    share, values = steps / recipe.train.steps, dict[str, int]()
    for name in FOLLOWING:
        value = _get(recipe, name)
        if not value:  # the recipe has no such field, or it is off
            continue
        if name == RELAXED and not (isinstance(recipe, TokenizerRecipe) and recipe.model.relaxed):
            continue
        if name == WARMUP:
            values[name] = min(value, steps // 4)
        elif name in POINTS:
            values[name] = round(value * share)
        else:
            every = max(1, round(value * share), min(value, steps // 5))
            values[name] = min(value, every) if name == "train.save_every" else every
    return values


def _get(config: object, name: str) -> int | None:
    """The number of steps in the field of a dotted name; None if there is none."""
    for part in name.split("."):
        config = getattr(config, part, None)
    return config if isinstance(config, int) else None


def _read(values: object, name: str) -> int | None:
    """The same of a JSON object."""
    for part in name.split("."):
        values = values.get(part) if isinstance(values, dict) else None
    return values if isinstance(values, int) else None


def _set(config: D, values: dict[str, int]) -> D:
    """The dataclass with other values of fields, given by dotted names."""
    here: dict[str, object] = {name: value for name, value in values.items() if "." not in name}
    for group in {name.partition(".")[0] for name in values if "." in name}:
        inner = {n.partition(".")[2]: v for n, v in values.items() if n.startswith(f"{group}.")}
        assert is_dataclass(getattr(config, group)), group
        here[group] = _set(getattr(config, group), inner)
    return replace(config, **here)
