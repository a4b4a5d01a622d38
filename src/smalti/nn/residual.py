"""What regularises a residual branch while it is trained."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

LEVELS = 1 << 16
"""Values of the 16 random bits by which a CPU decides whether a number is dropped."""


def drop(x: Tensor, rate: float, training: bool = True) -> Tensor:
    """Numbers of any shape, in training each 0 at `rate`, those that stay scaled up.

    Torch's generator works on one thread of a CPU whatever the others do, and there asks for as
    many bits for a mask as for random numbers. A CPU takes 16 bits instead, so that the rate is a
    multiple of 1 / 65536, at most so much below the one asked for; the scale is of what it is.
    """
    if not training or rate == 0:
        return x
    if x.device.type != "cpu" or rate == 1 or torch.compiler.is_compiling():
        return F.dropout(x, rate)
    least, size = int(rate * LEVELS), x.numel()
    bits = torch.empty(-(-size // 4), dtype=torch.int64).random_(-(2**63), None)
    bits = bits.view(torch.int16)[:size].view(x.shape)
    mask = torch.empty(x.shape, dtype=x.dtype)
    torch.ge(bits, least - LEVELS // 2, out=mask)
    return x * mask.mul_(LEVELS / (LEVELS - least))


def dropped(y: Tensor, rate: float, drop_path: float) -> Tensor:
    """A residual branch (B, n, D) in training: dropout at `rate`, then whole rows dropped at
    `drop_path`.

    Rows that stay are scaled up, so that the mean is that of evaluation (Huang et al. 2016,
    arXiv:1603.09382).
    """
    y = drop(y, rate)
    if drop_path > 0:
        keep = torch.rand(len(y), 1, 1, device=y.device) >= drop_path
        y = y * keep / (1 - drop_path)
    return y


def drop_path_rates(rate: float, layers: int) -> list[float]:
    """The rate of each layer, from 0 in the first to `rate` in the last."""
    return [rate * i / max(layers - 1, 1) for i in range(layers)]
