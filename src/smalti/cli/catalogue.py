"""What recipes there are and which fields they have, read off their source.

The command line knows names and lists recipes by this without importing torch, which takes
seconds. A field is a line `name: type = default` of a class. Every field that a recipe of a kind
can have is seen; which of them a recipe has, its own dataclass says.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple

ROOT = Path(__file__).parent.parent
SMALL = ("emoji", "shapes_")
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
        """Whether it trains a tokenizer, of pictures or of text; else a generator."""
        return self.text_only or self._is("TokenizerRecipe")

    @property
    def scaled(self) -> bool:
        """Whether `smalti scaling` takes it: it trains a generator of codes alone."""
        return self._is("GeneratorRecipe")

    def _is(self, base: str) -> bool:
        """Whether its dataclass is this one, or made of it."""
        kind, classes = self.kind, _classes("smalti.recipes.base")
        while kind in classes and kind != base:
            kind, _ = classes[kind]
        return kind == base

    @property
    def text_only(self) -> bool:
        """Whether it trains a tokenizer of text."""
        return self.kind == "WordsRecipe"

    @property
    def group(self) -> str:
        if self.text_only:
            return "tokenizers of text, in seconds"
        if self.kind == "TowersRecipe":
            return "towers that match pictures and texts"
        if self.kind in ("LanguageRecipe", "SentencesRecipe"):
            return "language models"
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


class Setting(NamedTuple):
    """A setting of drawing as its source has it."""

    hint: Any
    """Its type."""
    text: str
    """What stands below it."""


@functools.cache
def settings() -> dict[str, Setting]:
    """All settings of drawing by name, as `config.settings_of(Sampling)` has them."""
    return dict(_settings("smalti.pipeline.sampling", "Sampling"))


def _settings(module: str, name: str) -> Iterator[tuple[str, Setting]]:
    tree, named = ast.parse(_text(module)), dict[str, Any](Literal=Literal)
    for node in tree.body:  # names of types, such as Schedule = Literal["constant", ...]
        if isinstance(node, ast.Assign) and ast.unparse(node.value).startswith("Literal["):
            named[ast.unparse(node.targets[0])] = eval(ast.unparse(node.value), {**named})
    body = next(n.body for n in tree.body if isinstance(n, ast.ClassDef) and n.name == name)
    docs = docs_of(body)
    for node in body:
        if not isinstance(node, ast.AnnAssign):
            continue
        field, kind = ast.unparse(node.target), ast.unparse(node.annotation)
        value = "" if node.value is None else ast.unparse(node.value)
        if value.startswith("part(") and (place := _class(module, kind)):
            yield from _settings(*place)  # its fields stand in its place
        else:
            other = value.split("'")[1] if value.startswith("called(") else field
            yield other, Setting(eval(kind, {**named}), docs[field])


def docs_of(body: Sequence[ast.stmt]) -> dict[str, str]:
    """What stands below each field in the body of a class."""
    docs = dict[str, str]()
    for field, text in pairwise(body):
        match field, text:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(ast.Constant(str(doc))):
                docs[name] = " ".join(doc.split())
            case _:
                pass
    return docs


def _fields(module: str, name: str) -> Iterator[str]:
    bases, body = _classes(module)[name]
    for place in _named(module, bases):
        yield from _fields(*place)
    for field, kind, value in FIELD.findall(body):
        if value.startswith("one_of("):  # no option: what a run is given decides it
            continue
        groups = [found for place in _named(module, kind) for found in _kinds(*place)]
        if value.startswith("part("):  # its fields stand in its place
            prefix = ""
        elif value.startswith("called("):
            prefix = value.split('"')[1]
        else:
            prefix = field
        dot = "." if prefix else ""
        for place in groups:
            yield from (f"{prefix}{dot}{inner}" for inner in _fields(*place))
        if not groups:
            yield prefix


FIELD = re.compile(r"(?m)^    (\w+): (.+?)(?: = (.*))?$")
"""A field of a class: its name, its type, how its default begins."""
CLASS = re.compile(r"(?m)^class (\w+)(?:\((.*)\))?:\n((?:(?: .*)?\n)*)")
"""A class: its name, what it is derived from, and its body."""
IMPORT = re.compile(r"(?m)^from (smalti\.[\w.]+) import (?:\(([^)]*)\)|(.*))$")
"""An import: the module, and the names."""


@functools.cache
def _classes(module: str) -> dict[str, tuple[str, str]]:
    """What each class of a module is derived from, and its body without docstrings."""
    text = re.sub(r'(?s)""".*?"""', '""', _text(module))
    return {name: (bases, body) for name, bases, body in CLASS.findall(text)}


@functools.cache
def _imported(module: str) -> dict[str, str]:
    """The modules of smalti that names of a module come from."""
    return {
        name: home
        for home, several, one in IMPORT.findall(_text(module))
        for name in re.findall(r"\w+", several or one)
    }


def _named(module: str, words: str) -> list[tuple[str, str]]:
    """Where the classes of smalti are defined that a module names in these words, of which those in
    quotes are values."""
    names = re.findall(r"\w+", re.sub(r'"[^"]*"', "", words))
    places = (_class(module, name) for name in names)
    return [place for place in places if place is not None]


def _class(module: str, name: str) -> tuple[str, str] | None:
    """Where a class of smalti that a module names is defined; None if it is no class of smalti."""
    if name in _classes(module):
        return module, name
    home = _imported(module).get(name)
    return _class(home, name) if home else None


@functools.cache
def _kinds(module: str, name: str) -> list[tuple[str, str]]:
    """The classes that a field of this class may hold: it, and those of its package derived from
    it."""
    found = [(module, name)]
    for other in _modules(module.rpartition(".")[0]):
        for derived in re.findall(rf"^class (\w+)\(.*\b{name}\b", _text(other), re.MULTILINE):
            found += _kinds(other, derived)
    return found


def _modules(package: str) -> list[str]:
    """The files of a package, by their names as modules."""
    folder = ROOT.joinpath(*package.split(".")[1:])
    return sorted(f"{package}.{file.stem}" for file in folder.glob("*.py") if file.stem[0] != "_")


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
    (name,) = re.findall(r"(?m)^    options=(\w+),", _text(module))
    return tuple(_fields(module, name))
