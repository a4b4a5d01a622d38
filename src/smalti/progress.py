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
    from rich.progress import Progress, ProgressColumn, TaskID

T = TypeVar("T")
EVERY = 30.0
"""Seconds between two lines of progress where there is no terminal."""
BETWEEN = 0.1
"""Seconds between two looks at the steps of an item."""


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


def forget_chosen() -> None:
    """Leave unsaid what was chosen for work that was over at once."""
    _CHOSEN.clear()


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


class Tracked:
    """How far the items of a `track` are: a bar from two seconds on or, where there is no terminal,
    a line now and then."""

    def __init__(self, title: str, count: int | None, scale: int) -> None:
        from rich.console import Console

        self.title, self.count, self.scale = title, count, scale
        self.console, self.began = Console(stderr=True), time.monotonic()
        self.said = self.shown = self.began
        self.bar: Progress | None = None
        self.task: TaskID | None = None
        self.done = 0

    def item(self) -> None:
        """One more item is done."""
        self.done += self.scale
        self._tell(time.monotonic(), self.done)

    def step(self, done: int, total: int) -> None:
        """So many steps of the next item are done."""
        now = time.monotonic()
        if now - self.shown > BETWEEN:
            self.shown = now
            things = self.scale if self.count is None else min(self.scale, self.count - self.done)
            self._tell(now, self.done + things * done / total, f"step {done} of {total}")

    def _tell(self, now: float, done: float, step: str = "") -> None:
        if now - self.began > 2:
            say_threads()
        if self.count is not None:
            done = min(done, self.count)
        if self.count is not None and not self.console.is_terminal and now - self.said > EVERY:
            self.said, left = now, (now - self.began) / done * (self.count - done)
            far = f"{int(done)} of {self.count}" + (step and f", {step}")
            say(f"{self.title}: {far}, about {left:.0f} s left")
        if self.bar is None and self.console.is_terminal and now - self.began > 2:
            self._open()
        if self.bar is not None and self.task is not None:
            self.bar.update(self.task, completed=done, numbers=step)

    def _open(self) -> None:
        from rich.progress import Progress

        self.bar = Progress(*columns(), console=self.console, transient=True)
        self.task = self.bar.add_task(self.title, total=self.count, numbers="")
        self.bar.start()


_TRACKED: list[Tracked] = []


def track(
    items: Iterable[T],
    title: str,
    total: int | None = None,
    scale: int = 1,
    of: int | None = None,
) -> Iterator[T]:
    """Yield the items; from two seconds on, show how far it is, and within an item what `within`
    says. `scale`: things per item; `of`: how many things there are, where the last item has fewer.

    Where there is no terminal a line now and then says so.
    """
    if total is None:
        total = len(items) if isinstance(items, Sized) else None
    tracked = Tracked(title, of if of is not None or total is None else total * scale, scale)
    _TRACKED.append(tracked)
    try:
        for item in items:
            yield item
            tracked.item()
    finally:
        _TRACKED.remove(tracked)
        if tracked.bar is not None:
            tracked.bar.stop()


def within(done: int, total: int) -> None:
    """Say how many steps of an item are done, where items are tracked: of the innermost `track`."""
    if _TRACKED and done < total:
        _TRACKED[-1].step(done, total)


def waiting(title: str) -> AbstractContextManager[object]:
    """Show on a terminal that something goes on whose end cannot be told."""
    from rich.console import Console

    return Console(stderr=True).status(title)
