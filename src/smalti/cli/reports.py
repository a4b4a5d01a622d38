"""What reports of smalti say, in some lines: of a run, a demo, `eval`, `tune` or `scaling`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from smalti.config import read_json

Told = dict[str, Any]
"""A report as `smalti info` tells it: `kind`, what it is of, and `numbers` by name, each a number
or, with an interval, {"value": ..., "interval": [low, high]}."""


def report_in(path: Path) -> Told | None:
    """What the report in a file says; None of a file that is no report. Raises ValueError for a
    damaged one."""
    try:
        report = read_json(path)
    except ValueError:  # not JSON: what else reads the file says so
        return None
    for keys, reader in READERS:
        if report.keys() >= {*keys}:
            try:
                return reader(report)
            except (AttributeError, IndexError, KeyError, TypeError) as error:
                kind = type(error).__name__
                raise ValueError(f"{path} is a damaged report: {kind} {error}") from None
    return _run(report) if _held_out(report) else None


def line(name: str, value: Any) -> str:
    """A number and its interval for a person."""
    spread = ""
    if isinstance(value, Mapping):
        value, interval = value["value"], value["interval"]
        spread = f"  [{interval[0]:.5g}, {interval[1]:.5g}]" if interval else ""
    return f"{name:28} {value:.6g}{spread}" if isinstance(value, float) else f"{name:28} {value}"


def _held_out(report: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a run on what was held out, and those beside them."""
    names = ("steps", "vocab", "texts", "unigram_bits_per_token", "below_unigram")
    chosen: dict[str, float] = {
        name: value
        for name, value in report.items()
        if isinstance(value, int | float) and (name in names or name.startswith(KEPT))
    }
    return chosen if any(name.startswith("held_out_") for name in chosen) else {}


KEPT = ("held_out_", "bits_per_token_", "matching_")


def _run(report: Told) -> Told:
    about = {"source": report["source"]} if "source" in report else {}
    return {"kind": "report of a run", **about, "numbers": _held_out(report)}


def _demo(report: Told) -> Told:
    about = {name: report[name] for name in ("system", "data", "images", "seconds")}
    numbers = {
        f"{part} {name.removeprefix('held_out_')}": value
        for part in ("tokenizer", "generator")
        for name, value in _held_out(report[part]).items()
    }
    return {"kind": "report of a demo", **about, "numbers": numbers}


def _measured(report: Told) -> Told:
    subject, reference = (report.get(name) or {} for name in ("subject", "reference"))
    numbers = {
        metric["metric"]: {"value": metric["value"], "interval": metric["interval"]}
        for metric in report["metrics"]
    }
    about = {"subject": subject.get("name"), "reference": reference.get("name")}
    return {"kind": "report of a measurement", **about, "numbers": numbers}


def _search(report: Told) -> Told:
    """Of a search that goes on yet its best row is not known."""
    best = report.get("best")
    found = {"settings": best["settings"]} if best else {}
    numbers = {"tried": len(report["rows"])}
    numbers |= {n: best[n] for n in ("value", "images", "fidelity", "diversity")} if best else {}
    name = report.get("metric_name", report["metric"])
    kind = "report of a search" if best else "report of a search that is not finished"
    about = {"metric": name, "reference": report["reference"]["name"]}
    return {"kind": kind, **about, **found, "numbers": numbers}


def _ladder(report: Told) -> Told:
    numbers: Told = {f"{size['layers']} layers": size["curve"][-1][1] for size in report["sizes"]}
    numbers |= {
        f"law over {over}{'' if kind == 'power' else ', ' + kind}": law.get("formula")
        or law["none"]
        for over, kinds in report["laws"].items()
        for kind, law in kinds.items()
    }
    about = {name: report[name] for name in ("model", "source", "loss")}
    return {"kind": "report of scaling laws", **about, "numbers": numbers}


READERS = (
    (("metrics", "subject", "reference"), _measured),
    (("format", "metric", "rows"), _search),
    (("sizes", "laws"), _ladder),
    (("system", "data", "tokenizer", "generator"), _demo),
)
"""Reports by the keys that they have."""
