"""Frozen dataclasses to JSON and back, strictly: a field that does not exist is an error."""

from __future__ import annotations

import dataclasses
import difflib
import json
import types
import typing
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


def to_dict(config: Any) -> dict[str, Any]:
    """A dataclass, nested ones included, as plain JSON values (tuples become lists)."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def did_you_mean(name: str, allowed: Iterable[str]) -> str:
    """The end of a complaint about a name that is not known: the nearest one, or nothing."""
    by_lower = {a.lower(): a for a in allowed}
    near = difflib.get_close_matches(name.lower(), by_lower, 1)
    return f"; did you mean {by_lower[near[0]]!r}?" if near else ""


def from_dict(cls: type[T], values: dict[str, Any], where: str = "") -> T:
    """Build the dataclass `cls` from JSON values.

    Raises ValueError naming the unknown, missing or wrongly typed field and what is allowed.
    """
    where = where or cls.__name__
    if not isinstance(values, dict):  # pyright: ignore[reportUnnecessaryIsInstance] - from a file
        raise ValueError(f"{where} must be an object, got {values!r}")
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for name in values:
        if name not in fields:
            hint = did_you_mean(name, fields)
            raise ValueError(f"{where} has no field {name!r}{hint} (it has {', '.join(fields)})")
    hints = typing.get_type_hints(cls)
    kwargs = {n: _convert(hints[n], v, f"{where}.{n}") for n, v in values.items()}
    try:
        return cls(**kwargs)
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
