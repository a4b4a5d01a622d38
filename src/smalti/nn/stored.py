"""Weights in fewer bits than they are computed in, for files that are to be small.

bfloat16 halves float32; int8 keeps a byte for each number of a table, and a bfloat16 scale for each
row of it. Numbers without a second axis, such as those of norms, stay as they are: they are few.
Rounding twice is rounding once, so a module that is rounded here has the fingerprint of its file.
O rows of a weight.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from smalti.config import did_you_mean

Bits = Literal["bfloat16", "int8"]
"""What weights are stored in, if not in the dtype that they have."""
SCALE = ":scale"
"""What stands behind a weight's name in that of its scales."""


def named_bits(name: Any) -> Bits:
    """These bits by name. Raises ValueError for others."""
    names = get_args(Bits)
    if name not in names:
        near = did_you_mean(str(name), names)
        raise ValueError(f"weights are stored in {' or '.join(names)}, got {name!r}{near}")
    return name


def narrowed(
    tensors: Mapping[str, Tensor], bits: Bits, exact: tuple[str, ...] = ()
) -> dict[str, Tensor]:
    """Tensors as a file keeps them; those whose names begin with one of `exact` as they are."""
    found = dict[str, Tensor]()
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or tensor.dim() < 2 or name.startswith(exact):
            found[name] = tensor
        elif bits == "bfloat16":
            found[name] = tensor.bfloat16()
        else:
            rows = tensor.float().flatten(1)  # (O, ...)
            scales = (rows.abs().amax(1).clamp(min=1e-12) / 127).bfloat16()  # (O,)
            levels = (rows / scales.float()[:, None]).round().clamp(-127, 127)
            found[name] = levels.to(torch.int8).view(tensor.shape)
            found[name + SCALE] = scales
    return found


def widened(tensors: Mapping[str, Tensor], bits: Bits, where: str) -> dict[str, Tensor]:
    """The float32 numbers that the tensors of a file stand for. Raises ValueError, beginning with
    `where`, for scales that do not belong to a weight."""
    found = dict[str, Tensor]()
    for name, tensor in tensors.items():
        if name.endswith(SCALE) and bits == "int8":
            continue
        scales = tensors.get(name + SCALE) if bits == "int8" else None
        if scales is None:
            found[name] = tensor.float() if tensor.dtype == torch.bfloat16 else tensor
        elif tensor.dtype != torch.int8 or scales.shape != tensor.shape[:1]:
            raise ValueError(
                f"{where}: {name} is {tensor.dtype} {tuple(tensor.shape)} with scales "
                f"{tuple(scales.shape)}, which are for int8, one for each row"
            )
        else:
            each = scales.float().view(-1, *[1] * (tensor.dim() - 1))  # (O, 1, ...)
            found[name] = tensor.float() * each
    return found


@torch.no_grad()
def round_weights(module: nn.Module, bits: Bits, exact: tuple[str, ...] = ()) -> None:
    """Bring a module's weights, in place, to the float32 numbers that a file of fewer bits keeps
    of them."""
    state = module.state_dict()
    for name, tensor in widened(narrowed(state, bits, exact), bits, "").items():
        state[name].copy_(tensor)
