"""Progress with an estimate of the time left, on the terminal's error stream."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, TypeVar

from smalti.devices import threads

if TYPE_CHECKING:  # rich is imported where something is shown: `smalti --help` answers sooner
    from rich.progress import ProgressColumn

T = TypeVar("T")
EVERY = 30.0
"""Seconds between two lines of progress where there is no terminal."""


def say(text: str) -> None:
    """A line for a person, on standard error."""
    print(text, file=sys.stderr)


_SAID: set[str] = set()


def say_once(text: str, about: str = "") -> None:
    """`say`, unless this process has said this text, or anything `about` the same, before. Of
    several processes of one run only the first says it."""
    if (about or text) not in _SAID and os.environ.get("RANK", "0") == "0":
        _SAID.add(about or text)
        say(text)


_CHOSEN: list[str] = []


def say_if_long(text: str) -> None:
    """Have `say_threads` say this too: what was chosen for work that may be over at once."""
    _CHOSEN.append(text)


def say_threads() -> None:
    """Say once, where work takes long, how threads were chosen if they were, and what else was."""
    if line := threads.tell():
        say(line)
    while _CHOSEN:
        say_once(_CHOSEN.pop(0))


def show(report: Any) -> None:
    """JSON on standard output, for programs."""
    print(json.dumps(report, indent=2, ensure_ascii=False, default=str))


def columns() -> tuple[ProgressColumn, ...]:
    """What every progress bar shows: how far it is and how long it takes, whatever the width, and
    the numbers beside it where there is room."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        ProgressColumn,
        Task,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.table import Column
    from rich.text import Text

    class Numbers(ProgressColumn):
        """The only column that a narrow terminal cuts."""

        def render(self, task: Task) -> Text:
            return Text(str(task.fields["numbers"]), no_wrap=True, overflow="ellipsis")

    def whole() -> Column:
        return Column(no_wrap=True)

    return (
        TextColumn("{task.description}"),
        BarColumn(bar_width=12, table_column=whole()),
        MofNCompleteColumn(table_column=whole()),
        TimeElapsedColumn(table_column=whole()),
        TextColumn("left"),
        TimeRemainingColumn(elapsed_when_finished=False, table_column=whole()),
        Numbers(),
    )


def track(
    items: Iterable[T],
    title: str,
    total: int | None = None,
    scale: int = 1,
    of: int | None = None,
) -> Iterator[T]:
    """Yield the items; from two seconds on, show how far it is. `scale`: things per item; `of`: how
    many things there are, where the last item has fewer.

    Where there is no terminal a line now and then says so.
    """
    from rich.console import Console
    from rich.progress import Progress

    if total is None:
        total = len(items) if isinstance(items, Sized) else None
    count = of if of is not None or total is None else total * scale
    console, began, bar, task = Console(stderr=True), time.monotonic(), None, None
    said = began
    try:
        for i, item in enumerate(items):
            yield item
            now, done = time.monotonic(), (i + 1) * scale
            if now - began > 2:
                say_threads()
            if count is not None and not console.is_terminal and now - said > EVERY:
                said, left = now, (now - began) / done * max(count - done, 0)
                say(f"{title}: {min(done, count)} of {count}, about {left:.0f} s left")
            if bar is None and console.is_terminal and now - began > 2:
                bar = Progress(*columns(), console=console, transient=True)
                task = bar.add_task(title, total=count, numbers="")
                bar.start()
            if bar is not None and task is not None:
                bar.update(task, completed=done if count is None else min(done, count))
    finally:
        if bar is not None:
            bar.stop()


def waiting(title: str) -> AbstractContextManager[object]:
    """Show on a terminal that something goes on whose end cannot be told."""
    from rich.console import Console

    return Console(stderr=True).status(title)
