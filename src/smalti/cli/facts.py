"""What `smalti info` says to people."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from smalti.cli.reports import line

LISTED = ("commands", "numbers")
"""Facts of which each has a line of its own."""


def lines(facts: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    """Facts line by line. Of a group, such as a model's config, the plain ones are a paragraph
    below its name, and groups within it come after that."""
    for name, value in facts.items():
        if name in LISTED:
            some = value if isinstance(value, list) else [line(*pair) for pair in value.items()]
            yield f"{indent}{name}:"
            yield from (f"{indent}  {one}" for one in some)
        elif isinstance(value, Mapping):
            plain = {n: v for n, v in value.items() if not isinstance(v, Mapping)}
            yield f"{indent}{name}:"
            yield from paragraph(plain, indent + "  ")
            yield from lines({n: v for n, v in value.items() if n not in plain}, indent + "  ")
        elif isinstance(value, list) and value and isinstance(value[0], Mapping):
            yield f"{indent}{name}:"
            for one in value:
                yield from paragraph(one, indent + "  ")
        elif isinstance(value, list) and len(shown(value)) > 80:
            yield f"{indent}{name}:"
            yield from wrapped(map(shown, value), indent + "  ")
        else:
            yield f"{indent}{name}: {value if isinstance(value, str) and value else shown(value)}"


def paragraph(facts: Mapping[str, Any], indent: str) -> list[str]:
    """Names and their values one after another."""
    return wrapped((f"{name} {shown(value)}" for name, value in facts.items()), indent)


def wrapped(pieces: Iterable[str], indent: str) -> list[str]:
    """Pieces with commas between them in lines as wide as the terminal, at most 100; none is in two
    lines."""
    width = min(100, shutil.get_terminal_size((100, 24)).columns)
    text = ", ".join(piece.replace(" ", "\0") for piece in pieces)
    rows = textwrap.wrap(
        text,
        width,
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [row.replace("\0", " ") for row in rows]


def shown(value: Any) -> str:
    """A value among others as a person reads it."""
    if value is None or value in ([], "", {}):
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}" if value > 9999 else str(value)
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(shown, value)) + "]"
    text = str(value)
    return text if text.isprintable() and "," not in text else repr(text)
