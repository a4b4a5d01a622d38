"""The transformer stacks of MAR, and features that they keep from step to step.

A stack is bidirectional, so every row changes when a code is drawn. As LazyMAR observes (Yan et
al. 2025, arXiv:2503.12450), most of them hardly do: with a cache, a step may compute only the rows
of codes that were drawn last and of those to predict, and read older keys and values of the others.

B images, n rows, D width, H heads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor, nn

from smalti.codes import Turn
from smalti.nn.attention import KVCache, attend
from smalti.nn.linear import Linear
from smalti.nn.mlp import MLP
from smalti.nn.residual import dropped
from smalti.sampling.orders import arrange


@dataclass(frozen=True)
class Shape:
    """Sizes of one stack."""

    layers: int
    heads: int
    dim: int
    ffn_dim: int
    dropout: float
    attention_dropout: float
    norm_eps: float

    def cache(self, batch: int, length: int, like: Tensor) -> KVCache:
        """Room for keys and values of `length` rows, on the device and in the dtype of `like`."""
        head_dim = self.dim // self.heads
        return KVCache(self.layers, batch, self.heads, length, head_dim, like.dtype, like.device)


class Cache:
    """Keys and values of both stacks, (P + N) rows in each layer, and what was predicted last."""

    def __init__(self, encoder: KVCache, decoder: KVCache) -> None:
        self.encoder, self.decoder = encoder, decoder
        self.wanted: Tensor | None = None
        """(B, m) of the step before, whose codes no row has read yet."""

    def rows(self, index: Tensor) -> Cache:
        """A cache of some rows, (n,) int64."""
        other = Cache(self.encoder.rows(index), self.decoder.rows(index))
        other.wanted = None if self.wanted is None else self.wanted.index_select(0, index)
        return other

    def put(self, index: Tensor, other: Cache) -> None:
        """Write all that `other` holds in place of the rows of `index`; the next step computes all
        rows."""
        self.encoder.put(index, other.encoder)
        self.decoder.put(index, other.decoder)
        self.wanted = None

    def reused(self, turn: Turn) -> Tensor | None:
        """The positions of codes that are new at this turn, or None: then all rows are computed."""
        return None if turn.fresh or turn.wanted is None else self.wanted


class Kept(NamedTuple):
    """The keys and values that a stack computes at a step, among those of earlier steps."""

    cache: KVCache
    positions: Tensor
    """(B, n): where those of this step belong."""
    fresh: bool
    """They are all that attention needs."""

    def __call__(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        length = self.cache.keys[layer].shape[2]
        kept = self.cache.update(layer, self.positions, length, k, v)
        return (k, v) if self.fresh else kept


class Attention(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads, self.dropout = shape.heads, shape.attention_dropout
        self.wqkv = Linear(shape.dim, 3 * shape.dim)
        self.wo = Linear(shape.dim, shape.dim)

    def forward(
        self, x: Tensor, mask: Tensor | None, rows: Tensor | None, kept: Kept | None, layer: int
    ) -> Tensor:
        qkv = self.wqkv(x).unflatten(-1, (3, self.heads, -1))  # (B, n, 3, H, hd)
        q, k, v = qkv.unbind(2)
        q = arrange(q, rows).transpose(1, 2)  # (B, H, n or m, hd)
        k, v = k.transpose(1, 2), v.transpose(1, 2)
        if kept is not None:
            k, v = kept(layer, k, v)
        y = attend(q, k, v, mask, dropout=self.dropout if self.training else 0.0)
        return self.wo(y.transpose(1, 2).flatten(2))  # (B, n or m, D)


class Block(nn.Module):
    """Attention and feed-forward of x (B, n, D); where `rows` (B, m) are given, for those only."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(shape.dim, shape.norm_eps)
        self.attention = Attention(shape)
        self.norm2 = nn.LayerNorm(shape.dim, shape.norm_eps)
        self.feed_forward = MLP(shape.dim, shape.ffn_dim, dropout=shape.dropout)
        self.dropout = shape.dropout

    def residual(self, x: Tensor, y: Tensor) -> Tensor:
        return x + (dropped(y, self.dropout, 0.0) if self.training else y)

    def forward(
        self, x: Tensor, mask: Tensor | None, rows: Tensor | None, kept: Kept | None, layer: int
    ) -> Tensor:
        h = self.attention(self.norm1(x), mask, rows, kept, layer)
        x = self.residual(arrange(x, rows), h)
        return self.residual(x, self.feed_forward(self.norm2(x)))


class Stack(nn.Module):
    """Blocks and a last norm."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Block(shape) for _ in range(shape.layers)])
        self.norm = nn.LayerNorm(shape.dim, shape.norm_eps)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        rows: Tensor | None = None,
        kept: Kept | None = None,
    ) -> Tensor:
        """x (B, n, D) to the same; or to (B, m, D) of `rows` (B, m), the others' last layer left
        out. `mask` (B, 1, 1, keys) is True at keys that are read."""
        last = len(self.layers) - 1
        for i, layer in enumerate(self.layers):
            x = layer(x, mask, rows if i == last else None, kept, i)
        return self.norm(x)
