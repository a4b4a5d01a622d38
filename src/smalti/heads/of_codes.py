"""The head that draws discrete codes at a stroke: a softmax for a number, a Bernoulli for a bit."""

from __future__ import annotations

from smalti.codes import TokenSpec
from smalti.heads.bitwise import BitwiseHead
from smalti.heads.categorical import CategoricalHead
from smalti.nn.code_embedding import bits_of


def head_of(spec: TokenSpec, dim: int, bias: bool = False) -> CategoricalHead | BitwiseHead:
    """A head from hidden states of width `dim` to discrete codes. Raises ValueError for codes of
    another kind than one number or bits at each position."""
    if bits := bits_of(spec):
        return BitwiseHead(dim, bits, bias)
    return CategoricalHead(dim, spec.vocab, bias)
