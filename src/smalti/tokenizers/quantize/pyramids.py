"""What codes scales, coarse to fine, each what the coarser ones left over: a contract, and which of
the quantizers that keep it has the codes of a `TokenSpec`."""

from __future__ import annotations

import math
from typing import Protocol

from torch import Tensor

from smalti.codes import TokenSpec
from smalti.tokenizers.quantize.bsq import MultiScaleBSQ
from smalti.tokenizers.quantize.multiscale import (
    Corrected,
    MultiScaleQuantizer,
    check_grids,
    check_scales,
)


class Pyramid(Protocol):
    """What a model of scales asks of its tokenizer's quantizer.

    B images, n positions of a scale, C dimensions of their vectors.
    """

    def embed(self, codes: Tensor) -> Tensor:
        """The vectors (B, n, C) that codes (B, n, *trailing) stand for."""
        ...

    def empty(self, batch: int, like: Tensor) -> Tensor:
        """The latent of no codes, on the device and in the dtype of `like`."""
        ...

    def add(self, latent: Tensor, vectors: Tensor, k: int) -> Tensor:
        """The latent and what vectors (B, n, C) of scale k add to it."""
        ...

    def shrink(self, latent: Tensor, k: int) -> Tensor:
        """What predicts scale k, (B, n, C), of the latent of the scales before it."""
        ...

    def inputs(self, codes: Tensor) -> Tensor:
        """What predicts all scales but the first, (B, N - n_0, C), of codes (B, N, *trailing)."""
        ...

    def correct_codes(self, codes: Tensor, uniform: Tensor, strength: Tensor) -> Corrected:
        """What a model learns from that reads codes (B, N, *trailing) of which some are wrong:
        where `uniform`, of that shape, is below the strength of the scale, (B, scales)."""
        ...

    def settings(self) -> dict[str, int | float]:
        """What `pyramid_of` needs beside the codes, by its names."""
        ...


def pyramid_of(
    spec: TokenSpec, latent: int, phis: int = 4, phi_ratio: float = 0.5
) -> MultiScaleQuantizer | MultiScaleBSQ:
    """The quantizer with these codes: one of a table of `latent` dimensions and `phis`
    convolutions, or one of bits, `latent` of them in a cell, of which a position has one or more.

    Raises ValueError for codes of another kind.
    """
    check_pyramid(spec, latent, phis, phi_ratio)
    if spec.channels:
        return MultiScaleBSQ(spec.grids, latent, math.isqrt(spec.channels // latent))
    return MultiScaleQuantizer(spec.grids, spec.vocab, latent, phis, phi_ratio)


def check_pyramid(spec: TokenSpec, latent: int, phis: int = 4, phi_ratio: float = 0.5) -> None:
    """Raise ValueError unless these make a quantizer."""
    if not spec.channels:
        return check_scales(spec.grids, spec.vocab, latent, phis, phi_ratio)
    check_grids(spec.grids)
    cells = math.isqrt(spec.channels // max(latent, 1))
    if spec.vocab != 2 or latent < 1 or latent * cells**2 != spec.channels:
        raise ValueError(
            "codes of bits have vocab 2 and as many channels as latent times 1, 4, 9 or so, "
            f"got vocab {spec.vocab}, channels {spec.channels}, latent {latent}"
        )
