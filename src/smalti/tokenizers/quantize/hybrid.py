"""Hybrid quantization: scales of codes, coarse to fine, and then all that they leave over.

HART (Tang et al. 2024, arXiv:2410.10812). Unusual: what completes the last scale is not quantized.
A picture's codes are vectors, one for each position of each scale: rows of the codebook, but at the
last scale the residual as it is, which is its nearest row and a continuous rest. So the codes of
all scales, the rest and the latent itself can all be told from the vectors. In training the rest is
added to some of the pictures only, so that the codes alone are a picture too.

Letters: B images, C codebook dimensions, V codebook entries, K scales of n_k codes, N codes of all
scales, h, w the last and largest grid.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from smalti.tokenizers.quantize.multiscale import Grid, MultiScaleQuantizer
from smalti.tokenizers.quantize.vq import Quantized

RATE = 0.02
"""Of the running mean of the rest's deviation."""


class HybridQuantizer(MultiScaleQuantizer):
    """Latents (B, C, h, w) to vectors (B, N, C), and back without loss but for rounding.

    `discrete` is the share of pictures that training shows without the rest. The convolution of the
    last scale serves these alone: the residual is added as it is. Other settings are those of
    `MultiScaleQuantizer`.
    """

    rest_std: Tensor
    """The standard deviation of the rest, a running mean over training."""

    def __init__(
        self,
        grids: tuple[Grid, ...],
        vocab: int,
        dim: int,
        phis: int = 4,
        phi_ratio: float = 0.5,
        l2_norm: bool = False,
        discrete: float = 0.5,
    ) -> None:
        super().__init__(grids, vocab, dim, phis, phi_ratio, l2_norm)
        self.discrete = discrete
        self.register_buffer("rest_std", torch.ones(()))

    def settings(self) -> dict[str, int | float]:
        """What a model of these codes has to know of it beside the scales."""
        return super().settings() | {"vocab": self.vocab}

    def embed(self, codes: Tensor) -> Tensor:
        """The vectors (B, n, C) that codes (B, n) stand for; vectors stand for themselves."""
        return codes if codes.is_floating_point() else super().embed(codes)

    def codes(self, vectors: Tensor) -> Tensor:
        """The nearest codes (B, n) of vectors (B, n, C), which at every scale are those that were
        found."""
        with torch.no_grad(), torch.autocast(vectors.device.type, enabled=False):
            return self.nearest(vectors.float())

    def walk(self, z: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """As of scales; in training it measures the rest."""
        rows = codes = None
        for rows, codes, latent in super().walk(z):
            yield rows, codes, latent
        if self.training and rows is not None and codes is not None:
            with torch.no_grad():
                found = (rows - self.embed(codes)).square().mean().sqrt()
                self.rest_std.lerp_(found.to(self.rest_std), RATE)

    def encode(self, z: Tensor) -> Tensor:
        """Vectors (B, N, C), float32, of latents (B, C, h, w)."""
        with torch.no_grad(), torch.autocast(z.device.type, enabled=False):
            walked = list(self.walk(z.float()))
            rows = [self.embed(codes) for _, codes, _ in walked[:-1]]
            return torch.cat([*rows, walked[-1][0]], 1)

    def decode(self, codes: Tensor, scales: int | None = None) -> Tensor:
        """Latents (B, C, h, w) of the first `scales` scales (all, if None) of vectors (B, N, C), or
        of codes (B, N) alone."""
        if not codes.is_floating_point() or scales not in (None, len(self.grids)):
            return super().decode(codes, scales)
        coarse = super().decode(codes, len(self.grids) - 1)
        rows = codes[:, -self.sizes[-1] :]  # (B, n, C)
        return coarse + rows.transpose(1, 2).unflatten(2, self.grids[-1])

    def forward(self, z: Tensor, entropy: bool = False) -> Quantized:
        """Quantize for training, with losses as those of scales. The latent is that of the codes in
        a share of the pictures, else `z`; in evaluation always `z`."""
        found = super().forward(z, entropy)
        share = self.discrete if self.training else 0.0
        alone = torch.rand(len(z), 1, 1, 1, device=z.device) < share
        return found._replace(latent=torch.where(alone, found.latent, z.float()))
