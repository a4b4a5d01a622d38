"""`smalti models`: the list of models, for people and for programs. It needs no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Annotated, Any

from tyro.conf import Positional, arg

from smalti.interop.listing import ListedModel, list_models
from smalti.progress import say, show

COLUMNS = (
    *("NAME", "SYSTEM", "TASK", "SIZE", "PARAMETERS", "DISK", "MEMORY", "FID", "TRAINED ON"),
    *("LICENCE", "FROM"),
)
RIGHT = ("PARAMETERS", "DISK", "MEMORY")
"""Columns of numbers."""


def models(
    pattern: Annotated[Positional[str], arg(metavar="PATTERN")] = "*",
    pretrained: bool = False,
    json: bool = False,
) -> None:
    """List the models: those that come with smalti, released ones that are fetched by name, and
    recipes to train.

    Args:
        pattern: A name with * and ?, or a part of names: smalti models "llamagen*".
        pretrained: Leave the recipes out, which have no weights.
        json: Print them as JSON on standard output, with bytes of disk and memory.
    """
    found = list_models(pattern, pretrained)
    if json:
        show([as_json(model) for model in found])
        return
    print(table(COLUMNS, map(row, found)))
    say(
        "draw: smalti sample NAME; train: smalti train NAME. Disk is in float32 (what comes with "
        "smalti as it is), memory of weights in bfloat16, both without text encoders"
    )


def as_json(model: ListedModel) -> dict[str, Any]:
    return asdict(model) | {"disk": model.disk, "memory": model.memory}


def row(model: ListedModel) -> tuple[str, ...]:
    """What the table says of a model, by `COLUMNS`."""
    fid = "" if model.fid is None else f"{model.fid:.2f} ({model.fid_said})"
    source = model.source + (f" (needs smalti[{model.needs}])" if model.needs else "")
    sizes = (counted(model.parameters), stored(model.disk), stored(model.memory))
    about = (model.name, model.system, model.task, model.size)
    return (*about, *sizes, fid, model.data, model.licence, source)


def counted(number: int | None) -> str:
    """Parameters as people say them: 111 M, 3.1 B."""
    return "" if number is None else short(number, {1e9: "B", 1e6: "M", 1e3: "k"})


def stored(number: int | None) -> str:
    """Bytes as people say them: 444 MB, 5.2 GB."""
    return "" if number is None else short(number, {1e9: "GB", 1e6: "MB", 1e3: "kB"})


def short(number: int, units: Mapping[float, str]) -> str:
    """A number of two or three digits and its unit, the largest that leaves one before the dot."""
    for factor, unit in units.items():
        if number >= factor:
            return f"{number / factor:.{1 if number < 9.95 * factor else 0}f} {unit}"
    return str(number)


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns as wide as what they hold, of which those that hold nothing are left out."""
    lines = [heads, *rows]
    kept = [i for i in range(len(heads)) if any(line[i] for line in lines[1:])]
    widths = {i: max(len(line[i]) for line in lines) for i in kept}
    cells = [
        [line[i].rjust(widths[i]) if heads[i] in RIGHT else line[i].ljust(widths[i]) for i in kept]
        for line in lines
    ]
    return "\n".join("  ".join(line).rstrip() for line in cells)
