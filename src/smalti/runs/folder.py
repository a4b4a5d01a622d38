"""The folder of a run: what it holds, whose it is, how it is claimed and finished."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TypeVar

from smalti.config import read_json, renamed, settings_of, to_dict, value_of
from smalti.data import skipped
from smalti.data.source import Source
from smalti.files import check_folder, check_output, sweep, write_json
from smalti.progress import say
from smalti.recipes.base import Recipe
from smalti.runs.data import note, same_content
from smalti.train import checkpoint
from smalti.train.parallel import World

T = TypeVar("T")

Report = dict[str, float | str | list[str]]
"""What a run says of itself in the end: its steps, what was measured, and what it learned from."""
LATER = (
    "log",
    "log_every",
    "eval_every",
    "preview_every",
    "save_every",
    "keep",
    "device",
    "accumulate",
    "recompute",
    "memory",
    "compile",
    "guard.on_nan",
    "guard.spike",
    "guard.on_spike",
    "data.on_changed",
)
"""Fields, those of the training configuration without its name, that a resumed run may change."""
SCHEDULES = (
    "steps",
    "optim.warmup",
    "objective.random_until",
    "objective.random_end",
    "objective.codebook.warmup",
)
"""Fields that a run which goes on longer may change: its steps, and what follows from them."""


def check(out: Path, recipe: Recipe) -> None:
    """Raise ValueError if the run's folder holds something else than a run of this recipe."""
    check_output(out, folder=True)
    path, mine = out / "recipe.json", to_dict(recipe)
    if path.is_file():
        found = differences(filled(read_json(path), recipe), mine)
        allowed = (*LATER, *SCHEDULES) if any(n == "train.steps" for n, *_ in found) else LATER
        for name, old, new in found:
            elsewhere = old and new and same_content(out, name, recipe)
            if name.removeprefix("train.") not in allowed and not elsewhere:
                raise other_recipe(out, name, old, new)
        done = checkpoint.found(out / "checkpoints")
        if done and (steps := int(done[-1].name.removeprefix("step-"))) > recipe.train.steps:
            raise ValueError(
                f"the run in {out} has done {steps} steps: train.steps must be at least that, "
                f"got {recipe.train.steps}"
            )
    check_folder(out, "recipe.json", ("train",), "a run")


def other_recipe(out: Path, name: str, old: object, new: object) -> ValueError:
    """The error of a folder that holds a run of another recipe, by a field that differs."""
    return ValueError(
        f"{out} holds a run of another recipe: {name} was {old!r}, now {new!r}. Give another "
        "--out, or remove the folder to start over"
    )


def say_longer(out: Path, recipe: Recipe) -> None:
    """Say so if a run is to have another number of steps than it began with."""
    path = out / "recipe.json"
    before = read_json(path)["train"]["steps"] if path.is_file() else recipe.train.steps
    if before != recipe.train.steps:
        say(
            f"{out} goes on to step {recipe.train.steps} instead of {before}: its schedules are "
            f"those of a run of {recipe.train.steps} steps from here on"
        )


def claim(
    out: Path,
    recipe: Recipe,
    world: World,
    source: Source | None = None,
    **begun: str,
) -> None:
    """Write the recipe, what the source holds and the fingerprints of what else the run begins
    from into its folder, once nothing but the work itself can fail."""
    if world.main:
        out.mkdir(parents=True, exist_ok=True)
        sweep(out)
        write_json(out / "recipe.json", to_dict(recipe))
        if source is not None:
            note(out, source)
        if begun := {name: mark for name, mark in begun.items() if mark}:
            write_json(out / "init.json", {"init": recipe.init, **begun})


def filled(told: object, config: object) -> object:
    """What a run says of its recipe, with the defaults of fields that came after it."""
    if not dataclasses.is_dataclass(config) or not isinstance(told, dict):
        return told
    told, later = renamed(type(config), told), dict[str, object]()
    for name, setting in settings_of(type(config)).items():
        field = setting.field
        if name in told:
            later[name] = filled(told[name], value_of(config, setting))
        elif field.default is not dataclasses.MISSING:
            later[name] = field.default
        elif field.default_factory is not dataclasses.MISSING:
            later[name] = field.default_factory()
    return told | json.loads(json.dumps(later, default=to_dict))  # tuples are lists


def differences(a: object, b: object, name: str = "") -> list[tuple[str, object, object]]:
    """Where two JSON values differ: (dotted name, old, new)."""
    if isinstance(a, dict) and isinstance(b, dict):
        keys = dict.fromkeys([*a, *b])
        found = (differences(a.get(k), b.get(k), f"{name}.{k}" if name else k) for k in keys)
        return [d for part in found for d in part]
    return [] if a == b else [(name, a, b)]


def without_held_out(chosen: T, world: World) -> T:
    """What is measured where nothing is held out: the training images; says so."""
    if world.main:
        say("no image is held out: what is measured is measured on the images of training")
    return chosen


def finish(
    out: Path, recipe: Recipe, measured: dict[str, float], source: Source | None = None
) -> Report:
    """Write and return the report."""
    report: Report = {"steps": recipe.train.steps, **measured}
    if source is not None:
        report |= {"source": source.name, "source_fingerprint": source.fingerprint()}
        report |= skipped.report(source.skipped)
    write_json(out / "report.json", report)
    return report
