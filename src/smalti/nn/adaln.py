"""Adaptive layer norm: a condition scales, shifts and gates what a layer computes.

Peebles and Xie 2022 (arXiv:2212.09748). Models differ in the order of the six parts of their
linear layer's output, so a model splits them itself.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

LN_EPS = 1e-6


def normed(x: Tensor, eps: float = LN_EPS) -> Tensor:
    """Layer norm of the last axis without weights."""
    return F.layer_norm(x, x.shape[-1:], eps=eps)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x * (1 + scale) + shift, all broadcast to (B, n, D)."""
    return torch.addcmul(x + shift, x, scale)
