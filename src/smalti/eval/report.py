"""What a measurement says of itself, and whether two of them may be compared.

A number is worth as much as what is known of how it came about. `Measured` holds all that decides
whether another number may stand beside it; `compare` looks at that first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from smalti.eval.bootstrap import Interval

FULL = 50_000
"""A metric of fewer images says so in its name."""

Kind = Literal[
    "generation",
    "reconstruction",
    "likelihood",
    "conditioning",
    "codes",
    "matching",
    "reading",
]


@dataclass(frozen=True)
class Measured:
    """One number."""

    metric: str
    definition: str
    """What exactly was computed, with a version that changes when the numbers would."""
    value: float
    images: int
    kind: Kind
    better: Literal["lower", "higher"]
    interval: Interval | None = None
    """95 % bootstrap interval; None where there is none."""
    resampled: Literal["images", "reference"] = "images"
    """What the interval is of other choices of: the images, or the reference's pictures."""
    reference: str = ""
    """Hash of what it was measured against."""
    reference_images: int = 0
    preparation: str = ""
    """Crop, filter and size of the pictures."""
    extractor: str = ""
    """Hash of the network's weights; '' = it needs none."""


def counted(metric: str, images: int, full: int = FULL) -> str:
    """The metric's name, with the number of images if that is below `full`: 'fid_5k'."""
    if images >= full:
        return metric
    return f"{metric}_{images // 1000}k" if images and images % 1000 == 0 else f"{metric}_{images}"


# -- comparing

ALIKE = {
    "kind": "one is of {a}, the other of {b}",
    "definition": "other definitions: {a!r} and {b!r}",
    "reference": "other references: {a} and {b}",
    "reference_images": "references of {a} and of {b} images",
    "preparation": "other crops or filters: {a!r} and {b!r}",
    "extractor": "other weights of the network: {a} and {b}",
    "images": "{a:,} images against {b:,}",
}
"""What must agree, and what is said where it does not."""


def compare(
    a: Mapping[str, Any], b: Mapping[str, Any]
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Differences b - a of the metrics that both reports have, and why others do not compare.

    Each as `difference` tells it: with its interval, and whether that is clear of 0.
    Raises ValueError, with the reasons, if no metric compares.
    """
    first, second = ({_plain(m): m for m in report["metrics"]} for report in (a, b))
    both = [name for name in first if name in second]
    if not both:
        crossed = [n for n in first if f"r{n}" in second] + [n for n in second if f"r{n}" in first]
        why = f": {crossed[0]} is of generation, r{crossed[0]} of reconstruction" if crossed else ""
        names = f"{', '.join(first)} and {', '.join(second)}"
        raise ValueError(f"the reports have no metric in common{why or f': {names}'}")
    refused = {n: "; ".join(why) for n in both if (why := unlike(first[n], second[n]))}
    if len(refused) == len(both):
        text = "; ".join(f"{name}: {why}" for name, why in refused.items())
        raise ValueError(f"these do not compare: {text}")
    return [difference(first[n], second[n]) for n in both if n not in refused], refused


def _plain(metric: Mapping[str, Any]) -> str:
    """The metric's name without the number of images."""
    name, count = metric["metric"], metric["images"]
    return name if counted("", count) == "" else name.removesuffix(counted("", count))


def unlike(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """Why two records of a metric do not compare; [] if they do."""
    return [
        text.format(a=a[key] or "none", b=b[key] or "none")
        if isinstance(a[key], str)
        else text.format(a=a[key], b=b[key])
        for key, text in ALIKE.items()
        if a[key] != b[key]
    ]


def difference(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, Any]:
    """b - a of one metric, with an interval where those of a and b are of images drawn anew.

    Numbers of the same pictures have none: they move together, so their intervals do not add up.
    """
    found = {"metric": a["metric"], "a": a["value"], "b": b["value"]}
    change = b["value"] - a["value"]
    found |= {"difference": change, "better": "neither"}
    if change:
        found["better"] = "b" if (change < 0) == (a["better"] == "lower") else "a"
    if a["interval"] and b["interval"] and a["resampled"] == b["resampled"] == "images":
        below, above = ([abs(m["interval"][i] - m["value"]) for m in (a, b)] for i in (0, 1))
        low, high = change - math.hypot(below[1], above[0]), change + math.hypot(above[1], below[0])
        found |= {"interval": (low, high), "clear": not low <= 0 <= high}
    return found


def as_json(metrics: list[Measured], about: Mapping[str, Any]) -> dict[str, Any]:
    """A report: what was measured, how, and every number."""
    return {"format": 1, **about, "metrics": [asdict(m) for m in metrics]}
