"""What regularises a residual branch while it is trained."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def dropped(y: Tensor, dropout: float, drop_path: float) -> Tensor:
    """A residual branch (B, n, D) in training: dropout, then whole rows dropped at `drop_path`.

    Rows that stay are scaled up, so that the mean is that of evaluation (Huang et al. 2016,
    arXiv:1603.09382).
    """
    y = F.dropout(y, dropout)
    if drop_path > 0:
        keep = torch.rand(len(y), 1, 1, device=y.device) >= drop_path
        y = y * keep / (1 - drop_path)
    return y


def drop_path_rates(rate: float, layers: int) -> list[float]:
    """The rate of each layer, from 0 in the first to `rate` in the last."""
    return [rate * i / max(layers - 1, 1) for i in range(layers)]
