"""Layers of BERT (Devlin et al. 2018, arXiv:1810.04805), as masked models of images have them.

Unusual beside most transformers: each norm is behind the residual branch, of the sum; `prenorm` is
the usual place. B rows, n positions, D width, H heads, hd width of a head.
"""

from __future__ import annotations

from torch import Tensor, nn

from smalti.nn.attention import attend
from smalti.nn.linear import Linear
from smalti.nn.mlp import MLP
from smalti.nn.residual import dropped

LN_EPS = 1e-12


class Block(nn.Module):
    """Attention of all to all and feed-forward, each normalised with what it was added to, or with
    `prenorm` before it is computed."""

    def __init__(
        self, dim: int, heads: int, ffn_dim: int, dropout: float = 0.0, prenorm: bool = False
    ) -> None:
        super().__init__()
        self.heads, self.dropout, self.prenorm = heads, dropout, prenorm
        self.wqkv = Linear(dim, 3 * dim)
        self.wo = Linear(dim, dim)
        self.norm1 = nn.LayerNorm(dim, LN_EPS)
        self.feed_forward = MLP(dim, ffn_dim)
        self.norm2 = nn.LayerNorm(dim, LN_EPS)

    def attention(self, x: Tensor, visible: Tensor | None) -> Tensor:
        """Of all positions to all, or to those that are visible, (B, n, D)."""
        qkv = self.wqkv(x).unflatten(-1, (3, self.heads, -1))  # (B, n, 3, H, hd)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, H, n, hd)
        y = attend(q, k, v, visible, dropout=self.dropout if self.training else 0.0)
        return self.wo(y.transpose(1, 2).flatten(2))  # (B, n, D)

    def forward(self, x: Tensor, visible: Tensor | None = None) -> Tensor:
        """(B, n, D) to the same shape; `visible` (B, 1, 1, n) bool, None: every position is."""
        dropout = self.dropout if self.training else 0.0
        if self.prenorm:
            x = x + dropped(self.attention(self.norm1(x), visible), dropout, 0.0)
            return x + dropped(self.feed_forward(self.norm2(x)), dropout, 0.0)
        x = self.norm1(x + dropped(self.attention(x, visible), dropout, 0.0))
        return self.norm2(x + dropped(self.feed_forward(x), dropout, 0.0))
