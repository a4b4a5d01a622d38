"""Root-mean-square norm (Zhang and Sennrich 2019, arXiv:1910.07467), and LayerNorm of heads."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class RMSNorm(nn.Module):
    """Normalise the last axis in float32, cast back to the input's dtype, then scale.

    The cast before the weight is Llama's order, which released weights depend on.
    """

    def __init__(self, dim: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        if _drawn(x):
            return _normed(x, self.eps).mul_(self.weight)
        return F.rms_norm(x, self.weight.shape, eps=self.eps) * self.weight


def _drawn(x: Tensor) -> bool:
    """Whether x is of a CPU that draws: there torch's own norm is six operations."""
    plain = not torch.is_grad_enabled() and not torch.compiler.is_compiling()
    return plain and x.is_cpu and x.dtype == torch.float32


def _normed(x: Tensor, eps: float) -> Tensor:
    """x (..., D) over its root mean square, a new tensor; equal to torch's within rounding."""
    size = torch.linalg.vector_norm(x, dim=-1, keepdim=True)  # (..., 1)
    return x * torch.addcmul(_number(eps), size, size, value=1 / x.shape[-1]).rsqrt_()


@cache
def _number(value: float) -> Tensor:
    """A number as a tensor, which costs more than a product of few rows."""
    return torch.tensor(value)


class HeadNorm(nn.Module):
    """LayerNorm of each head of (B, n, H, head_dim): by weights of its own, or of one for all."""

    def __init__(self, heads: int, head_dim: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(heads, head_dim))
        self.bias = nn.Parameter(torch.zeros(heads, head_dim))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.bias, F.layer_norm(x, x.shape[-1:], eps=self.eps), self.weight)
