"""Codes as a model reads them: rows of a table for numbers, a product with +-1 for bits.

Unusual: K bits need no table of 2^K rows. A vector is the sum of K rows, each added or taken away
(MaskBit, Weber et al. 2024, arXiv:2409.16211; Infinity, Han et al. 2024, arXiv:2412.04431).
B images, n positions, D width, V codebook entries, K bits.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

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


def signs(bits: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Bits as -1 and +1."""
    return (2 * bits - 1).to(dtype)


def code_embedding(
    spec: TokenSpec, dim: int, hidden: bool = False
) -> NumberEmbedding | BitEmbedding:
    """A module from discrete codes (B, n, *trailing) to vectors (B, n, D). With `hidden` it takes
    which codes are known as well, (B, n) bool. Raises ValueError for codes of another kind."""
    if bits := bits_of(spec):
        return BitEmbedding(bits, dim, hidden)
    return NumberEmbedding(spec.vocab, dim, hidden)


def bits_of(spec: TokenSpec) -> int:
    """How many bits a position holds; 0 if it holds a number. Raises ValueError for codes of
    another kind."""
    if spec.depth or spec.vocab < 2 or (spec.channels and spec.vocab != 2):
        raise ValueError(f"codes must be one number or bits at each position, got {spec}")
    return spec.channels
