"""Frozen dataclasses to JSON and back, strictly: a field that does not exist is an error."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import json
import os
import shutil
import types
import typing
from collections.abc import Generator, Iterable
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


@contextlib.contextmanager
def replacing(path: Path) -> Generator[Path]:
    """A name beside `path` to write to: it takes the place of `path` if all goes well, else it is
    removed. Raises OSError naming `path`, on a full disk for example."""
    temporary = path.with_name(path.name + ".tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        if error.filename not in (None, str(temporary)):
            raise  # it is about something else
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def write_json(path: Path, values: Any) -> None:
    """Write readable JSON in place of `path` or not at all."""
    text = json.dumps(values, indent=2, ensure_ascii=False) + "\n"
    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def check_output(path: Path, folder: bool = False) -> None:
    """Raise ValueError unless `path` can be written, as a file or as a `folder`; makes nothing.

    Asked before the work, so that the work is not lost.
    """
    if not folder and path.is_dir():
        raise ValueError(f"{path} cannot be written: it is a folder, name a file")
    places = [path.absolute(), *path.absolute().parents][0 if folder else 1 :]
    place = next(p for p in places if p.exists())
    if not place.is_dir():
        raise ValueError(f"{path} cannot be written: {place} is a file, not a folder")
    if not os.access(place, os.W_OK | os.X_OK):
        raise ValueError(f"{path} cannot be written: no permission to write in {place}")


def replace_folder(temporary: Path, target: Path) -> None:
    """Put a finished folder in the place of another, which is removed only afterwards."""
    old = target.with_name(target.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    temporary.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object. Raises ValueError naming the file if it is not one."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, nested without end
        raise ValueError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold a JSON object, got {type(values).__name__}")
    return typing.cast(dict[str, Any], values)
