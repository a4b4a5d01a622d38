"""Root-mean-square norm (Zhang and Sennrich 2019, arXiv:1910.07467), and LayerNorm of heads."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
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
        if self._by_hand(x):
            return Trained.apply(x, self.weight, self.eps)  # type: ignore[return-value]
        return F.rms_norm(x, self.weight.shape, eps=self.eps) * self.weight

    def _by_hand(self, x: Tensor) -> bool:
        plain = x.device.type == "cpu" and not torch.compiler.is_compiling()
        learns = torch.is_grad_enabled() and x.requires_grad
        return plain and learns and x.dtype == self.weight.dtype == torch.float32


class Trained(torch.autograd.Function):
    """RMSNorm with a gradient of few passes: a CPU has no kernel of it, and torch's is made of that
    of each operation, which takes about twice the time.

    With r = (mean(x^2) + eps)^-1/2 and u = x r, dx = r (g w - u mean(g w u)), dw = sum(g u).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        r = x.square().mean(-1, keepdim=True).add_(eps).rsqrt_()  # (..., 1)
        u = x * r
        ctx.save_for_backward(u, r, weight)
        return u * weight

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, grad: Tensor
    ) -> tuple[Tensor, Tensor, None]:
        u, r, weight = ctx.saved_tensors
        along = grad * u
        mean = (along @ weight).unsqueeze(-1) / weight.numel()  # (..., 1)
        dx = torch.addcmul(grad * weight, u, mean, value=-1).mul_(r)
        return dx, along.flatten(0, -2).sum(0), None


class HeadNorm(nn.Module):
    """LayerNorm of each head of (B, n, H, head_dim): by weights of its own, or of one for all."""

    def __init__(self, heads: int, head_dim: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(heads, head_dim))
        self.bias = nn.Parameter(torch.zeros(heads, head_dim))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.bias, F.layer_norm(x, x.shape[-1:], eps=self.eps), self.weight)
