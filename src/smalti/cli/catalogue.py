"""What recipes there are and which fields they have, read off their source.

The command line knows names and lists recipes by this without importing torch, which takes
seconds. It sees every field that a recipe of a kind can have; which of them a recipe has, its own
dataclass says.
"""

from __future__ import annotations

import ast
import functools
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
SMALL = ("emoji_", "shapes_")
"""How the names of small recipes begin, for two CPU cores."""


@dataclass(frozen=True)
class Listed:
    """A recipe as the command line lists it."""

    name: str
    kind: str
    """Name of its dataclass in `recipes.base`."""
    text: str
    """The first paragraph of what it says of itself."""

    @property
    def tokenizer(self) -> bool:
        """Whether it trains a tokenizer; else a generator."""
        bases = _bases("smalti.recipes.base", self.kind)
        return "TokenizerRecipe" in (self.kind, *(name for _, name in bases))

    @property
    def group(self) -> str:
        size = "small, for two CPU cores" if self.name.startswith(SMALL) else "published"
        return f"{'tokenizers' if self.tokenizer else 'generators'}, {size}"


@functools.cache
def recipes() -> dict[str, Listed]:
    """All recipes by name, in the order of `recipes.RECIPES`."""
    listed, modules = dict[str, Listed](), _imported("smalti.recipes")
    for node in ast.walk(_parsed("smalti.recipes")):
        match node:
            case ast.Attribute(value=ast.Name(id=module), attr=name) if module in modules:
                function = _defined(f"smalti.recipes.{module}").get(name)
                if isinstance(function, ast.FunctionDef) and isinstance(function.returns, ast.Name):
                    text = inspect.cleandoc(ast.get_docstring(function) or "").split("\n\n")[0]
                    listed[name] = Listed(name, function.returns.id, " ".join(text.split()))
            case _:
                pass
    return listed


@functools.cache
def fields(recipe: str) -> tuple[str, ...]:
    """The dotted names of all fields that a recipe of this one's kind can have."""
    return tuple(dict.fromkeys(_fields("smalti.recipes.base", recipes()[recipe].kind)))


@functools.cache
def settings() -> tuple[str, ...]:
    """The names of all settings of drawing."""
    return tuple(_fields("smalti.pipeline.sampling", "Sampling"))


def _fields(module: str, name: str) -> Iterator[str]:
    for place in _bases(module, name):
        yield from _fields(*place)
    for node in _defined(module)[name].body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names = [part.id for part in ast.walk(node.annotation) if isinstance(part, ast.Name)]
            groups = [place for place in (_class(module, n) for n in names) if place is not None]
            match node.value:
                case ast.Call(func=ast.Name(id="part")):  # its fields stand in its place
                    prefix = ""
                case ast.Call(func=ast.Name(id="called"), args=[ast.Constant(str(other)), _]):
                    prefix = other
                case _:
                    prefix = node.target.id
            for place in groups:
                dot = "." if prefix else ""
                yield from (f"{prefix}{dot}{field}" for field in _fields(*place))
            if not groups:
                yield prefix


def _bases(module: str, name: str) -> list[tuple[str, str]]:
    """The classes of smalti that a class is derived from."""
    bases = [base.id for base in _defined(module)[name].bases if isinstance(base, ast.Name)]
    return [place for place in (_class(module, base) for base in bases) if place is not None]


def _class(module: str, name: str) -> tuple[str, str] | None:
    """Where a class of smalti that a module names is defined; None if it is no class of smalti."""
    if isinstance(_defined(module).get(name), ast.ClassDef):
        return module, name
    home = _imported(module).get(name)
    return _class(home, name) if home else None


@functools.cache
def _imported(module: str) -> dict[str, str]:
    """The modules of smalti that names of a module come from."""
    return {
        alias.name: node.module
        for node in _parsed(module).body
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("smalti.")
        for alias in node.names
        if node.module
    }


@functools.cache
def _defined(module: str) -> dict[str, Any]:
    """The classes and functions that a module defines."""
    kinds = (ast.ClassDef, ast.FunctionDef)
    return {node.name: node for node in _parsed(module).body if isinstance(node, kinds)}


@functools.cache
def _parsed(module: str) -> ast.Module:
    path = ROOT.joinpath(*module.split(".")[1:])
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in tree.body:
        for inner in (node, *(node.body if isinstance(node, ast.ClassDef) else ())):
            if isinstance(inner, ast.FunctionDef):
                del inner.body[1:]  # nothing below the docstring is read; trees are large
    return tree


# -- what can be converted


@functools.cache
def projects() -> dict[str, str]:
    """The projects whose files `smalti convert` takes, with the module of each."""
    found = dict[str, str]()
    for node in ast.walk(_parsed("smalti.interop.projects")):
        for pair in zip(node.keys, node.values, strict=True) if isinstance(node, ast.Dict) else ():
            match pair:
                case ast.Constant(str(name)), ast.Attribute(ast.Name(module), "PROJECT"):
                    found[name] = f"smalti.interop.projects.{module}"
                case _:
                    pass
    return found


@functools.cache
def conversion(project: str) -> tuple[str, ...]:
    """The names of all fields of a project's options."""
    module = projects()[project]
    for node in ast.walk(_parsed(module)):
        match node:
            case ast.keyword("options", ast.Name(name)) if _class(module, name):
                return tuple(_fields(module, name))
            case _:
                pass
    raise AssertionError(f"{module} names no class of options")
