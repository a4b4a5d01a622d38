"""What recipes there are and which fields they have, read off their source.

The command line knows names and lists recipes by this without importing torch, which takes
seconds. It sees every field that a recipe of a kind can have; which of them a recipe has, its own
dataclass says.
"""

from __future__ import annotations

import ast
import functools
import re
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


RECIPE = re.compile(
    r'^def ([a-z]\w*)\(\) -> (\w+):\n    """(.*?)(?:\n\n|""")', re.MULTILINE | re.DOTALL
)
"""A recipe: its name, its dataclass, the first paragraph of its docstring."""
DEMO = re.compile(r'^DEMO = .*?what="(.*?)"', re.MULTILINE | re.DOTALL)


@functools.cache
def recipes() -> dict[str, Listed]:
    """All recipes by name, in the order of `recipes.RECIPES`."""
    return {
        name: Listed(name, kind, " ".join(text.split()))
        for module in _modules("smalti.recipes")
        for name, kind, text in RECIPE.findall(_text(module))
    }


@functools.cache
def demos() -> dict[str, str]:
    """What `smalti demo` can train, as `recipes.DEMOS`, and what is unusual about each."""
    return {
        module.rpartition(".")[2]: what
        for module in _modules("smalti.recipes")
        for what in DEMO.findall(_text(module))
    }


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
            places = [place for place in (_class(module, n) for n in names) if place is not None]
            groups = [kind for place in places for kind in _kinds(*place)]
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


def _kinds(module: str, name: str) -> Iterator[tuple[str, str]]:
    """The classes that a field of this class may hold: it, and those of its package derived from
    it."""
    yield module, name
    package = module.rpartition(".")[0]
    for other in _modules(package):
        for derived in re.findall(rf"^class (\w+)\(.*\b{name}\b", _text(other), re.MULTILINE):
            yield from _kinds(other, derived)


def _modules(package: str) -> list[str]:
    """The files of a package, by their names as modules."""
    folder = ROOT.joinpath(*package.split(".")[1:])
    return sorted(f"{package}.{file.stem}" for file in folder.glob("*.py") if file.stem[0] != "_")


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
    tree = ast.parse(_text(module))
    for node in tree.body:
        for inner in (node, *(node.body if isinstance(node, ast.ClassDef) else ())):
            if isinstance(inner, ast.FunctionDef):
                del inner.body[1:]  # nothing below the docstring is read; trees are large
    return tree


@functools.cache
def _text(module: str) -> str:
    """The source of a module that is a file."""
    return ROOT.joinpath(*module.split(".")[1:]).with_suffix(".py").read_text(encoding="utf-8")


# -- what can be converted


@functools.cache
def projects() -> dict[str, str]:
    """The projects whose files `smalti convert` takes, as `interop.projects.PROJECTS`, with the
    module of each."""
    modules = _modules("smalti.interop.projects")
    return {module.rpartition(".")[2].replace("_", "-"): module for module in modules}


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
