"""The layer of GPT-2 (Radford et al. 2019), with the signature of Llama's.

Letters: B images, n rows of one call, D width, H heads, hd width of a head.
"""

from __future__ import annotations

from torch import Tensor, nn

from smalti.nn.attention import KVCache, attend
from smalti.nn.linear import Linear
from smalti.nn.llama import Place
from smalti.nn.mlp import MLP, Gelu
from smalti.nn.residual import dropped

LN_EPS = 1e-5


class Block(nn.Module):
    """x + attention(norm(x)), then x + feed_forward(norm(x)), with biases everywhere. It does not
    turn queries and keys by their positions."""

    def __init__(
        self,
        dim: int,
        heads: int,
        dropout: float = 0.0,
        gelu: Gelu = "none",
        attention_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.heads, self.dropout, self.attention_dropout = heads, dropout, attention_dropout
        self.attention_norm = nn.LayerNorm(dim, LN_EPS)
        self.wqkv = Linear(dim, 3 * dim)
        self.wo = Linear(dim, dim)
        self.ffn_norm = nn.LayerNorm(dim, LN_EPS)
        self.feed_forward = MLP(dim, 4 * dim, gelu)

    def attention(self, x: Tensor, place: Place, layer: int, cache: KVCache | None) -> Tensor:
        qkv = self.wqkv(x).unflatten(-1, (3, self.heads, -1)).transpose(1, 3)  # (B, H, 3, n, hd)
        q, k, v = qkv.unbind(2)  # (B, H, n, hd)
        if cache is not None:
            k, v = cache.update(layer, place.positions, place.reach, k, v, place.keep)
        dropout = self.attention_dropout if self.training else 0.0
        y = attend(q, k, v, place.mask, place.causal, dropout=dropout)
        return self.wo(y.transpose(1, 2).flatten(2))  # (B, n, D)

    def residual(self, x: Tensor, y: Tensor) -> Tensor:
        return x + (dropped(y, self.dropout, 0.0) if self.training else y)

    def forward(self, x: Tensor, place: Place, layer: int, cache: KVCache | None) -> Tensor:
        x = self.residual(x, self.attention(self.attention_norm(x), place, layer, cache))
        return self.residual(x, self.feed_forward(self.ffn_norm(x)))
