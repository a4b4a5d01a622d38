"""Frozen dataclasses to JSON and back, strictly: a field that does not exist is an error.

A dataclass may hold others whose fields are written as if they were its own (`part`): in a file and
on the command line such a record is flat. A field may have another name there (`called`). Where a
field has a range, the dataclass checks it (`check`).
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import sys
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from numbers import Integral, Real
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")


def part(default: Any) -> Any:
    """A field that holds a dataclass, whose own fields are written in its place."""
    return dataclasses.field(default=default, metadata={"part": True})


def called(name: str, default: Any, was: str = "") -> Any:
    """A field that has another name in files and on the command line. Of a number: `was` is the
    name that it had in older files, if a text is what has that name now (`renamed`)."""
    return dataclasses.field(default=default, metadata={"name": name, "was": was})


@dataclass(frozen=True)
class Entry:
    """A system as a table of names has it."""

    config: type[Any]
    module: Callable[[Any], Any]
    """The class, or a function that makes one of several classes of a configuration."""
    tiny: Callable[[], Any]
    """The configuration of a very small one, for tests."""


def one_of(entries: Callable[[], Mapping[str, Entry]], default: Callable[[], Any]) -> Any:
    """A field that holds the configuration of one of several systems, of which the name is written
    beside its fields, as "type"."""
    return dataclasses.field(default_factory=default, metadata={"entries": entries})


class Setting(NamedTuple):
    """One field as it is written: of a dataclass, or of one of its parts."""

    path: tuple[str, ...]
    """The attributes that lead to it."""
    owner: type[Any]
    """The dataclass that has it."""
    field: dataclasses.Field[Any]
    hint: Any
    """Its type."""

    @property
    def entries(self) -> Mapping[str, Entry]:
        """The systems of which the field holds one's configuration; of most fields none."""
        return self.field.metadata.get("entries", dict[str, Entry])()


@lru_cache(maxsize=256)
def settings_of(cls: type[Any]) -> Mapping[str, Setting]:
    """The fields of a dataclass by the names that they have in files, those of parts included."""
    hints = typing.get_type_hints(cls)
    found = dict[str, Setting]()
    for f in dataclasses.fields(cls):
        if f.metadata.get("part"):
            inner = settings_of(typing.cast(type[Any], hints[f.name]))
            found |= {n: s._replace(path=(f.name, *s.path)) for n, s in inner.items()}
        else:
            found[f.metadata.get("name", f.name)] = Setting((f.name,), cls, f, hints[f.name])
    return types.MappingProxyType(found)


def renamed(cls: type[Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Values as files have them, those of older files by the names of today."""
    old = {s.field.metadata.get("was"): name for name, s in settings_of(cls).items()}
    return {
        old[name] if name in old and isinstance(value, Real) else name: value
        for name, value in values.items()
    }


def value_of(config: Any, setting: Setting) -> Any:
    """The value of a setting in a dataclass."""
    for name in setting.path:
        config = getattr(config, name)
    return config


def written(config: Any) -> dict[str, Any]:
    """The values of a dataclass by the names that they have in files."""
    kind = typing.cast(type[Any], type(config))
    return {name: value_of(config, s) for name, s in settings_of(kind).items()}


def changed(config: T, values: Mapping[str, Any], where: str = "") -> T:
    """A dataclass with other values, by the names that they have in files.

    Raises ValueError naming a setting that does not exist and those that do.
    """
    known, parts = settings_of(type(config)), dict[str, dict[str, Any]]()
    direct = dict[str, Any]()
    for name, value in values.items():
        if name not in known:
            where = where or type(config).__name__
            hint = did_you_mean(name, known)
            raise ValueError(f"{where} has no field {name!r}{hint} (it has {', '.join(known)})")
        first, *rest = known[name].path
        if rest:  # the part knows it by the same name
            parts.setdefault(first, {})[name] = value
        else:
            direct[first] = value
    inner = {name: changed(getattr(config, name), told) for name, told in parts.items()}
    return dataclasses.replace(config, **direct, **inner)  # type: ignore[type-var]


class Range(NamedTuple):
    """Numbers that `check` allows."""

    allowed: str
    """What they are, in words."""
    least: float
    most: float = sys.float_info.max
    whole: bool = False


RANGES = {
    "positive": Range("at least 1", 1, whole=True),
    "several": Range("at least 2", 2, whole=True),
    "counts": Range("0 or more", 0, whole=True),
    "above_zero": Range("a positive number", math.nextafter(0, 1)),
    "amounts": Range("0 or more", 0),
    "rates": Range("in [0, 1)", 0, math.nextafter(1, 0)),
    "shares": Range("in [0, 1]", 0, 1),
}
"""What `check` knows by these names. NaN and infinity are in no range."""


def check(
    config: Any,
    where: str = "",
    pairs: Sequence[str] = (),
    multiple: tuple[str, str] | None = None,
    **ranges: Sequence[str],
) -> None:
    """Check the fields of a dataclass: `check(self, positive=("layers", "dim"), rates=("ema",))`.

    Each of `ranges` has the names of fields whose values must be in that range of `RANGES`; `pairs`
    must be two positive integers; of `multiple`, the first field must be a multiple of the second.
    Fields with a `Literal` type are checked unasked. `where` stands before names in messages.
    Raises ValueError naming the field, its value and the values allowed.
    """
    for setting in settings_of(typing.cast(type[Any], type(config))).values():
        choices, value = typing.get_args(setting.hint), value_of(config, setting)
        if typing.get_origin(setting.hint) is typing.Literal and value not in choices:
            name = where + setting.path[-1]
            raise ValueError(f"{name} must be one of {', '.join(map(str, choices))}, got {value!r}")
    for kind, names in ranges.items():
        allowed, least, most, whole = RANGES[kind]
        for name in names:
            value = getattr(config, name)
            if not isinstance(value, Integral if whole else Real):
                number = "a whole number" if whole else "a number"
                raise ValueError(f"{where}{name} must be {number}, got {value!r}")
            if not least <= float(value) <= most:
                raise ValueError(f"{where}{name} must be {allowed}, got {value}")
    for name in pairs:
        value = getattr(config, name)
        if len(value) != 2 or not all(isinstance(n, int) and n >= 1 for n in value):
            raise ValueError(f"{where}{name} must be two positive integers, got {value}")
    if multiple is not None:
        name, other = multiple
        value, by = getattr(config, name), getattr(config, other)
        if value % by:
            raise ValueError(f"{where}{name} must be a multiple of {other}, got {value}, {by}")


def to_dict(config: Any) -> dict[str, Any]:
    """A dataclass, nested ones included, as plain JSON values (tuples become lists)."""
    return json.loads(json.dumps(_plain(config)))


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        settings = settings_of(typing.cast(type[Any], type(value)))
        plain = {name: _plain(inner) for name, inner in written(value).items()}
        for name, setting in settings.items():
            for kind, entry in setting.entries.items():
                if type(value_of(value, setting)) is entry.config:
                    plain[name] = {"type": kind} | plain[name]
        return plain
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in typing.cast(Iterable[Any], value)]
    return value


def did_you_mean(name: str, allowed: Iterable[str]) -> str:
    """The end of a complaint about a name that is not known: the nearest one, or nothing."""
    near = nearest(name, allowed, 1)
    return f"; did you mean {near[0]!r}?" if near else ""


def nearest(name: str, allowed: Iterable[str], most: int = 3) -> list[str]:
    """The names that are most like this one, in whatever case, the nearest first."""
    by_lower = {a.lower(): a for a in allowed}
    return [by_lower[near] for near in difflib.get_close_matches(name.lower(), by_lower, most)]


def no_such(path: Path) -> str:
    """Which part of a path does not exist, and the name that was perhaps meant, for a complaint."""
    parent = path.parent
    while not parent.exists() and parent != parent.parent:
        path, parent = parent, parent.parent
    names = [p.name for p in parent.iterdir()] if parent.is_dir() else []
    return f"there is no {path}{did_you_mean(path.name, names)}"


def from_dict(cls: type[T], values: dict[str, Any], where: str = "") -> T:
    """Build the dataclass `cls` from JSON values.

    Raises ValueError naming the unknown, missing or wrongly typed field and what is allowed.
    """
    where = where or cls.__name__
    if not isinstance(values, dict):  # pyright: ignore[reportUnnecessaryIsInstance] - from a file
        raise ValueError(f"{where} must be an object, got {values!r}")
    fields, values = settings_of(cls), renamed(cls, values)
    for name in values:
        if name not in fields:
            hint = did_you_mean(name, fields)
            raise ValueError(f"{where} has no field {name!r}{hint} (it has {', '.join(fields)})")
    tree: dict[str, Any] = {}
    for name, value in values.items():
        *parts, last = fields[name].path
        branch = tree
        for inner in parts:
            branch = branch.setdefault(inner, {})
        hint, place = fields[name].hint, f"{where}.{name}"
        if entries := fields[name].entries:
            hint, value = _chosen(entries, value, place)
        branch[last] = _convert(hint, value, place)
    return _build(cls, tree, where)


def _chosen(entries: Mapping[str, Entry], value: Any, where: str) -> tuple[type[Any], Any]:
    """The configuration that an object is of, by its type, and its fields."""
    told = typing.cast(dict[str, Any], value) if isinstance(value, dict) else dict[str, Any]()
    kind = told.get("type")
    if not isinstance(kind, str) or kind not in entries:
        raise ValueError(f"{where}: type must be one of {', '.join(entries)}, got {kind!r}")
    return entries[kind].config, {k: v for k, v in told.items() if k != "type"}


def _build(cls: type[T], tree: dict[str, Any], where: str) -> T:
    """The dataclass of converted values; those of a part are a dictionary."""
    hints = typing.get_type_hints(cls)
    parts = [f.name for f in dataclasses.fields(cls) if f.metadata.get("part")]  # type: ignore[arg-type]
    values = {n: _build(hints[n], v, where) if n in parts else v for n, v in tree.items()}
    try:
        return cls(**values)
    except TypeError as error:
        raise ValueError(f"{where}: {error}") from None


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        rest = [a for a in args if a is not type(None)]
        return _convert(rest[0], value, where) if len(rest) == 1 else value
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return from_dict(hint, value, where)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ValueError(f"{where} must be a list, got {value!r}")
        items = typing.cast(list[Any], value)
        inner = [args[0]] * len(items) if args[-1] is Ellipsis else list(args)
        if len(inner) != len(items):
            raise ValueError(f"{where} must have {len(inner)} entries, got {value!r}")
        return tuple(_convert(a, v, where) for a, v in zip(inner, items, strict=True))
    if origin is typing.Literal:
        if value not in args:
            raise ValueError(f"{where} must be one of {', '.join(map(repr, args))}, got {value!r}")
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint in (int, float, str, bool) and type(value) is not hint:
        raise ValueError(f"{where} must be {hint.__name__}, got {value!r}")
    return value


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object. Raises ValueError naming the file if it is not one."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, nested without end
        raise ValueError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold a JSON object, got {type(values).__name__}")
    return typing.cast(dict[str, Any], values)
