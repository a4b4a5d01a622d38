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
STEP = 16
"""Widths over depth are multiples of it."""


def head_of(
    spec: TokenSpec, dim: int, bias: bool = False, depth_layers: int = 1, depth_dim: int = 0
) -> CategoricalHead | BitwiseHead | DepthHead:
    """A head from hidden states of width `dim` to discrete codes.

    A stack of codes has one of `depth_layers` of width `depth_dim`, 0 for half of `dim`: layers and
    classifier run for each code of it, and so narrow that a stack of four costs at most a third of
    a model of twelve layers. Raises ValueError for codes of another kind than numbers or bits at
    each position.
    """
    if bits := bits_of(spec):
        return BitwiseHead(dim, bits, bias)
    if not spec.depth:
        return CategoricalHead(dim, spec.vocab, bias)
    width = depth_dim or max(dim // 2 // STEP * STEP, STEP)
    config = DepthConfig(
        layers=depth_layers,
        heads=max(n for n in range(1, max(width // HEAD_DIM, 1) + 1) if width % n == 0),
        dim=width,
        ffn_dim=feed_forward_width(width, STEP),
        bias=bias,
    )
    sizes = (spec.vocab,) * spec.depth
    return DepthHead(sizes, config, DepthTable(sizes[:-1] or sizes, width), dim)
