"""Plots as PNG: curves of runs, scaling laws. The only module that imports matplotlib.

A figure is drawn by the agg backend, without a screen and without matplotlib's global state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from smalti.config import did_you_mean
from smalti.eval.scaling import Law, frontier
from smalti.files import check_own, is_json_of, replacing
from smalti.pictures import CHUNK, is_own
from smalti.train.log import read_metrics

COLUMNS = 3
SIZE = (5.0, 3.6)
"""Inches of a panel, at 120 dots each."""
REPEATED = ("images", "nats_per_token", "bits_per_image")
"""Held-out values that say what bits_per_token says."""


def require() -> None:
    """Raise ValueError unless matplotlib is installed."""
    if find_spec("matplotlib") is None:
        raise ValueError('plots need `pip install "smalti[plot]"`')


def plot_runs(
    runs: Sequence[Path], out: Path, keys: Sequence[str] = (), smoothing: float = 0.8
) -> list[str]:
    """A panel for each key, over training steps, with a line for each run that has it; the keys.

    The training losses of a tokenizer and of a generator are different numbers, and so are those
    of generators that are measured in different ways: such runs get a panel each for their losses.
    Default: the training loss and the held-out values. What is logged in training is also shown as
    a running mean, of which each value keeps the share `smoothing`. Raises ValueError for a folder
    without metrics and for a key that no run has.
    """
    if not runs:
        raise ValueError("give the folder of at least one run")
    if not 0 <= smoothing < 1:
        raise ValueError(f"smoothing must be in [0, 1), got {smoothing}")
    numbers = {name: series(read_metrics(run)) for name, run in _named(runs).items()}
    known = list(dict.fromkeys(key for run in numbers.values() for key in run))
    for key in keys:
        if key not in known:
            near = did_you_mean(key, known)
            raise ValueError(f"no run has {key!r}{near} (there are {', '.join(known)})")
    keys = list(keys) or usual(known)
    if not keys:
        raise ValueError(f"say what to draw with --keys (there are {', '.join(known) or 'none'})")
    shown = [(key, names) for key in keys for names in _comparable(numbers, key)]
    figure, panels = _figure(len(shown))
    for panel, (key, names) in zip(panels, shown, strict=True):
        for i, (name, run) in enumerate(numbers.items()):
            if name in names:
                _curve(panel, key, run[key], name, f"C{i % 10}", smoothing)
        panel.set(title=key, xlabel="step")
        panel.set_xlim(left=0)
        if len(numbers) > 1:
            panel.legend()
    _save(figure, out)
    return keys


def _comparable(numbers: dict[str, dict[str, np.ndarray]], key: str) -> list[list[str]]:
    """The names of the runs that have a key, in groups in which it is the same quantity."""
    groups: dict[Any, list[str]] = {}
    for name, run in numbers.items():
        if key in run:
            groups.setdefault(_loss_of(run) if key == "loss" else key, []).append(name)
    return list(groups.values())


def _loss_of(run: dict[str, np.ndarray]) -> tuple[str, bool]:
    """What the training loss of a run is, by what else it tells: how it is measured on held-out
    data or, before that, what it counts; and whether it has the divergence of a KL-VAE."""
    measured = [key for key in run if key.startswith("held_out_")]
    counted = [key for key in run if key.endswith("_per_s")]
    return next(iter([*measured, *counted]), ""), "kl" in run


def series(records: Sequence[dict[str, Any]]) -> dict[str, np.ndarray]:
    """Rows (step, value) of each number in a run's records, (n, 2) float64."""
    rows: dict[str, list[tuple[int, float]]] = {}
    for record in records:
        if "event" not in record:
            for key, value in record.items():
                if key != "step":
                    rows.setdefault(key, []).append((record["step"], _number(key, value)))
    return {key: np.array(points, dtype=np.float64) for key, points in rows.items()}


def _number(key: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{key} must be a number at every step, got {value!r}") from None


def usual(known: Sequence[str]) -> list[str]:
    """The training loss and the held-out values, without those that repeat another, and without
    parts, as usage_2x2, of one that is there."""
    held = [key for key in known if key.startswith("held_out_")]
    repeated = tuple(f"held_out_{name}" for name in REPEATED)
    held = [k for k in held if not k.startswith(repeated) and k.rpartition("_")[0] not in held]
    return [*(key for key in ("loss",) if key in known), *held]


def smoothed(values: np.ndarray, smoothing: float) -> np.ndarray:
    """The running mean of values (n,), each of which counts `smoothing` times as much as the next;
    what is no number is passed over."""
    out, total, weight = np.empty(len(values)), 0.0, 0.0
    for i, value in enumerate(values):
        if np.isfinite(value):
            total, weight = smoothing * total + value, smoothing * weight + 1
        out[i] = total / weight if weight else np.nan
    return out


def plot_scaling(report: Mapping[str, Any], out: Path) -> None:
    """What `runs.ladder` reports: the losses of all sizes over parameters, and on their way over
    compute with the lower envelope, both with their laws. A cross is what the law of the other
    sizes, a power law, says about the largest."""
    figure, (left, right) = _figure(2)
    sizes, warmup = report["sizes"], report["warmup"]
    ends = np.array([(s["parameters"], s["curve"][-1][1]) for s in sizes])
    left.plot(*ends.T, "o", color="black", label=f"{report['model']}, {len(sizes)} sizes")
    costs = list[np.ndarray]()
    for i, size in enumerate(sizes):
        curve = np.array([point for point in size["curve"] if point[0] > warmup])
        costs.append(curve * (size["operations_per_step"], 1))
        right.plot(*costs[-1].T, color=f"C{i % 10}", lw=1, label=f"{size['layers']} layers")
    lowest = frontier(np.concatenate(costs))
    right.plot(*lowest.T, ".", color="black", ms=4, label="lower envelope")
    for panel, points, over in ((left, ends, "parameters"), (right, lowest, "compute")):
        x = np.geomspace(points[:, 0].min(), points[:, 0].max(), 100)
        for (kind, law), style in zip(report["laws"][over].items(), ("-", "--"), strict=True):
            if "none" in law:
                continue
            line = Law(law["alpha"], law["log_beta"], law["floor"])
            panel.plot(x, line(x), style, color="crimson", label=law["formula"])
            if kind == "power" and (held := law["held_out"]):
                panel.plot(held["x"], held["predicted"], "x", color="crimson", label="predicted")
        panel.set(xscale="log", yscale="log", ylabel=report["loss"].replace("_", " "))
        panel.yaxis.set_major_formatter("{x:.4g}")
        panel.yaxis.set_minor_formatter("{x:.4g}")
        panel.legend(fontsize=7)
    left.set(xlabel="parameters without embeddings, X")
    right.set(xlabel="operations of the training, X")
    _save(figure, out)


def plot_tuning(report: dict[str, Any], out: Path) -> None:
    """What `tuning` reports: fidelity over diversity of all candidates, those that no other beats
    joined by a line, the best one ringed."""
    figure, (panel,) = _figure(1)
    rows = [row for row in report["rows"] if row["round"] == 0]
    for guidance in sorted({row["settings"]["guidance"] for row in rows}):
        some = [row for row in rows if row["settings"]["guidance"] == guidance]
        panel.plot(*_places(some), "o", label=f"guidance {guidance:g}")
    panel.plot(*_places(report["frontier"]), "-", color="black", lw=0.8, zorder=0)
    best = [row for row in rows if row["settings"] == report["best"]["settings"]]
    panel.plot(*_places(best), "o", ms=12, mfc="none", color="crimson", label="best")
    panel.set(xlabel="diversity (recall)", ylabel="fidelity (precision)")
    panel.legend(fontsize=7)
    _save(figure, out)


def _places(rows: Sequence[dict[str, Any]]) -> list[list[float]]:
    return [[row[key] for row in rows] for key in ("diversity", "fidelity")]


def _named(runs: Sequence[Path]) -> dict[str, Path]:
    """Runs by the names of their folders or, where two share one, by their paths."""
    names = [run.resolve().name for run in runs]
    same = len(set(names)) < len(names)
    return {str(run) if same else name: run for name, run in zip(names, runs, strict=True)}


def _curve(
    panel: Any, key: str, points: np.ndarray, name: str, colour: str, smoothing: float
) -> None:
    steps, values = points.T
    if key.startswith("held_out_"):
        panel.plot(steps, values, "o-", color=colour, ms=3, label=name)
        return
    panel.plot(steps, values, color=colour, lw=0.6, alpha=0.35)
    panel.plot(steps, smoothed(values, smoothing), color=colour, label=name)


def _figure(panels: int) -> tuple[Any, list[Any]]:
    """A figure of so many panels, in rows of three."""
    require()
    from matplotlib.figure import Figure

    columns = min(panels, COLUMNS)
    rows = -(-panels // columns)
    size = (columns * SIZE[0], rows * SIZE[1])
    figure = Figure(figsize=size, dpi=120, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten().tolist()
    for unused in axes[panels:]:
        unused.remove()
    return figure, axes[:panels]


def is_plot(path: Path) -> bool:
    """Whether smalti drew a plot: it says so, or its report is beside it."""
    return is_own(path) or is_json_of(path.with_suffix(".json"), ("versions",))


def _save(figure: Any, out: Path) -> None:
    check_own(out, is_plot)
    with replacing(out) as temporary:
        # agg is what writes a figure's PNG
        figure.savefig(temporary, format="png", metadata={CHUNK: '{"plot": true}'})
