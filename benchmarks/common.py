"""What every benchmark reports beside its numbers: hardware, threads, torch, commit."""

import json
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from smalti.devices.rates import hardware, seconds

__all__ = ["commit", "earlier", "machine", "machines", "report", "seconds"]


def commit() -> str:
    """The short hash of the checkout, "+" behind it where src/ differs from the commit."""
    here = Path(__file__).parent

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", *words], capture_output=True, text=True, cwd=here)
        except FileNotFoundError:  # a machine without git
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    name = git("rev-parse", "--short", "HEAD")
    return "unknown" if name is None else name + "+" * bool(git("status", "-s", "--", "../src"))


def machine(device: str = "cpu") -> dict[str, Any]:
    return {
        "hardware": hardware(torch.device(device)),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "commit": commit(),
    }


def report(case: dict[str, Any], device: str = "cpu") -> None:
    """Print a case as one JSON line, floats to four digits, with the machine."""
    rounded = {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in case.items()}
    print(json.dumps(rounded | machine(device)), flush=True)


def earlier(files: Iterable[Path]) -> dict[str, dict[str, Any]]:
    """Cases that were reported before, by their names: a training need not be done again, on
    whatever machine it was."""
    lines = (line for path in files for line in path.read_text().splitlines())
    return {row["case"]: row for row in map(json.loads, lines)}


def machines(rows: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """What was reported of the machines of cases, each thing once."""
    mine = machine()
    told = {
        key: dict.fromkeys(str(row.get(key, here)) for row in rows) for key, here in mine.items()
    }
    return {key: ", ".join(values) for key, values in told.items()}
