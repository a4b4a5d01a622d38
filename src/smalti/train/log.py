"""What a run leaves behind and shows: metrics.jsonl, trackers, a progress bar."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from math import isfinite
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from smalti.files import replacing
from smalti.progress import columns
from smalti.train.trackers import Tracked, Trackers


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The records in a run's metrics.jsonl, each of a step or an event. Raises ValueError if there
    are none, or others."""
    path = run / "metrics.jsonl"
    if not path.is_file():
        raise ValueError(f"{run} holds no metrics.jsonl, so it is not the folder of a run")
    records = [record for _, record in _records(path)]
    if not records:
        raise ValueError(f"{path} holds no numbers yet")
    return records


def _records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The lines of a file and what they say, without one that a crash cut off."""
    for line in path.read_text().splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        fields = record if isinstance(record, dict) else {}
        if "event" not in fields and not isinstance(fields.get("step"), int):
            raise ValueError(f"{path} has a line of no step: {line[:60]}")
        yield line, record


class MetricsFile:
    """One JSON object per line. Lines behind the step that a run resumes from are dropped."""

    def __init__(self, path: Path, step: int) -> None:
        kept = []
        if path.exists():
            kept = [line for line, record in _records(path) if record.get("step", 0) <= step]
            with replacing(path) as temporary:
                temporary.write_text("".join(line + "\n" for line in kept))
        self.file = open(path, "a", buffering=1)  # noqa: SIM115 - closed by Log

    def write(self, record: dict[str, Any]) -> None:
        self.file.write(json.dumps(record) + "\n")


class Log:
    """Metrics to files and `trackers`, and a live line to the terminal; silent on all but the main
    process."""

    def __init__(
        self,
        run: Path,
        title: str,
        start: int,
        steps: int,
        main: bool = True,
        trackers: str = "none",
    ) -> None:
        self.main, self.steps, self.title = main, steps, title
        self.console = Console(stderr=True, quiet=not main, soft_wrap=True)
        self.metrics = MetricsFile(run / "metrics.jsonl", start) if main else None
        self.live = self.console.is_terminal
        self.progress = Progress(
            *columns(),
            console=self.console,
            disable=not (main and self.live),
        )
        self.task = self.progress.add_task(title, total=steps, completed=start, numbers="")
        self.trackers = Trackers(trackers if main else "none", Tracked(run, start), self.say)
        self.began, self.first, self.shown = time.monotonic(), start, 0.0

    def __enter__(self) -> Log:
        self.progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.progress.stop()
        if self.metrics is not None:
            self.metrics.file.close()
        stopped = kind is not None and issubclass(kind, KeyboardInterrupt)
        self.trackers.finish("stopped" if stopped else "failed" if kind else "finished")

    def advance(self, step: int) -> None:
        """Show that `step` steps are done."""
        self.progress.update(self.task, completed=step)

    def record(self, step: int, numbers: dict[str, float], show: list[str]) -> None:
        """Write numbers of a step and show some of them."""
        if self.metrics is None:
            return
        self.metrics.write({"step": step} | {k: _plain(v) for k, v in numbers.items()})
        self.trackers.metrics(step, numbers)
        text = shown({name: numbers[name] for name in show if name in numbers})
        self.progress.update(self.task, completed=step, numbers=text)
        now = time.monotonic()
        if not self.live and (now - self.shown > 10 or step == self.steps):
            self.shown = now
            left = (now - self.began) / max(step - self.first, 1) * (self.steps - step)
            self.console.print(
                f"{self.title}: step {step} of {self.steps}  {text}  about {left:.0f} s left",
                highlight=False,
            )

    def picture(self, step: int, path: Path) -> None:
        """Show a preview, which has been written, in the trackers."""
        self.trackers.pictures(step, {"preview": path})

    def event(self, step: int, kind: str, **fields: float | str) -> None:
        """Write what happened at a step."""
        if self.metrics is not None:
            said = {k: v if isinstance(v, str) else _plain(v) for k, v in fields.items()}
            self.metrics.write({"step": step, "event": kind} | said)

    def say(self, text: str) -> None:
        """A line of text above the progress bar."""
        self.progress.console.print(text, highlight=False)


def shown(numbers: dict[str, float]) -> str:
    """Numbers with their names; the parts of one, as usage_2x2 of usage, in brackets behind it."""
    texts = list[str]()
    for name, number in numbers.items():
        parts = {n: v for n, v in numbers.items() if n.rpartition("_")[0] == name}
        inside = ", ".join(f"{n.rpartition('_')[2]} {v:.2g}" for n, v in parts.items())
        if name.rpartition("_")[0] not in numbers:
            texts.append(f"{name} {number:.4g}" + (f" ({inside})" if inside else ""))
    return "  ".join(texts)


def _plain(number: float) -> float | str:
    """A number as JSON has it: eight digits; text for what is none."""
    return float(f"{number:.8g}") if isfinite(number) else str(number)
