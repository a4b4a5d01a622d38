"""Recipes: functions that return everything about a training run, by name.

Every file here is one of recipes. What `RECIPES` holds are its public functions without arguments;
if it has a `DEMO`, the command `demo` has its name. A new file needs no line here.
"""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Callable, Iterator
from importlib import import_module
from types import ModuleType
from typing import Any

from smalti.recipes.base import Demo


def _files() -> Iterator[ModuleType]:
    for file in pkgutil.iter_modules(__path__):
        if file.name != "base":
            yield import_module(f"{__name__}.{file.name}")


def _recipes(module: ModuleType) -> dict[str, Callable[[], Any]]:
    """The recipes of a file, each of a kind of `base`, in their order there."""
    return {
        name: function
        for name, function in vars(module).items()
        if inspect.isfunction(function)
        and function.__module__ == module.__name__
        and not name.startswith("_")
        and not inspect.signature(function).parameters
    }


FILES = {module.__name__.rpartition(".")[2]: module for module in _files()}
RECIPES = {name: recipe for file in FILES.values() for name, recipe in _recipes(file).items()}
DEMOS: dict[str, Demo] = {name: file.DEMO for name, file in FILES.items() if hasattr(file, "DEMO")}
