"""Feed-forward layers."""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.nn.linear import Linear, fused


class Gated(nn.Module):
    """w2(gate(w1 x) * w3 x) of (..., D), without biases (Shazeer 2020, arXiv:2002.05202): SwiGLU,
    or with the tanh form of GELU GeGLU."""

    def __init__(self, dim: int, hidden: int, gate: Literal["silu", "gelu"] = "silu") -> None:
        super().__init__()
        self.gate = F.silu if gate == "silu" else partial(F.gelu, approximate="tanh")
        self.w1 = Linear(dim, hidden, bias=False)
        self.w3 = Linear(dim, hidden, bias=False)
        self.w2 = Linear(hidden, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(self.gate(self.w1(x)) * self.w3(x))


Gelu = Literal["none", "tanh", "sigmoid"]


def gelu(x: Tensor, approximate: Gelu = "none") -> Tensor:
    """GELU (Hendrycks and Gimpel 2016, arXiv:1606.08415), or one of its approximations."""
    if approximate == "sigmoid":
        return x * torch.sigmoid(1.702 * x)
    return F.gelu(x, approximate=approximate)


ROWS = 1024
"""Without gradients the wide features of so many rows are in memory at a time."""


class MLP(nn.Module):
    """w2(gelu(w1 x)) of (..., D), with biases unless `bias` is off; some published models
    approximate GELU by a tanh, others by a sigmoid.

    `dropout` is that of gelu(w1 x) in training.
    """

    def __init__(
        self,
        dim: int,
        hidden: int,
        approximate: Gelu = "none",
        dropout: float = 0.0,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.w1 = Linear(dim, hidden, bias=bias)
        self.w2 = Linear(hidden, dim, bias=bias)
        self.approximate: Gelu = approximate
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(0, -2)
        if torch.is_grad_enabled() or len(rows) <= ROWS:
            return self.part(x)
        y = torch.empty_like(rows)
        for given, found in zip(rows.split(ROWS), y.split(ROWS), strict=True):
            found.copy_(self.part(given))
        return y.view_as(x)

    def part(self, x: Tensor) -> Tensor:
        """Of all rows at once."""
        if self.approximate == "sigmoid":
            h = gelu(self.w1(x), self.approximate)
        else:
            h = fused(self.w1, x, gelu=self.approximate)
        return self.w2(F.dropout(h, self.dropout, self.training))
