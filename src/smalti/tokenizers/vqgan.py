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
from smalti.nn.autoencoder import Decoder, Encoder, levels_at
from smalti.tokenizers.one_grid import ConvConfig, ConvTokenizer
from smalti.tokenizers.quantize.vq import VectorQuantizer


@dataclass(frozen=True)
class VQGANConfig(ConvConfig):
    vocab: int = 16384
    """Codebook entries."""
    dim: int = 8
    """Codebook dimensions C."""
    l2_norm: bool = True
    """Normalise latents and codebook rows when they are compared and decoded."""
    plain_codes: bool = False
    """With `l2_norm`, normalise only what is decoded, and compare latents and codebook rows as they
    are; transformers' Janus."""
    deep_attention: bool = True
    """With `attention`, whether the deepest level has it; False: the middle alone."""
    attention_at: tuple[int, ...] = ()
    """With `attention`, pixels per cell, along one side, of other levels that have it."""
    unit: bool = False
    """Whether the convolutions see pixels in [0, 1], and not in [-1, 1]."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, several=("vocab",), positive=("dim",))

    @property
    def spec(self) -> TokenSpec:
        return TokenSpec((self.grid,), self.vocab)


class VQGAN(ConvTokenizer):
    """A `Tokenizer`: images (B, 3, H, W) in [-1, 1] to codes (B, h * w), row by row, and back."""

    def __init__(self, config: VQGANConfig) -> None:
        super().__init__()
        self.config, self.spec = config, config.spec
        deepest = [config.factor] if config.deep_attention else []
        levels = levels_at(config, [*deepest, *config.attention_at])
        self.encoder = Encoder(config, attention=levels)
        self.decoder = Decoder(config, attention=levels)
        self.quantize = VectorQuantizer(
            config.vocab, config.dim, config.l2_norm, config.plain_codes
        )
        self.quant_conv = nn.Conv2d(config.latent, config.dim, 1)
        self.post_quant_conv = nn.Conv2d(config.dim, config.latent, 1)

    @property
    def codebook(self) -> nn.Module:
        return self.quantize

    def latent(self, images: Tensor) -> Tensor:
        """(B, C, h, w) before quantization."""
        return super().latent((images + 1) / 2 if self.config.unit else images)

    def render(self, latent: Tensor) -> Tensor:
        """Codebook vectors (B, C, h, w) to images (B, 3, H, W), not clamped."""
        images = super().render(latent)
        return 2 * images - 1 if self.config.unit else images


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
