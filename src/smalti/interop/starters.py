"""Pipelines that come with smalti: `smalti/NAME`, a folder of the package's `starters`.

Each is a pipeline as any other, in fewer bits (`nn/stored.py`), with a `card.json` that says what
it is and the licences of what it learned. Imports no torch: commands name the first one.
"""

from __future__ import annotations

from pathlib import Path

from smalti.config import did_you_mean

STARTER = "smalti/emoji64"
"""What commands draw with where no pipeline is named."""
PREFIX = "smalti/"
ROOT = Path(__file__).parent.parent / "starters"


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
