"""Cross-attention: rows of a model read a condition, such as the words of a text.

B images, n rows, D width, H heads, T words.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol, Self

import torch
from torch import Tensor, nn

from smalti.codes import Rowwise
from smalti.nn.attention import attend
from smalti.nn.linear import Linear


class Keyed(Protocol):
    """Cross-attention of a layer."""

    def keys(self, words: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of words (B, T, D), each (B, H, T, head_dim)."""
        ...


@dataclass
class Context(Rowwise):
    """What cross-attention reads. With `keep`, keys and values of each layer are computed once, for
    all steps of a generation."""

    words: Tensor
    """(B, T, D)."""
    mask: Tensor | None
    """(B, 1, 1, T) bool, True at words that are no padding; None: all are read."""
    keep: bool
    kept: dict[Keyed, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def read(self, attention: Keyed) -> tuple[Tensor, Tensor]:
        """Keys and values of a layer, each (B, H, T, head_dim)."""
        if not self.keep:
            return attention.keys(self.words)
        if attention not in self.kept:
            self.kept[attention] = attention.keys(self.words)
        return self.kept[attention]

    def rows(self, index: Tensor) -> Self:
        taken = super().rows(index)
        taken.kept = {}
        return taken

    def put(self, index: Tensor, other: Rowwise) -> None:
        assert isinstance(other, Context)
        super().put(index, other)
        for attention, mine in self.kept.items():
            for tensor, new in zip(mine, other.read(attention), strict=True):
                tensor.index_copy_(0, index, new)


def nulled(text: Tensor, mask: Tensor, drop: Tensor | None, null: Tensor) -> tuple[Tensor, Tensor]:
    """Words (B, T, C) in the dtype of a null text (T, C), which stands in the rows of `drop` (B,)
    and has no padding; and the mask of words that are none, (B, T), as (B, 1, 1, T)."""
    text = text.to(null.dtype)
    if drop is not None:
        text = torch.where(drop[:, None, None], null, text)
        mask = mask | drop[:, None]
    return text, mask[:, None, None]


def split(x: Tensor, heads: int) -> Tensor:
    """The heads of (B, n, D): (B, H, n, head_dim)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


class CrossAttention(nn.Module):
    """Queries of rows (B, n, D), keys and values of a `Context`; all D wide.

    Without `key_bias` only values have a bias: that of keys moves all products of a query alike,
    which a softmax does not see. Without `bias` there is none at all.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        dropout: float = 0.0,
        key_bias: bool = True,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.wq = Linear(dim, dim, bias=bias)
        self.wkv = Linear(dim, 2 * dim, bias=key_bias and bias)
        self.v_bias = None if key_bias or not bias else nn.Parameter(torch.zeros(dim))
        self.wo = Linear(dim, dim, bias=bias)

    def keys(self, words: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of words (B, T, D), each (B, H, T, head_dim)."""
        k, v = self.wkv(words).chunk(2, -1)
        v = v if self.v_bias is None else v + self.v_bias
        return split(k, self.heads), split(v, self.heads)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        dropout = self.dropout if self.training else 0.0
        q = split(self.wq(x), self.heads)
        y = attend(q, *context.read(self), context.mask, dropout=dropout)
        return self.wo(y.transpose(1, 2).flatten(2))  # (B, n, D)


class AttentivePool(nn.Module):
    """One vector (B, 1, D) of words (B, T, C), by attention with a learned query for each head."""

    def __init__(self, width: int, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Parameter(torch.empty(heads, dim // heads))
        self.wkv = Linear(width, 2 * dim, bias=False)
        self.v_bias = nn.Parameter(torch.zeros(dim))
        self.wo = nn.Linear(dim, dim)
        self.init_weights()

    def init_weights(self) -> None:
        """The queries alone; a model draws products with its others."""
        nn.init.trunc_normal_(self.query, std=(3 * self.query.numel()) ** -0.5)

    def forward(self, words: Tensor, mask: Tensor) -> Tensor:
        """`mask` (B, 1, 1, T) is True at words that are no padding."""
        k, v = self.wkv(words).chunk(2, -1)  # each (B, T, D)
        k, v = split(k, self.heads), split(v + self.v_bias, self.heads)
        q = self.query[:, None].repeat(len(words), 1, 1, 1)  # (B, H, 1, D / H)
        return self.wo(attend(q, k, v, mask).flatten(1).unsqueeze(1))  # (B, 1, D)
