"""Activations that are not kept: blocks whose forward runs again in the backward pass.

It costs up to a third more time and saves most of the memory. Gradients are the same to the bit:
dropout draws the same numbers again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

from smalti.train.parallel import blocks

GB = 1e9


class Kept(NamedTuple):
    """Bytes that a forward pass keeps for the backward pass."""

    outside: int
    """Of all that is in no block."""
    inside: list[int]
    """Of each block."""
    inputs: list[int]
    """What is left of each block that is recomputed: its arguments."""

    def times(self, items: int) -> Kept:
        """Of so many items, measured on one."""
        parts = ([items * n for n in part] for part in (self.inside, self.inputs))
        return Kept(items * self.outside, *parts)

    def peak(self, recomputed: int) -> int:
        """If the first so many blocks are recomputed, one at a time in the backward pass."""
        again = max(self.inside[:recomputed], default=0)
        rest = sum(self.inside[recomputed:]) + sum(self.inputs[:recomputed])
        return self.outside + rest + again

    def fewest(self, limit: float) -> int:
        """How many of the first blocks have to be recomputed for the rest to fit; all if nothing
        does."""
        counts = range(len(self.inside) + 1)
        return next((n for n in counts if self.peak(n) <= limit), len(self.inside))


def recompute(layers: Sequence[nn.Module]) -> None:
    """Keep no activations inside blocks. Call it last: a copy of a block would go on using this
    one. Raises ValueError if there are none."""
    if not layers:
        raise ValueError("train.recompute is of a generator's layers; for others it must be off")
    for block in layers:
        block.forward = _recomputed(block.forward)


def _recomputed(forward: Any) -> Any:
    def run(*args: Any, **kwargs: Any) -> Any:
        return checkpoint(forward, *args, use_reentrant=False, **kwargs)

    return run


def kept(model: nn.Module, forward: Callable[[], object]) -> Kept:
    """What a forward pass of a model keeps. Raises ValueError if the model has no blocks."""
    layers = blocks(model)
    if not layers:
        raise ValueError("train.memory recomputes a generator's layers; for others it must be 0")
    bytes_of: list[dict[int, int]] = [{} for _ in range(len(layers) + 1)]
    inputs, now = [0] * len(layers), [len(layers)]
    fixed = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in fixed:
            bytes_of[now[0]][storage.data_ptr()] = storage.nbytes()
        return tensor

    def enter(index: int, _: nn.Module, args: tuple[Any, ...]) -> None:
        now[0] = index
        inputs[index] = sum(t.nbytes for t in args if isinstance(t, Tensor) and t.requires_grad)

    def leave(*_: object) -> None:
        now[0] = len(layers)

    handles = [b.register_forward_pre_hook(partial(enter, i)) for i, b in enumerate(layers)]
    handles += [b.register_forward_hook(leave) for b in layers]
    try:
        with saved_tensors_hooks(pack, lambda tensor: tensor):
            result = forward()  # kept until it is counted: an address is used once
            del result
    finally:
        for handle in handles:
            handle.remove()
    _share(bytes_of)
    each = [sum(found.values()) for found in bytes_of]
    return Kept(each[-1], each[:-1], inputs)


def _share(bytes_of: list[dict[int, int]]) -> None:
    """Count what several blocks keep, such as rotations, once and outside: it stays if one of them
    is recomputed."""
    times = Counter(address for found in bytes_of for address in found)
    for found in bytes_of[:-1]:
        for address in [a for a in found if times[a] > 1]:
            bytes_of[-1][address] = found.pop(address)


def keep_within(model: nn.Module, found: Kept, limit: float) -> str | None:
    """Recompute as many of a model's blocks as have to be for what is kept to take no more than
    `limit` GB, and say how many; None if all fits."""
    layers, count = blocks(model), found.fewest(limit * GB)
    if not count:
        return None
    recompute(layers[:count])
    whole, less = (found.peak(n) / GB for n in (0, count))
    short = "" if less <= limit else f", more than train.memory {limit:g}: take train.accumulate"
    return (
        f"activations of a step would take {whole:.3g} GB; {count} of {len(layers)} blocks are "
        f"computed again in the backward pass: {less:.3g} GB{short}"
    )
