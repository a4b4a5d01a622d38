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

from torch import Tensor, nn

from smalti.codes import TokenSpec
from smalti.nn import autoencoder
from smalti.nn.autoencoder import Decoder, Encoder
from smalti.tokenizers.base import (
    ImageTokenizer,
    Reconstruction,
    TokenizerConfig,
    check_images,
    check_latent,
)
from smalti.tokenizers.quantize.fsq import FiniteScalar, check_levels


@dataclass(frozen=True)
class FSQConfig(TokenizerConfig):
    patch: int = 1
    """Pixels of each side folded into channels before the first convolution; 1 as published, 2
    makes small models several times faster."""
    channels: int = 128
    """Width of the first level."""
    multipliers: tuple[int, ...] = (1, 1, 2, 2, 4)
    """Width of each level as a multiple of `channels`; each but the last halves the size."""
    decoder_multipliers: tuple[int, ...] = ()
    """The same for the decoder's levels, as many; () = those of the encoder."""
    blocks: int = 2
    """Residual blocks per level in the encoder; the decoder has one more."""
    latent: int = 256
    """Channels Z between the convolutions and the levels."""
    levels: tuple[int, ...] = (8, 8, 8, 6, 5)
    """Levels of each of the K channels of a code, 2 to 512; there are as many codes as their
    product."""
    attention: bool = True
    """Attention at the deepest level and in the middle."""
    dropout: float = 0.0
    """Dropout inside the residual blocks."""

    def __post_init__(self) -> None:
        autoencoder.check_shape(self)
        check_levels(self.levels)

    @property
    def factor(self) -> int:
        """Image pixels per code, along one side."""
        return autoencoder.factor(self)

    @property
    def spec(self) -> TokenSpec:
        h, w = self.size
        return TokenSpec(((h // self.factor, w // self.factor),), math.prod(self.levels))


class FSQ(ImageTokenizer):
    """A `Tokenizer`: images (B, 3, H, W) in [-1, 1] to codes (B, h * w), row by row, and back."""

    any_grid = True

    def __init__(self, config: FSQConfig) -> None:
        super().__init__()
        self.config, self.spec = config, config.spec
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.quantize = FiniteScalar(config.levels)
        self.quant_conv = nn.Conv2d(config.latent, len(config.levels), 1)
        self.post_quant_conv = nn.Conv2d(len(config.levels), config.latent, 1)

    def latent(self, images: Tensor) -> Tensor:
        """(B, K, h, w) before quantization."""
        return self.quant_conv(self.encoder(images))

    def render(self, latent: Tensor) -> Tensor:
        """Levels from -1 to 1, (B, K, h, w) to images (B, 3, H, W), not clamped."""
        return self.decoder(self.post_quant_conv(latent))

    def forward(self, images: Tensor, entropy: bool = False) -> Reconstruction:
        z = self.latent(images)  # (B, K, h, w)
        quantized = self.quantize(z, entropy)
        return Reconstruction(self.render(quantized.latent.to(z.dtype)), z, quantized)

    def encode(self, images: Tensor, spec: TokenSpec | None = None) -> Tensor:
        """Images (B, 3, H, W) to codes (B, h * w). Raises ValueError for images of another size
        than that of `spec`."""
        check_images(images, self.size_of(spec))
        return self.quantize.encode(check_latent(self.latent(images))).flatten(1)

    def decode(self, codes: Tensor, spec: TokenSpec | None = None) -> Tensor:
        """Codes (B, h * w) to images (B, 3, H, W), about [-1, 1], not clamped."""
        grid = codes.unflatten(1, self.gives(spec).grids[0])  # (B, h, w)
        return self.render(self.quantize.decode(grid))


def tiny() -> FSQConfig:
    """A model of a few thousand parameters, for tests."""
    return FSQConfig(
        size=(16, 16), channels=8, multipliers=(1, 2, 2), blocks=1, latent=16, levels=(4, 3, 2)
    )
