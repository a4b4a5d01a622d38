"""A VQGAN without a codebook: between its convolutions, each channel is rounded to a few levels.

Mentzer, Minnen, Agustsson, Tschannen 2023, "Finite Scalar Quantization: VQ-VAE Made Simple"
(arXiv:2309.15505); its convolutions are `nn.autoencoder`.

Unusual: no loss beside that of the picture. A code is a number, whose digits are the levels of its
few channels (`quantize.fsq`), so models of plain codes read and draw it.

Letters: B images, H, W image size, h, w code grid, Z latent channels, K channels of a code.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import nn

from smalti.codes import TokenSpec
from smalti.nn.autoencoder import Decoder, Encoder
from smalti.tokenizers.one_grid import ConvConfig, ConvTokenizer
from smalti.tokenizers.quantize.fsq import FiniteScalar, check_levels


@dataclass(frozen=True)
class FSQConfig(ConvConfig):
    levels: tuple[int, ...] = (8, 8, 8, 6, 5)
    """Levels of each of the K channels of a code, 2 to 512; there are as many codes as their
    product."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_levels(self.levels)

    @property
    def spec(self) -> TokenSpec:
        return TokenSpec((self.grid,), math.prod(self.levels))


class FSQ(ConvTokenizer):
    """A `Tokenizer`: images (B, 3, H, W) in [-1, 1] to codes (B, h * w), row by row, and back."""

    def __init__(self, config: FSQConfig) -> None:
        super().__init__()
        self.config, self.spec = config, config.spec
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.quantize = FiniteScalar(config.levels)
        self.quant_conv = nn.Conv2d(config.latent, len(config.levels), 1)
        self.post_quant_conv = nn.Conv2d(len(config.levels), config.latent, 1)


def tiny() -> FSQConfig:
    """A model of a few thousand parameters, for tests."""
    return FSQConfig(
        size=(16, 16), channels=8, multipliers=(1, 2, 2), blocks=1, latent=16, levels=(4, 3, 2)
    )
