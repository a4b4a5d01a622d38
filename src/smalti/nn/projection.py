"""Attention that changes the width of tokens, as UniTok has it on either side of its codes.

Ma et al. 2025, "UniTok: A Unified Tokenizer for Visual Generation and Understanding"
(arXiv:2502.20321).

Unusual: where the width falls, what the heads give is averaged, not concatenated, so that heads as
wide as the output are pooled; where they are wider, neighbouring channels are averaged too.

Letters: B images, N tokens, I input width, O output width, W the larger of both, H heads, c = W / H
the width of a head.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.nn.attention import attend
from smalti.nn.linear import Linear, linear


class GeGLU(nn.Module):
    """w2(gelu(w0 x) * w1 x) of a normalised (..., D), with biases (Shazeer 2020,
    arXiv:2002.05202); the norm is part of it, and GELU is approximated by a tanh."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.w0 = Linear(dim, hidden)
        self.w1 = Linear(dim, hidden)
        self.w2 = Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        return self.w2(F.gelu(self.w0(x), approximate="tanh") * self.w1(x))


class ResizingAttention(nn.Module):
    """Tokens (B, N, I) to (B, N, O): heads are averaged where O is below I, else concatenated.

    Keys have no bias.
    """

    def __init__(self, before: int, after: int, heads: int, causal: bool = False) -> None:
        super().__init__()
        wide = max(before, after)
        self.after, self.heads, self.causal, self.down = after, heads, causal, before > after
        self.qkv = Linear(before, 3 * wide, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(wide))
        self.v_bias = nn.Parameter(torch.zeros(wide))
        self.proj = Linear(after, after)

    def forward(self, x: Tensor) -> Tensor:
        bias = torch.cat((self.q_bias, torch.zeros_like(self.q_bias), self.v_bias))
        qkv = linear(x, self.qkv.weight, bias).unflatten(-1, (3, self.heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (B, H, N, c)
        y = attend(q, k, v, causal=self.causal)
        if not self.down:
            return self.proj(y.transpose(1, 2).flatten(2))
        y = y.mean(1)  # (B, N, c)
        if y.shape[2] != self.after:
            y = F.adaptive_avg_pool1d(y, self.after)
        return self.proj(y)


class AttentionProjection(nn.Module):
    """Tokens (B, N, I) to (B, N, O): a product and attention in parallel, then a feed-forward.

    Raises ValueError unless the heads divide the larger width.
    """

    def __init__(self, before: int, after: int, heads: int, causal: bool = False) -> None:
        super().__init__()
        if heads < 1 or max(before, after) % heads:
            raise ValueError(f"heads must divide {max(before, after)}, got {heads}")
        self.norm1 = nn.LayerNorm(before)
        self.attn = ResizingAttention(before, after, heads, causal)
        self.proj = Linear(before, after)
        self.norm3 = nn.LayerNorm(before)
        self.norm2 = nn.LayerNorm(after)
        self.mlp = GeGLU(after, 2 * after)

    def forward(self, x: Tensor) -> Tensor:
        x = self.proj(self.norm3(x)) + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))  # (B, N, O)
