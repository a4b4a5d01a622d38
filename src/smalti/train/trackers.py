"""Where a run shows numbers and pictures beside metrics.jsonl: a small sink for each tracker.

Each tracker has its own settings, in environment variables: of the project, the server, the account
and whether there is a network. A tracker that fails is left out; the training goes on.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from textwrap import shorten
from typing import Any, Literal, NamedTuple, Protocol
from uuid import uuid4

import numpy as np
from PIL import Image

from smalti.arguments import choose
from smalti.config import read_json
from smalti.files import write_json

PROJECT = "smalti"
"""Where runs are filed in trackers, unless WANDB_PROJECT, TRACKIO_PROJECT or
MLFLOW_EXPERIMENT_NAME says something else."""


@dataclass(frozen=True)
class Tracked:
    """What a tracker is told of a run when it begins or goes on."""

    folder: Path
    """The run's folder, whose name the run has in the tracker."""
    step: int
    """The step that it goes on from; 0 of a run that begins."""

    @property
    def recipe(self) -> dict[str, Any]:
        """Everything the run was asked for, nested; empty where the folder does not say."""
        path = self.folder / "recipe.json"
        return read_json(path) if path.is_file() else {}

    @property
    def id(self) -> str:
        """What the run is found by when it goes on: made once, and kept in its folder."""
        path = self.folder / "tracked.json"
        if not path.is_file():
            write_json(path, {"id": uuid4().hex[:12]})
        return str(read_json(path)["id"])


End = Literal["finished", "stopped", "failed"]
"""How a run ends: all steps are done, somebody stopped it, or an error did."""


class Tracker(Protocol):
    """One run in one tracker, which was opened with what it is told of it (`Tracked`): it has the
    recipe, and if the run has been there before it goes on."""

    def metrics(self, step: int, numbers: Mapping[str, float]) -> None:
        """Show numbers of a step."""
        ...

    def pictures(self, step: int, files: Mapping[str, Path]) -> None:
        """Show pictures of a step, files of PNG by name."""
        ...

    def finish(self, end: End) -> None:
        """Send what is left, and close the run, which may go on later."""
        ...


# -- the trackers


class TensorBoard:
    """Files of events in the run's folder, which `tensorboard --logdir` shows."""

    def __init__(self, run: Tracked) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter

        behind = run.step + 1 if run.step else None  # what came behind the checkpoint is hidden
        self.writer = SummaryWriter(str(run.folder / "tensorboard"), purge_step=behind)
        recipe = json.dumps(run.recipe, indent=2)
        self.writer.add_text("recipe", f"```json\n{recipe}\n```", run.step)

    def metrics(self, step: int, numbers: Mapping[str, float]) -> None:
        for name, value in numbers.items():
            self.writer.add_scalar(name, value, step)

    def pictures(self, step: int, files: Mapping[str, Path]) -> None:
        for name, path in files.items():
            self.writer.add_image(name, _pixels(path), step, dataformats="HWC")

    def finish(self, end: End) -> None:
        self.writer.close()


class Wandb:
    """Weights & Biases, or Trackio, whose calls are the same."""

    def __init__(self, module: Any, run: Tracked) -> None:
        self.module, name = module, module.__name__
        own: dict[str, Any] = {}
        if name == "wandb":
            quiet = module.Settings(console="off")  # the live line is none of its business
            own = {"id": run.id, "allow_val_change": True, "dir": run.folder, "settings": quiet}
        self.run = module.init(
            project=os.environ.get(f"{name.upper()}_PROJECT", PROJECT),
            name=f"{run.folder.name}-{run.id[:4]}",
            config=run.recipe,
            resume="allow",
            **own,
        )

    def metrics(self, step: int, numbers: Mapping[str, float]) -> None:
        self.run.log(dict(numbers), step=step)

    def pictures(self, step: int, files: Mapping[str, Path]) -> None:
        self.run.log({n: self.module.Image(str(path)) for n, path in files.items()}, step=step)

    def finish(self, end: End) -> None:
        if end != "finished" and self.module.__name__ == "wandb":
            self.run.finish(exit_code=1)
        else:
            self.run.finish()


class MLflow:
    """MLflow, on the server or the database that MLFLOW_TRACKING_URI names."""

    def __init__(self, run: Tracked) -> None:
        # its own seven tries of two minutes would hold up the training
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        self.client: Any = import_module("mlflow").MlflowClient()
        self.metric: Any = import_module("mlflow.entities").Metric
        project = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        found = self.client.get_experiment_by_name(project)
        experiment = found.experiment_id if found else self.client.create_experiment(project)
        begun = self.client.search_runs([experiment], f"tags.smalti = '{run.id}'", max_results=1)
        if begun:
            self.run, known = begun[0].info.run_id, begun[0].data.params
            self.client.update_run(self.run, status="RUNNING")
        else:
            tags, known = {"smalti": run.id}, {}
            made = self.client.create_run(experiment, tags=tags, run_name=run.folder.name)
            self.run = made.info.run_id
        for name, value in _flat(run.recipe):
            if name not in known:  # there a value never changes
                self.client.log_param(self.run, name, value)

    def metrics(self, step: int, numbers: Mapping[str, float]) -> None:
        now = round(time.time() * 1000)
        told = [self.metric(name, value, now, step) for name, value in numbers.items()]
        self.client.log_batch(self.run, metrics=told)

    def pictures(self, step: int, files: Mapping[str, Path]) -> None:
        for name, path in files.items():
            self.client.log_image(self.run, _pixels(path), key=name, step=step)

    def finish(self, end: End) -> None:
        status = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}[end]
        self.client.set_terminated(self.run, status)


class Kind(NamedTuple):
    """A tracker by its name."""

    open: Callable[[Tracked], Tracker]
    package: str
    """What has to be installed."""
    extra: str
    """The extra of smalti that brings it."""


TRACKERS = {
    "tensorboard": Kind(TensorBoard, "tensorboard", "log"),
    "trackio": Kind(lambda run: Wandb(import_module("trackio"), run), "trackio", "trackio"),
    "wandb": Kind(lambda run: Wandb(import_module("wandb"), run), "wandb", "wandb"),
    "mlflow": Kind(MLflow, "mlflow", "mlflow"),
}


# -- those of a run


def named(wanted: str) -> list[str]:
    """What `wanted` names: trackers with commas between, or "auto" or "none" alone. Raises
    ValueError for a name that is none."""
    names = (choose(word.strip(), [*TRACKERS, "auto", "none"], "log") for word in wanted.split(","))
    found = list(dict.fromkeys(names))
    if len(found) > 1 and {"auto", "none"} & {*found}:
        raise ValueError(f"log must be auto or none alone, or names of trackers, got {wanted!r}")
    return found


def chosen(wanted: str) -> list[str]:
    """The trackers that `wanted` asks for, by their names; "auto" is TensorBoard where it is
    installed. Raises ValueError as `named` does."""
    found = named(wanted)
    if found == ["auto"]:
        return ["tensorboard"] if installed("tensorboard") else []
    return [] if found == ["none"] else found


def installed(name: str) -> bool:
    """Whether a tracker is installed. Nothing is imported, and a folder of its name is no package:
    wandb leaves one where it has run."""
    spec = find_spec(TRACKERS[name].package)
    return spec is not None and spec.origin is not None


def require(wanted: str) -> None:
    """Raise ValueError if one of the trackers that are asked for is not installed."""
    for name in chosen(wanted):
        if not installed(name):
            raise ValueError(f'log {name} needs `pip install "smalti[{TRACKERS[name].extra}]"`')


class Trackers:
    """Those that a run asks for, as one. What one of them raises is said once, and it is left out;
    what they print is for people and goes to standard error."""

    def __init__(self, wanted: str, run: Tracked, say: Callable[[str], None]) -> None:
        self.say = say
        self.running: dict[str, Tracker] = {}
        for name in chosen(wanted):
            with self._spared(name):
                self.running[name] = TRACKERS[name].open(run)

    def metrics(self, step: int, numbers: Mapping[str, float]) -> None:
        for name, tracker in list(self.running.items()):
            with self._spared(name):
                tracker.metrics(step, numbers)

    def pictures(self, step: int, files: Mapping[str, Path]) -> None:
        for name, tracker in list(self.running.items()):
            with self._spared(name):
                tracker.pictures(step, files)

    def finish(self, end: End = "finished") -> None:
        for name, tracker in list(self.running.items()):
            with self._spared(name):
                tracker.finish(end)

    @contextmanager
    def _spared(self, name: str) -> Iterator[None]:
        """A context in which the tracker is used, and whose errors the training is spared."""
        try:
            with redirect_stdout(sys.stderr):
                yield
        except Exception as error:  # whatever it is, a training is worth more
            self.running.pop(name, None)
            why = shorten(f"{type(error).__name__}: {error}", 160)
            self.say(f"{name} failed and is told nothing more; metrics.jsonl has it all ({why})")


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested settings with dotted names."""
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _pixels(path: Path) -> np.ndarray:
    """A picture file as bytes (H, W, 3)."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))
