"""The layer of Llama (Touvron et al. 2023, arXiv:2302.13971) as image models have it.

Unusual: rotations are given with the place of the rows, so a row of zeros hides queries and keys of
a prefix. Letters: B images, n rows of one call, D width, H heads, hd width of a head.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from torch import Tensor, nn

from smalti.nn.attention import KVCache, attend
from smalti.nn.linear import Linear
from smalti.nn.mlp import Gated
from smalti.nn.norms import RMSNorm
from smalti.nn.residual import dropped
from smalti.nn.rope import rotate


class Widths(Protocol):
    """What a layer reads of a model's configuration; `kv_heads` 0 is as many as `heads`."""

    @property
    def heads(self) -> int: ...
    @property
    def kv_heads(self) -> int: ...
    @property
    def dim(self) -> int: ...
    @property
    def ffn_dim(self) -> int: ...
    @property
    def norm_eps(self) -> float: ...
    @property
    def dropout(self) -> float: ...


def feed_forward_width(dim: int, multiple_of: int, multiplier: float = 1.0) -> int:
    """8/3 D times `multiplier`, rounded up to a multiple of `multiple_of`."""
    hidden = int(multiplier * int(2 * 4 * dim / 3))
    return -(-hidden // multiple_of) * multiple_of


class Place(NamedTuple):
    """Where the rows of one call stand in the sequence, shared by all layers."""

    positions: Tensor
    """(n,) or (B, n) sequence positions."""
    reach: int
    """Keys below this position are read."""
    rotation: Tensor | None
    """None: without positions."""
    mask: Tensor | None
    causal: bool
    keep: bool
    """Whether keys and values are written to the cache."""


class Attention(nn.Module):
    def __init__(self, config: Widths) -> None:
        super().__init__()
        self.heads, self.kv_heads = config.heads, config.kv_heads or config.heads
        width = config.dim // config.heads  # hd
        self.wqkv = Linear(config.dim, (self.heads + 2 * self.kv_heads) * width, bias=False)
        self.wo = Linear(config.dim, config.dim, bias=False)

    def forward(self, x: Tensor, place: Place, layer: int, cache: KVCache | None) -> Tensor:
        heads, kv = self.heads, self.kv_heads
        qkv = self.wqkv(x).unflatten(-1, (heads + 2 * kv, -1))  # (B, n, H + 2 H_kv, hd)
        qk, v = qkv.split((heads + kv, kv), 2)
        if place.rotation is not None:
            qk = rotate(qk, place.rotation)
        q, k = qk.transpose(1, 2).split((heads, kv), 1)  # (B, H, n, hd), (B, H_kv, n, hd)
        v = v.transpose(1, 2)
        if cache is not None:
            k, v = cache.update(layer, place.positions, place.reach, k, v, place.keep)
        y = attend(q, k, v, place.mask, place.causal)
        return self.wo(y.transpose(1, 2).flatten(2))  # (B, n, D)


class Block(nn.Module):
    """x + attention(norm(x)), then x + feed_forward(norm(x))."""

    def __init__(self, config: Widths, drop_path: float) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.feed_forward = Gated(config.dim, config.ffn_dim)
        self.attention_norm = RMSNorm(config.dim, config.norm_eps)
        self.ffn_norm = RMSNorm(config.dim, config.norm_eps)
        self.dropout, self.drop_path = config.dropout, drop_path

    def residual(self, x: Tensor, y: Tensor) -> Tensor:
        if not self.training:
            return x + y
        return x + dropped(y, self.dropout, self.drop_path)

    def forward(self, x: Tensor, place: Place, layer: int, cache: KVCache | None) -> Tensor:
        x = self.residual(x, self.attention(self.attention_norm(x), place, layer, cache))
        return self.residual(x, self.feed_forward(self.ffn_norm(x)))
