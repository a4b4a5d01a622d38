"""The options of a command, read off its function and the dataclasses that it takes, and checked
against what was typed before tyro parses it.

A mistake is a ValueError of one line: an option that does not exist, a value that is missing, of
the wrong type or not among the choices, and an option that has to be there.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import functools
import inspect
import re
import textwrap
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tyro.conf import Positional, UseAppendAction

from smalti.arguments import in_our_words
from smalti.cli.catalogue import docs_of
from smalti.config import settings_of, value_of

REQUIRED: Any = inspect.Parameter.empty
KINDS: dict[Any, str] = {int: "an integer", float: "a number"}
BOOLS = ("True", "False")
POSITIONAL = typing.get_args(Positional[str])[1:]
REPEATED = typing.get_args(UseAppendAction[str])[1:]


@dataclass(frozen=True)
class Option:
    """One option of a command."""

    name: str
    """As it is typed, such as --train.optim.lr; of a positional argument its name alone."""
    hint: Any
    """Its type."""
    default: Any = REQUIRED
    help: str = ""
    positional: bool = False
    aliases: tuple[str, ...] = ()
    """Other names, typed alike."""
    repeated: bool = False
    """Whether it is typed once for each of its values."""

    @property
    def flag(self) -> bool:
        """Whether it takes no value: --name and --no-name."""
        return self.hint is bool

    @property
    def _optional(self) -> bool:
        """Whether its type is one of several, such as a tuple or None."""
        return typing.get_origin(self.hint) in (typing.Union, types.UnionType)

    @property
    def count(self) -> int | None:
        """How many values it takes where it is typed; None: any number."""
        if self.repeated:
            return 1
        kinds = [self.hint, *(h for h in typing.get_args(self.hint) if self._optional)]
        tuples = [kind for kind in kinds if typing.get_origin(kind) is tuple]
        if not tuples:
            return 0 if self.flag else 1
        parts = typing.get_args(tuples[0])
        nested = any(typing.get_origin(part) is tuple for part in parts)
        return None if Ellipsis in parts or nested else len(parts)

    @property
    def shown(self) -> str:
        """Its default as it would be typed; of a required option what stands for its value."""
        if self.default is REQUIRED:
            return _metavar(self.hint, self.count)
        if self.flag:
            return "" if self.default else "(off)"
        values = self.default if isinstance(self.default, tuple) else (self.default,)
        flat = [v for value in values for v in (value if isinstance(value, tuple) else (value,))]
        return " ".join(repr(v) if v == "" else str(v) for v in flat) or "()"

    @property
    def names(self) -> tuple[str, ...]:
        """All ways to type it."""
        if not self.flag:
            return self.name, *self.aliases
        group, dot, last = self.name.removeprefix("--").rpartition(".")
        return self.name, *self.aliases, f"--{group}{dot}no-{last}"


# -- what there is


def options(command: Callable[..., Any]) -> list[Option]:
    """The options of a command. A dataclass is a group of options, one for each of its fields."""
    hints, docs = typing.get_type_hints(command, include_extras=True), argument_docs(command)
    return [
        option
        for name, parameter in inspect.signature(command).parameters.items()
        for option in _of(name, hints[name], parameter.default, "", docs.get(name, ""))
    ]


def argument_docs(command: Callable[..., Any]) -> dict[str, str]:
    """What stands below "Args:" in the docstring of a command, by the name of the argument."""
    listed = inspect.cleandoc(command.__doc__ or "").partition("Args:\n")[2]
    parts = re.split(r"(?m)^ {4}(\w+):", listed)
    return {
        name: " ".join(text.split()) for name, text in zip(parts[1::2], parts[2::2], strict=True)
    }


def _of(name: str, hint: Any, default: Any, prefix: str, text: str) -> Iterator[Option]:
    """The option, or the group of options, of one parameter or field."""
    notes: Sequence[Any] = ()
    if typing.get_origin(hint) is typing.Annotated:
        hint, *notes = typing.get_args(hint)
    other = next(
        (n for n in (getattr(note, "name", None) for note in notes) if n is not None), None
    )
    name = (name if other is None else other).replace("_", "-")
    dotted = ".".join(part for part in (prefix, name) if part)
    text = next((t for t in (getattr(note, "help", None) for note in notes) if t), text)
    group = type(default) if dataclasses.is_dataclass(default) else hint
    if isinstance(group, type) and dataclasses.is_dataclass(group):
        yield from _fields(group, default, dotted)
    elif any(note in POSITIONAL for note in notes):
        metavar = next((m for m in (getattr(n, "metavar", None) for n in notes) if m), name.upper())
        yield Option(metavar, hint, default, text, positional=True)
    else:
        aliases = tuple(a for note in notes for a in getattr(note, "aliases", None) or ())
        repeated = any(note in REPEATED for note in notes)
        yield Option(f"--{dotted}", hint, default, text, aliases=aliases, repeated=repeated)


def _fields(group: type[Any], values: Any, prefix: str) -> Iterator[Option]:
    """The options of a dataclass; its defaults are the `values`, or its own."""
    for name, setting in settings_of(group).items():
        field, owner = setting.field, setting.owner
        if setting.entries:  # what a run is given decides it
            continue
        if values is not REQUIRED:
            default = value_of(values, setting)
        elif field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        else:
            default = REQUIRED if field.default is dataclasses.MISSING else field.default
        hint = _hints(owner)[field.name]
        yield from _of(name, hint, default, prefix, field_docs(owner).get(field.name, ""))


@functools.cache
def _hints(owner: type[Any]) -> dict[str, Any]:
    """The types of a dataclass's fields, with what is noted beside them."""
    return typing.get_type_hints(owner, include_extras=True)


@functools.cache
def field_docs(group: type[Any]) -> dict[str, str]:
    """What stands in the source below each field of a dataclass."""
    docs: dict[str, str] = {}
    for base in reversed(group.__mro__[:-1]):
        try:
            body: Any = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        except (OSError, TypeError):  # made at run time: its fields say what they are elsewhere
            continue
        docs |= docs_of(body.body)
    return docs


# -- what was typed


def check(arguments: Sequence[str], known: Sequence[Option]) -> None:
    """Raise ValueError for the first mistake in the arguments of a command."""
    typed, positional = _typed(arguments, {name: o for o in known for name in o.names})
    places = [option for option in known if option.positional]
    for option in places:
        count = len(positional) if option.count is None else option.count
        if positional:
            typed[option.name] = (option, positional[:count])
        positional = positional[count:]
    if positional:
        raise ValueError(f"there is nothing that {positional[0]!r} could be")
    present = {option.name for option, _ in typed.values()}
    for option in known:
        if option.default is REQUIRED and option.name not in present:
            shown = "" if option.positional or option.flag else f" {option.shown}"
            raise ValueError(f"{option.name}{shown} is missing")
    for name, (option, values) in typed.items():
        _check_values(name, option, values)


def _typed(
    arguments: Sequence[str], by_name: dict[str, Option]
) -> tuple[dict[str, tuple[Option, list[str]]], list[str]]:
    """The options that were typed with their values, and all other values."""
    for name in named(arguments):
        if name not in by_name:
            raise ValueError(unknown(name, by_name))
    typed: dict[str, tuple[Option, list[str]]] = {}
    others: list[str] = []
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if not _is_name(word):
            others.append(word)
            continue
        (name,), (_, equals, value) = named([word]), word.partition("=")
        option = by_name[name]
        values = [value] if equals else list[str]()
        if option.flag and values:
            raise ValueError(f"{name} takes no value, got {value!r}: it is on where it is given")
        while not equals and rest and not _is_name(rest[0]) and len(values) != option.count:
            values.append(rest.pop(0))
        if option.repeated and values and name in typed:
            values = [*typed[name][1], *values]
        typed[name] = (option, values)
    return typed, others


def named(arguments: Iterable[str]) -> list[str]:
    """The names of the options in the arguments of a command, as they are spelled in its help."""
    return [word.partition("=")[0].replace("_", "-") for word in arguments if _is_name(word)]


def fields_named(arguments: Iterable[str]) -> set[str]:
    """The dotted names of the dataclass fields that options in the arguments stand for."""
    return {name.lstrip("-").replace("-", "_") for name in named(arguments)}


def _is_name(word: str) -> bool:
    """Whether a word names an option; -1 and - are values."""
    return word.startswith("-") and word != "-" and not _accepts(float, word)


def spelled(field: str) -> str:
    """How the option of a field is typed."""
    return f"--{field.replace('_', '-')}"


def check_names(arguments: Iterable[str], known: Sequence[str]) -> None:
    """Raise ValueError for an option that is not among those that are known, or for help."""
    for name in named(arguments):
        plain = name.replace(".no-", ".").replace("--no-", "--")
        if not {name, plain} & {*known, "-h", "--help"}:
            raise ValueError(unknown(name, known))


def _check_values(name: str, option: Option, values: Sequence[str]) -> None:
    """Raise ValueError unless the values of an option are as many as it takes, and of its type."""
    count = int(option.default is REQUIRED) if option.count is None else option.count
    if len(values) < count:
        wanted = "a value" if count == 1 else f"{count} values, got {len(values)}"
        raise ValueError(f"{name} needs {wanted}: {name} {_metavar(option.hint, option.count)}")
    kinds = _leaves(option.hint)
    for value in values:
        if any(_accepts(kind, value) for kind in kinds):
            continue
        choices = [str(c) for kind in kinds for c in _choices(kind)]
        wanted = f"one of {', '.join(choices)}" if choices else KINDS[kinds[0]]
        near = difflib.get_close_matches(value, choices, 1)
        meant = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"{name} must be {wanted}, got {value!r}{meant}")


def _leaves(hint: Any) -> list[Any]:
    """The types that one word of an option's value can have, None last."""
    if typing.get_origin(hint) is typing.Annotated:
        return _leaves(typing.get_args(hint)[0])
    if typing.get_origin(hint) in (typing.Union, types.UnionType, tuple):
        parts = [leaf for a in typing.get_args(hint) if a is not Ellipsis for leaf in _leaves(a)]
        return sorted(dict.fromkeys(parts), key=lambda part: part is type(None))
    return [hint]


def _choices(kind: Any) -> tuple[Any, ...]:
    """The values that a type can have, where they are few."""
    if kind is bool:
        return BOOLS
    return typing.get_args(kind) if typing.get_origin(kind) is Literal else ()


def _accepts(kind: Any, word: str) -> bool:
    """Whether a word is a value of a type; of types that are not known here every word is."""
    if kind is type(None):
        return word == "None"
    if choices := _choices(kind):
        return word in map(str, choices)
    if kind in KINDS:
        try:
            kind(word)
        except ValueError:
            return False
    return True


def _metavar(hint: Any, count: int | None) -> str:
    """What stands for so many values in a usage line; None is any number."""
    leaves = [leaf for leaf in _leaves(hint) if leaf is not type(None)]
    choices = _choices(leaves[0])
    word = "{" + ",".join(map(str, choices)) + "}" if choices else leaves[0].__name__.upper()
    return f"{word} ..." if count is None else " ".join([word] * max(1, count))


# -- names that are not known


def unknown(name: str, known: Iterable[str]) -> str:
    """What to say about an option that does not exist: the ones that were perhaps meant, or what
    stands here for another library's word.

    Those whose last part is the name (--steps: --train.steps), those of the group that it names
    (--data: --data.source), else the one that is spelled most alike.
    """
    known = list(known)
    if "--guidance" in known:  # it draws: elsewhere most words mean something else
        fields = {n.lstrip("-").replace("-", "_") for n in known}
        if theirs := in_our_words(name.lstrip("-"), fields, "--"):
            return theirs
    word, names = name.lstrip("-"), ["--help", *(n for n in known if n.startswith("--"))]
    near = [n for n in names if n.rpartition(".")[2] == word and "." in n]
    near = near or [n for n in names if n.startswith(f"--{word}.")][:3]
    near = near or difflib.get_close_matches(name, names, 1)
    near = near or [
        n for n in names if difflib.get_close_matches(word, [n.rpartition(".")[2]], 1, 0.8)
    ]
    return f"unknown option {name}" + (f"; did you mean {' or '.join(near[:3])}?" if near else "")
