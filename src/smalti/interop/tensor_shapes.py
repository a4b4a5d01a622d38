"""What a checkpoint says: shapes by name, how many parts a prefix numbers, stored options."""

from __future__ import annotations

from typing import Any, TypeVar

from smalti.interop.pickles import Checkpoint
from smalti.nn.llama import feed_forward_width

T = TypeVar("T")


def shape(checkpoint: Checkpoint, name: str, axes: int, project: str) -> tuple[int, ...]:
    """The shape of a tensor. Raises ValueError if a file of the project would have another."""
    tensor = checkpoint.state.get(name)
    if tensor is None or tensor.dim() != axes:
        lacks = "has no" if tensor is None else f"has shape {tuple(tensor.shape)} in"
        raise ValueError(f"{checkpoint.path} is no such file of {project}: it {lacks} {name}")
    return tuple(tensor.shape)


def count(checkpoint: Checkpoint, prefix: str) -> int:
    """How many numbers follow a prefix in the names of tensors."""
    rest = [n.removeprefix(prefix) for n in checkpoint.state if n.startswith(prefix)]
    return len({name.partition(".")[0] for name in rest})


def option(checkpoint: Checkpoint, name: str, default: T) -> T:
    """A stored option, or the default. Raises ValueError if it is of another type."""
    value: Any = checkpoint.args.get(name, default)
    if isinstance(default, float) and type(value) is int:
        value = float(value)
    if type(value) is not type(default):
        kind = type(default).__name__
        raise ValueError(f"{checkpoint.path}: option {name} must be {kind}, got {value!r}")
    return value


def ffn_settings(dim: int, width: int) -> tuple[int, float]:
    """`multiple_of` and `ffn_multiplier` of a feed-forward width, as published if those fit."""
    for multiple_of in (256, 128, 64, 32, 16, 8, 4, 2, 1):
        if feed_forward_width(dim, multiple_of) == width:
            return multiple_of, 1.0
    return 1, (width + 0.5) / int(8 * dim / 3)  # one half keeps rounding from F - 1
