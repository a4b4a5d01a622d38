"""Refuses what is no number, NaN or infinity, before it becomes a picture of noise.

Unusual: `Tensor.isfinite` takes 2 s per GB on a CPU and a copy of the tensor. The least and the
largest element, which NaN passes through, say as much in 0.06 s per GB of float32 and 0.12 of
bfloat16 (two cores), without a copy.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

BLOCK = 1 << 24
"""Elements that are counted at once: the count of a large tensor needs no copy of it."""


class NotFinite(ValueError):
    """Weights, codes or pixels are NaN or infinite."""


def all_finite(x: Tensor) -> Tensor:
    """Whether every element is a finite number: a bool tensor without axes, on the device of `x`,
    so that a GPU need not be waited for."""
    if not x.numel() or not x.is_floating_point():
        return torch.ones((), dtype=torch.bool, device=x.device)
    least, largest = x.detach().aminmax()
    return least.isfinite() & largest.isfinite()


def count_bad(x: Tensor) -> int:
    """How many elements are NaN or infinite."""
    blocks = x.detach().flatten().split(BLOCK)
    return sum(int((~block.isfinite()).sum()) for block in blocks)


def require_finite(x: Tensor, what: str) -> Tensor:
    """`x` itself. Raises NotFinite beginning with `what`, a plural, if some of it is no number."""
    if not all_finite(x):
        raise NotFinite(
            f"{what} must be finite numbers, got {count_bad(x)} of {x.numel()} that are NaN or "
            f"infinite, in {str(x.dtype).removeprefix('torch.')}"
        )
    return x


def require_finite_weights(tensors: Mapping[str, Tensor], where: object) -> None:
    """Raise NotFinite beginning with `where` if weights are NaN or infinite, naming the tensors.

    Takes 0.06 s per GB of float32 on a CPU, and no memory; a GPU is waited for once.
    """
    tensors = {name: t for name, t in tensors.items() if not t.is_meta}  # which is a shape alone
    if not tensors:
        return
    device = next(iter(tensors.values())).device
    fine = torch.stack([all_finite(t).to(device) for t in tensors.values()]).tolist()
    bad = [name for name, good in zip(tensors, fine, strict=True) if not good]
    if not bad:
        return
    first = tensors[bad[0]]
    more = f", and {len(bad) - 1} more of {len(tensors)} tensors too" if bad[1:] else ""
    raise NotFinite(
        f"{where}: {bad[0]} holds {count_bad(first)} values of {first.numel()} that are NaN or "
        f"infinite in {str(first.dtype).removeprefix('torch.')}{more}"
    )
