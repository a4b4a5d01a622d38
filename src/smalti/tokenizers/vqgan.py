"""LlamaGen's VQGAN: images to one grid of codes and back.

Sun et al. 2024 (arXiv:2406.06525) after Esser et al. 2020 (arXiv:2012.09841). Unusual beside the
first VQGAN: a codebook of only 8 dimensions, l2-normalised. Its convolutions are `nn.autoencoder`.

Letters: B images, H, W image size, h, w code grid, Z latent channels, C codebook dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from smalti.codes import TokenSpec
from smalti.config import check
from smalti.nn import autoencoder
from smalti.nn.autoencoder import Decoder, Encoder
from smalti.tokenizers.base import (
    ImageTokenizer,
    Reconstruction,
    TokenizerConfig,
    check_images,
    check_latent,
)
from smalti.tokenizers.quantize.vq import VectorQuantizer


@dataclass(frozen=True)
class VQGANConfig(TokenizerConfig):
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
    """Channels Z between the convolutions and the codebook."""
    vocab: int = 16384
    """Codebook entries."""
    dim: int = 8
    """Codebook dimensions C."""
    l2_norm: bool = True
    """Normalise latents and codebook rows when they are compared and decoded."""
    attention: bool = True
    """Attention at the deepest level and in the middle."""
    deep_attention: bool = True
    """With `attention`, whether the deepest level has it; False: the middle alone."""
    unit: bool = False
    """Whether the convolutions see pixels in [0, 1], and not in [-1, 1]."""
    dropout: float = 0.0
    """Dropout inside the residual blocks."""

    def __post_init__(self) -> None:
        autoencoder.check_shape(self)
        check(self, several=("vocab",), positive=("dim",))

    @property
    def factor(self) -> int:
        """Image pixels per code, along one side."""
        return autoencoder.factor(self)

    @property
    def spec(self) -> TokenSpec:
        h, w = self.size
        return TokenSpec(((h // self.factor, w // self.factor),), self.vocab)


class VQGAN(ImageTokenizer):
    """A `Tokenizer`: images (B, 3, H, W) in [-1, 1] to codes (B, h * w), row by row, and back."""

    any_grid = True

    def __init__(self, config: VQGANConfig) -> None:
        super().__init__()
        self.config, self.spec = config, config.spec
        levels = None if config.deep_attention else ()
        self.encoder = Encoder(config, attention=levels)
        self.decoder = Decoder(config, attention=levels)
        self.quantize = VectorQuantizer(config.vocab, config.dim, config.l2_norm)
        self.quant_conv = nn.Conv2d(config.latent, config.dim, 1)
        self.post_quant_conv = nn.Conv2d(config.dim, config.latent, 1)

    @property
    def codebook(self) -> nn.Module:
        return self.quantize

    def latent(self, images: Tensor) -> Tensor:
        """(B, C, h, w) before quantization."""
        images = (images + 1) / 2 if self.config.unit else images
        return self.quant_conv(self.encoder(images))

    def render(self, latent: Tensor) -> Tensor:
        """Codebook vectors (B, C, h, w) to images (B, 3, H, W), not clamped."""
        images = self.decoder(self.post_quant_conv(latent))
        return 2 * images - 1 if self.config.unit else images

    def forward(self, images: Tensor, entropy: bool = False) -> Reconstruction:
        z = self.latent(images)  # (B, C, h, w)
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


def tiny() -> VQGANConfig:
    """A model of a few thousand parameters, for tests."""
    return VQGANConfig(
        size=(16, 16), channels=8, multipliers=(1, 2, 2), blocks=1, latent=16, vocab=32, dim=4
    )


def vq16(size: int = 256) -> VQGANConfig:
    """The published VQ-16: 16 x 16 codes for 256 pixels, 71.9 M parameters."""
    return VQGANConfig(size=(size, size))


def vq8(size: int = 256) -> VQGANConfig:
    """The published VQ-8: 32 x 32 codes for 256 pixels, 70.1 M parameters."""
    return VQGANConfig(size=(size, size), multipliers=(1, 2, 2, 4))
