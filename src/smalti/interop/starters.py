"""Pipelines that come with smalti: `smalti/NAME`, a folder of the package's `starters`.

Each is a pipeline as any other, in fewer bits (`nn/stored.py`), with a `card.json` that says what
it is and the licences of what it learned. Imports no torch: commands name the first one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from smalti.config import did_you_mean, read_json
from smalti.progress import say_once

STARTER = "smalti/emoji64"
"""What commands draw with where no pipeline is named."""
PREFIX = "smalti/"
ROOT = Path(__file__).parent.parent / "starters"
CARD = ("name", "system", "task", "size", "data", "licence", "results")
"""What a card.json says; `parameters` and `tokenizer_parameters` too where they were counted.
`results` are numbers by the name of a metric."""


def starters() -> list[str]:
    """The names of those that this installation has."""
    return [f"{PREFIX}{file.parent.name}" for file in sorted(ROOT.glob("*/pipeline.json"))]


def find(name: str) -> Path | None:
    """The folder of the starter of this name; None for a name that is of none. Raises ValueError
    for one that would be a starter's, but is not here."""
    if not name.startswith(PREFIX) or name.count("/") != 1:
        return None
    if name not in (known := starters()):
        listed = ", ".join(known) or "none"
        raise ValueError(
            f"there is no starter {name}; with this smalti came {listed}{did_you_mean(name, known)}"
        )
    return ROOT / name.removeprefix(PREFIX)


def cards() -> dict[str, tuple[Path, dict[str, Any]]]:
    """The folder and the card of each starter, by name. One whose card is damaged is left out, and
    a line says so."""
    found = dict[str, tuple[Path, dict[str, Any]]]()
    for file in sorted(ROOT.glob("*/card.json")):
        try:
            card = read_json(file)
            if missing := [name for name in CARD if name not in card]:
                raise ValueError(f"{file} is damaged: it has no {', '.join(missing)}")
        except ValueError as error:
            say_once(f"{file.parent.name} is not listed: {error}")
            continue
        found[str(card["name"])] = (file.parent, card)
    return found
