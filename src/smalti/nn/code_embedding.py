"""Codes as a model reads them: rows of a table for numbers, a product with +-1 for bits, the sum
of a row for each depth of a stack.

Unusual: K bits need no table of 2^K rows. A vector is the sum of K rows, each added or taken away
(MaskBit, Weber et al. 2024, arXiv:2409.16211; Infinity, Han et al. 2024, arXiv:2412.04431).
B images, n positions, D width, V codebook entries, K bits, G depths.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.codes import TokenSpec
from smalti.nn.linear import Linear


class NumberEmbedding(nn.Embedding):
    """Codes (B, n) to vectors (B, n, D). With `hidden` there is one row more, of codes that are not
    known."""

    def __init__(self, vocab: int, dim: int, hidden: bool = False) -> None:
        super().__init__(vocab + hidden, dim)

    def forward(self, input: Tensor, known: Tensor | None = None) -> Tensor:
        """The rows of codes (B, n); the last row where they are not `known` (B, n) bool."""
        last = self.num_embeddings - 1
        return super().forward(input if known is None else input.masked_fill(~known, last))


class BitEmbedding(Linear):
    """Codes (B, n, K) of bits to vectors (B, n, D). With `hidden` there is a vector of codes that
    are not known."""

    def __init__(self, bits: int, dim: int, hidden: bool = False) -> None:
        super().__init__(bits, dim)
        if hidden:
            self.hidden = nn.Parameter(torch.zeros(dim))

    def forward(self, input: Tensor, known: Tensor | None = None) -> Tensor:
        """The vectors of codes (B, n, K); that of a hidden one where they are not `known`."""
        vectors = super().forward(signs(input, self.weight.dtype))
        return vectors if known is None else torch.where(known[..., None], vectors, self.hidden)


class DepthTable(nn.Embedding):
    """Rows of tables for stacks of codes: (B, n, G) to vectors (B, n, D), the sum of a row for each
    depth. With `shared` all depths have one table. With `hidden` there is one row more, of stacks
    that are not known. `sizes` are the codes of each depth.
    """

    def __init__(
        self, sizes: Sequence[int], dim: int, shared: bool = False, hidden: bool = False
    ) -> None:
        if shared and len(set(sizes)) > 1:
            raise ValueError(f"depths that share a table must have equal sizes, got {sizes}")
        starts = [0] * len(sizes) if shared else list(accumulate(sizes, initial=0))[:-1]
        rows = starts[-1] + sizes[-1]
        super().__init__(rows + hidden, dim)
        self.starts, self.dim = tuple(starts), dim
        self.even = 0 if shared or len(set(sizes)) > 1 else sizes[0]

    def each(self, codes: Tensor, begin: int = 0) -> Tensor:
        """The row of each code (B, n, g) of the depths from `begin` on: (B, n, g, D)."""
        starts, count = self.starts, codes.shape[-1]
        if count == 1:
            codes = codes + starts[begin]
        elif self.even:
            codes = codes + self.even * torch.arange(begin, begin + count, device=codes.device)
        elif any(starts):
            codes = codes + torch.tensor(starts[begin : begin + count], device=codes.device)
        return super().forward(codes)

    def forward(self, input: Tensor, known: Tensor | None = None) -> Tensor:
        """The vectors of stacks (B, n, G); the last row where they are not `known` (B, n) bool."""
        vectors = self.each(input).sum(-2)  # (B, n, D)
        return vectors if known is None else torch.where(known[..., None], vectors, self.weight[-1])


class CodeVectors(nn.Module):
    """The vectors of a tokenizer's codes, which a model holds and does not learn: stacks of codes
    (B, n, G) to vectors (B, n, C). With `shared` all depths have the same ones. Until `learn_from`
    they are random.
    """

    vectors: Tensor

    def __init__(self, depth: int, vocab: int, dim: int, shared: bool = False) -> None:
        super().__init__()
        self.depth, self.vocab, self.dim, self.shared = depth, vocab, dim, shared
        tables = 1 if shared else depth
        self.register_buffer("vectors", torch.zeros(tables * vocab, dim))  # (T * V, C)

    def init_weights(self) -> None:
        nn.init.normal_(self.vectors)

    def learn_from(self, book: Any) -> None:
        """Take the vectors of a tokenizer's `book`, which `embed`s codes (..., G) as vectors
        (..., G, C). Raises ValueError if depths differ that are to share them."""
        with torch.no_grad():
            found = vectors_of(book, self.depth, self.vocab)  # (G, V, C)
            if self.shared and not all(torch.equal(rows, found[0]) for rows in found):
                raise ValueError("the depths of this tokenizer have tables of their own")
            self.vectors.copy_((found[:1] if self.shared else found).flatten(0, 1))

    def each(self, codes: Tensor, begin: int = 0) -> Tensor:
        """The vector of each code (B, n, g) of the depths from `begin` on: (B, n, g, C)."""
        if not self.shared:
            depths = torch.arange(begin, begin + codes.shape[-1], device=codes.device)
            codes = codes + self.vocab * depths
        return F.embedding(codes, self.vectors)

    def forward(self, input: Tensor) -> Tensor:
        """The sums of the vectors of stacks (B, n, G): (B, n, C)."""
        return self.each(input).sum(-2)


def vectors_of(book: Any, depth: int, vocab: int) -> Tensor:
    """What the codes of each depth stand for, (G, V, C), of a tokenizer's book."""
    codes = torch.arange(vocab, device=book.embedding.weight.device)
    return book.embed(codes[:, None].expand(-1, depth)).transpose(0, 1).float()


def signs(bits: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Bits as -1 and +1."""
    return (2 * bits - 1).to(dtype)


def code_embedding(
    spec: TokenSpec, dim: int, hidden: bool = False
) -> NumberEmbedding | BitEmbedding | DepthTable:
    """A module from discrete codes (B, n, *trailing) to vectors (B, n, D). With `hidden` it takes
    which codes are known as well, (B, n) bool. Raises ValueError for codes of another kind."""
    if bits := bits_of(spec):
        return BitEmbedding(bits, dim, hidden)
    if spec.depth:
        return DepthTable((spec.vocab,) * spec.depth, dim, hidden=hidden)
    return NumberEmbedding(spec.vocab, dim, hidden)


def bits_of(spec: TokenSpec) -> int:
    """How many bits a position holds; 0 if it holds numbers. Raises ValueError for codes of another
    kind."""
    stack, bits = spec.depth, spec.channels
    if spec.vocab < 2 or (bits and (stack or spec.vocab != 2)):
        raise ValueError(f"codes must be numbers or bits at each position, got {spec}")
    return spec.channels
