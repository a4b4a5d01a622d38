"""Where a command that draws runs, and what it says of that. Imports torch when it opens one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from tyro.conf import arg

from smalti.progress import say_if_long

Device = Annotated[str, arg(metavar="DEVICE")]
Dtype = Annotated[str, arg(metavar="DTYPE")]
FLAT = arg(name="")
"""A group of options, each under its own name."""


@dataclass(frozen=True)
class Run:
    """Where a command that draws runs, and how it reports."""

    device: Device = "auto"
    """Where it is computed: auto (the best there is), cpu, cuda, cuda:1 or mps."""
    dtype: Dtype = "auto"
    """Of the generator's weights: float32, bfloat16, float16, or auto, which is bfloat16
    where the device is faster in it and float32 elsewhere."""
    weights: Literal["exact", "float16", "int8", "int4"] = "exact"
    """What few rows are multiplied by on a CPU: the weights, or copies of them with fewer bits,
    which are faster and change what is drawn: float16 hardly, int8 a little, int4 visibly."""
    json: bool = False
    """Print files and settings on standard output."""


def opened(pipeline: str, run: Run, unified: bool = False, device: Any = None) -> Any:
    """The pipeline that a command draws with, on a `device` that is known or the one of `run`;
    `unified` only of text and pictures. Where drawing takes long it is told which
    dtype was taken if none was asked for, and why."""
    from smalti.loading import load_any, load_unified

    load = load_unified if unified else load_any
    pipe = load(pipeline, run.device if device is None else device, run.dtype)
    if run.weights != "exact":
        pipe.draw_with(run.weights)
    if run.dtype == "auto":
        say_if_long(auto_dtype(pipe.device))
    return pipe


def auto_dtype(device: Any) -> str:
    """The line on which dtype was chosen for drawing on a device, and why."""
    from smalti.devices.named import drawing_dtype

    dtype, why = drawing_dtype(device)
    return f"dtype: {str(dtype).removeprefix('torch.')}, as {why}"
