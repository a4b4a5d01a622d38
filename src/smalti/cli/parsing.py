"""Arguments of a command, checked and then read by tyro: what is wrong is told in one line."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import tyro
from tyro.constructors import (
    ConstructorRegistry,
    StructConstructorSpec,
    StructFieldSpec,
    StructTypeInfo,
)

from smalti.cli import catalogue
from smalti.cli.drawing import with_settings
from smalti.cli.options import check, check_names, field_docs, options, spelled
from smalti.config import changed, settings_of, value_of
from smalti.files import expand


def parse_drawing(command: Callable[..., None], prog: str, arguments: Sequence[str]) -> None:
    """Run a command that draws, of whose settings each becomes an option. Their names are known by
    their source: a mistake is told before torch is imported."""
    others = [name for option in options(command) for name in option.names]
    check_names(arguments, [*others, *map(spelled, catalogue.settings())])
    parse(with_settings(command), prog, arguments)


def parse(command: Callable[..., None], prog: str, arguments: Sequence[str]) -> None:
    """Run a command with its arguments, which are checked and then read by tyro.

    Raises ValueError for arguments that are wrong.
    """
    if not {"-h", "--help"} & {*arguments}:
        check(arguments, options(command))
    box = io.StringIO()
    with contextlib.redirect_stderr(box):
        try:
            call = tyro.cli(_deferred(command), prog=prog, args=list(arguments), registry=FLAT)
        except SystemExit as stop:
            if not stop.code:
                raise
            raise ValueError(cause(stop) or box.getvalue()) from None
    call()


FLAT = ConstructorRegistry()
"""What tyro has to know beside types."""


@FLAT.struct_rule
def _flat(info: StructTypeInfo) -> StructConstructorSpec | None:
    """A dataclass that holds others as parts has their fields as its own options."""
    if not dataclasses.is_dataclass(info.type) or not isinstance(info.type, type):
        return None
    settings = settings_of(info.type)
    if all(len(setting.path) == 1 for setting in settings.values()):
        return None
    default = info.default if isinstance(info.default, info.type) else info.type()
    return StructConstructorSpec(
        instantiate=lambda **values: changed(default, values),
        fields=tuple(
            StructFieldSpec(name, s.hint, value_of(default, s), field_docs(s.owner)[s.field.name])
            for name, s in settings.items()
        ),
    )


def cause(stop: BaseException) -> str:
    """What a dataclass said when it refused its values, which made tyro end the program."""
    said, error = "", stop.__context__
    while error is not None:
        said = str(error) if isinstance(error, ValueError) else said
        error = error.__context__
    return said


def _deferred(command: Callable[..., None]) -> Callable[..., Callable[[], None]]:
    """The command as a function that returns its call: parsing ends before work begins."""

    @functools.wraps(command)
    def wrapper(*args: Any, **kwargs: Any) -> Callable[[], None]:
        named = {name: _at_home(value) for name, value in kwargs.items()}
        return functools.partial(command, *map(_at_home, args), **named)

    return wrapper


def _at_home(value: Any) -> Any:
    """An argument with every path in it as `files.expand` has it: a shell leaves `--out=~/x`."""
    if isinstance(value, Path):
        return expand(value)
    if isinstance(value, tuple):
        return tuple(map(_at_home, value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        given = {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.init}
        paths = {name: _at_home(v) for name, v in given.items() if isinstance(v, Path | tuple)}
        changed = {name: v for name, v in paths.items() if v != given[name]}
        return dataclasses.replace(value, **changed) if changed else value
    return value
