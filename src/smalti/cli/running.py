"""Where a command that draws runs, and what it says of that. Imports torch when it opens one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any, Literal

from tyro.conf import arg

from smalti.cli.options import spelled
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
    from smalti.loading import load, load_unified

    take = load_unified if unified else load
    pipe = take(pipeline, run.device if device is None else device, run.dtype)
    if run.weights != "exact":
        pipe.draw_with(run.weights)
    if run.dtype == "auto":
        say_if_long(auto_dtype(pipe.device))
    return pipe


UNKNOWN = {"known_first": "codes that are known, as smalti edit has them"}
"""What a picture that is drawn whole leaves without meaning, and what it needs."""
UNSEEN = {"guidance_pictures": "pictures in what is asked, as smalti edit --instruct has them"}
"""The same of a picture that is drawn of a class or a text alone."""


def check_idle(
    pipe: Any,
    given: Mapping[str, Any],
    negative: str | None = None,
    lacks: Mapping[str, str] = UNKNOWN | UNSEEN,
    others: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Raise ValueError for a setting of drawing that is `given` and does nothing, beside the
    pipeline's own and `others`, or for a negative prompt without guidance. `lacks` are settings
    that need what there is not."""
    from smalti.config import settings_of, value_of
    from smalti.pipeline.sampling import Sampling

    if not given and negative is None:
        return
    known = settings_of(Sampling)
    changes = {name: v for name, v in {**others, **given}.items() if name in known}
    sampling = pipe.drawing([], **changes).sampling
    sampling.check(pipe.model)
    if negative is not None and sampling.guidance.off:
        raise ValueError("--negative does nothing without guidance other than 1")
    for name, need in (sampling.idle() | dict(lacks)).items():
        if name in given and value_of(sampling, known[name]) != known[name].field.default:
            raise ValueError(f"{spelled(name)} does nothing without {need}")


def auto_dtype(device: Any) -> str:
    """The line on which dtype was chosen for drawing on a device, and why."""
    from smalti.devices.named import drawing_dtype

    dtype, why = drawing_dtype(device)
    return f"dtype: {str(dtype).removeprefix('torch.')}, as {why}"
