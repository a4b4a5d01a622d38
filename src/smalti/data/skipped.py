"""Pictures that cannot be used: skipped, counted and named, and no reason to lose a run.

`Source.skipped` holds their names and what is wrong with them. A folder fills it from the headers
of its files when it is opened; pixels that turn out to be broken are added when they are decoded.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Protocol, TypeVar

from smalti.data.source import Keyed
from smalti.progress import say

NAMED = 5
"""How many are named; all are counted."""

T = TypeVar("T", covariant=True)


class Skipping(Keyed, Protocol):
    """What knows which of its examples cannot be used: images, or documents."""

    skipped: dict[str, str]
    """Names of those, with the reason."""


class Readable(Skipping, Protocol[T]):
    """What gives an example by its number, or raises ValueError if that cannot be decoded."""

    def __getitem__(self, i: int) -> T: ...


def read(source: Readable[T], i: int) -> T | None:
    """Example i, or None, with a note in `source.skipped`, if it cannot be decoded."""
    try:
        return source[i]
    except ValueError as error:
        source.skipped[source.key(i)] = str(error)
        return None


def summary(skipped: dict[str, str]) -> str:
    """One line: how many, the first names, and what is wrong with the first."""
    names = sorted(skipped)
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    text = f"skipped {len(names)} that cannot be used: {', '.join(names[:NAMED])}{more}"
    return " ".join(f"{text} (the first: {skipped[names[0]]})".split())


def left_out(others: dict[str, str]) -> str:
    """One line on files that are no pictures, {name: kind}: how many of each kind, and names."""
    kinds = sorted(Counter(others.values()).items(), key=lambda item: (-item[1], item[0]))
    counts = ", ".join(f"{count} {kind}" for kind, count in kinds)
    names = sorted(others, key=lambda name: (others[name] == "hidden", name))
    more = ", ..." if len(names) > NAMED else ""
    files = "files are" if len(names) > 1 else "file is"
    text = f"{len(names)} {files} left out: {counts} ({', '.join(names[:NAMED])}{more})"
    return " ".join(text.split())


def report(skipped: dict[str, str]) -> dict[str, Any]:
    """What a run's report says of them; empty if there are none."""
    return {"skipped": len(skipped), "skipped_first": sorted(skipped)[:NAMED]} if skipped else {}


def tell(source: Skipping, known: int = 0) -> int:
    """Say on standard error what was skipped, if that is more than `known`; return how many."""
    if len(source.skipped) > known:
        say(f"{source.name}: {summary(source.skipped)}")
    return len(source.skipped)


def none_left(source: Skipping) -> ValueError:
    """The error of a source of which nothing can be used."""
    return ValueError(f"{source.name}: nothing is left to use; {summary(source.skipped)}")
