"""Times of a diffusion or a flow as vectors."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.nn.linear import Linear

FREQUENCIES = 128


class TimeEmbedding(nn.Module):
    """Times (...), counted to 1000, to (..., W): cosines and sines, then two layers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.w1 = Linear(2 * FREQUENCIES, width)
        self.w2 = Linear(width, width)

    def forward(self, t: Tensor) -> Tensor:
        steps = torch.arange(FREQUENCIES, dtype=torch.float32, device=t.device)
        angles = t.float()[..., None] * torch.exp(-math.log(10000) * steps / FREQUENCIES)
        waves = torch.cat((angles.cos(), angles.sin()), -1).to(self.w1.weight.dtype)
        return self.w2(F.silu(self.w1(waves)))
