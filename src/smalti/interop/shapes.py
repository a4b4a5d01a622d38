"""What the tensors of a checkpoint say: shapes by name, and how many parts a prefix numbers."""

from __future__ import annotations

from smalti.interop.pickles import Checkpoint


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
