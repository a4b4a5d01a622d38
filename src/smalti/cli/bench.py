"""`smalti bench`: how fast this machine draws, trains, encodes and decodes. Imports torch when it
measures."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from smalti.cli.drawing import in_numbers
from smalti.cli.running import Device, Dtype
from smalti.progress import say, show, track

if TYPE_CHECKING:
    from rich.table import Table

    from smalti.runs.bench import Bench, Row

BATCHES = {"draw": "1,8", "train": "8", "encode": "1,8", "decode": "1,8"}
"""Images at a time where nothing is said."""


def bench(
    work: Annotated[Positional[Literal["draw", "train", "encode", "decode"]], arg(metavar="WORK")],
    pipeline: Annotated[Positional[str | None], arg(metavar="PIPELINE")] = None,
    recipe: str | None = None,
    batch: Annotated[str | None, arg(metavar="INT[,...]")] = None,
    seconds: float = 5.0,
    device: Device = "auto",
    dtype: Dtype = "auto",
    json: bool = False,
) -> None:
    """Measure how fast pictures are drawn, learned, encoded or decoded, beside the limit on paper.

    Args:
        work: draw (the codes of pictures), train (a step), encode or decode (by the tokenizer).
        pipeline: Folder or Hugging Face hub id of a pipeline, or of a tokenizer to encode or
            decode; default: what --recipe names, with random weights.
        recipe: Recipe whose model is measured; default: llamagen_b, or its tokenizer.
        batch: Images at a time, one number or several with commas between them.
        seconds: How long each batch is measured; what is not done by then is reckoned.
        device: Where it is computed: auto (the best there is), cpu, cuda, cuda:1 or mps.
        dtype: Of the weights that draw, and of products in training: float32, bfloat16, float16, or
            auto, which is what is fast on the device. Training takes the first two. Tokenizers have
            float32 weights, and a GPU decodes in bfloat16.
        json: Print all numbers on standard output.
    """
    if work in ("encode", "decode") and dtype not in ("auto", "float32"):
        raise ValueError(f"tokenizers stay in float32: --dtype is for draw and train, got {dtype}")
    if pipeline is not None and recipe is not None:
        raise ValueError(f"give a PIPELINE or --recipe, not both: {pipeline!r} and {recipe!r}")
    batch = BATCHES[work] if batch is None else batch
    found = in_numbers("batch", batch, int)
    batches = found if isinstance(found, tuple) else (found,)
    if min(batches) < 1 or not 0 < seconds < math.inf:
        raise ValueError(
            f"--batch must be at least 1 and --seconds above 0, got {batch} and {seconds:g}"
        )
    from smalti.devices.named import named_device, named_dtype
    from smalti.runs.bench import Bench

    how = Bench(named_device(device), named_dtype(dtype), seconds)
    rows = measured(how, work, pipeline, recipe, batches)
    if json:
        show({"machine": how.machine(), "rows": [as_json(row) for row in rows]})
        return
    from rich.console import Console

    Console(stderr=True).print(table(rows))
    say(machine_line(how.machine()))


def measured(
    how: Bench, work: str, pipeline: str | None, recipe: str | None, batches: tuple[int, ...]
) -> list[Row]:
    """A row for each batch."""
    from smalti.runs import bench as runs

    usual = "llamagen_b" if work in ("draw", "train") else "llamagen_vq16"
    name, fresh = pipeline or recipe or usual, pipeline is None
    each = track(batches, f"{work} {name}")
    if work in ("draw", "train"):
        run = runs.draw if work == "draw" else runs.learn
        of = runs.drawer(name, fresh, how.device)
        return [run(how, of, batch) for batch in each]
    code = runs.encode if work == "encode" else runs.decode
    tokenizer = runs.tokenizer_of(name, fresh, how.device)
    return [code(how, name, tokenizer, batch) for batch in each]


def as_json(row: Row) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(row) | {"images_per_s": row.images_per_s, "share": row.share}


COLUMNS = ("images", "ms a step", "images/s", "on paper", "share", "measured", "memory")


def table(rows: list[Row]) -> Table:
    """What was measured, for a terminal."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    first = rows[0]
    found = Table(title=f"{first.work} {first.subject}, {first.dtype}", box=SIMPLE_HEAD)
    for name in COLUMNS:
        found.add_column(name, justify="right")
    for row in rows:
        found.add_row(
            str(row.batch),
            f"{row.seconds / row.passes * 1e3:.1f}",
            f"{row.images_per_s:.3g}",
            f"{row.batch / row.limit:.3g}",
            f"{row.share:.0%}",
            f"{row.measured:.0%}",
            f"{row.memory / 1e9:.2f} GB",
        )
    return found


def machine_line(machine: dict[str, Any]) -> str:
    """What the limit on paper is reckoned from."""
    return (
        f"{machine['hardware']}, {machine['threads']} threads, torch {machine['torch']}: reads "
        f"{machine['bandwidth_gb_per_s']:.1f} GB/s, multiplies "
        f"{machine['float32_gflops']:.0f} GFLOP/s in float32, "
        f"{machine['bfloat16_gflops']:.0f} in bfloat16"
    )
