"""The head that draws discrete codes: a softmax for a number, a Bernoulli for a bit, and a small
transformer over depth for a stack of numbers."""

from __future__ import annotations

from smalti.codes import TokenSpec
from smalti.heads.bitwise import BitwiseHead
from smalti.heads.categorical import CategoricalHead
from smalti.heads.depth import DepthConfig, DepthHead
from smalti.nn.code_embedding import DepthTable, bits_of
from smalti.nn.llama import feed_forward_width

HEAD_DIM = 64
"""About the width of an attention head over depth."""


def head_of(
    spec: TokenSpec, dim: int, bias: bool = False, depth_layers: int = 1
) -> CategoricalHead | BitwiseHead | DepthHead:
    """A head from hidden states of width `dim` to discrete codes. Raises ValueError for codes of
    another kind than numbers or bits at each position."""
    if bits := bits_of(spec):
        return BitwiseHead(dim, bits, bias)
    if not spec.depth:
        return CategoricalHead(dim, spec.vocab, bias)
    heads = max(n for n in range(1, max(dim // HEAD_DIM, 1) + 1) if dim % n == 0)
    config = DepthConfig(
        layers=depth_layers,
        heads=heads,
        dim=dim,
        ffn_dim=feed_forward_width(dim, 32),
        bias=bias,
    )
    sizes = (spec.vocab,) * spec.depth
    return DepthHead(sizes, config, DepthTable(sizes[:-1] or sizes, dim))
