"""VQGAN: images to one grid of codes and back, as it first was and as LlamaGen has it.

Esser et al. 2020 (arXiv:2012.09841); Sun et al. 2024 (arXiv:2406.06525), whose codebook has only 8
dimensions and is l2-normalised. The convolutions are `nn.autoencoder`. The first one also codes
maps of pictures (`tokenizers.maps`), and may draw its codes (`quantize.gumbel`).

Letters: B images, H, W image size, h, w code grid, Z latent channels, C codebook dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from smalti.codes import TokenSpec
from smalti.config import check
from smalti.nn.autoencoder import Decoder, Encoder, levels_at
from smalti.tokenizers.base import Reconstruction
from smalti.tokenizers.maps import Map, picture_of, planes_of
from smalti.tokenizers.one_grid import ConvConfig, ConvTokenizer
from smalti.tokenizers.quantize.gumbel import GumbelQuantizer
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
    gumbel: bool = False
    """Whether codes are drawn while it is trained, and not the nearest rows."""
    map: Map = ""
    """Which map of a picture the codes are of; '': of the picture itself."""
    kinds: int = 0
    """Of a segmentation, how many kinds of things it tells apart."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, several=("vocab",), positive=("dim",), counts=("kinds",))
        if (self.map == "segmentation") != (1 < self.kinds <= 256):
            raise ValueError(
                "kinds must be from 2 to 256 of a segmentation and 0 of all else, got "
                f"map {self.map!r} and kinds {self.kinds}"
            )

    @property
    def of_map(self) -> Map:
        return self.map

    @property
    def relaxed(self) -> bool:
        return self.gumbel

    @property
    def planes(self) -> int:
        """Numbers that the convolutions see of a pixel."""
        return self.kinds or (1 if self.map else 3)

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
        self.map, self.kinds, self.relaxed = config.map, config.kinds, config.relaxed
        self.encoder = Encoder(config, attention=levels, planes=config.planes)
        self.decoder = Decoder(config, attention=levels, planes=config.planes)
        if config.gumbel:
            self.quantize = GumbelQuantizer(config.vocab, config.dim)
        else:
            self.quantize = VectorQuantizer(
                config.vocab, config.dim, config.l2_norm, config.plain_codes
            )
        self.quant_conv = nn.Conv2d(config.latent, config.dim, 1)
        self.post_quant_conv = nn.Conv2d(config.dim, config.latent, 1)

    @property
    def codebook(self) -> nn.Module | None:
        return None if self.config.gumbel else self.quantize

    def seen(self, images: Tensor) -> Tensor:
        return picture_of(planes_of(images, self.map, self.kinds), self.map)

    def target(self, images: Tensor) -> Tensor:
        return planes_of(images, self.map, self.kinds) if self.kinds else self.seen(images)

    def latent(self, images: Tensor) -> Tensor:
        """(B, C, h, w) before quantization."""
        planes = planes_of(images, self.map, self.kinds)
        return super().latent((planes + 1) / 2 if self.config.unit else planes)

    def render(self, latent: Tensor) -> Tensor:
        """Codebook vectors (B, C, h, w) to images (B, 3, H, W), not clamped; of a segmentation to
        logits of kinds (B, K, H, W)."""
        planes = super().render(latent)
        planes = 2 * planes - 1 if self.config.unit else planes
        return planes if self.kinds else picture_of(planes, self.map)

    def forward(self, images: Tensor, entropy: bool = False) -> Reconstruction:
        out = super().forward(images, entropy)
        return out._replace(images=picture_of(out.images, self.map)) if self.kinds else out

    def decode(self, codes: Tensor, spec: TokenSpec | None = None) -> Tensor:
        """Codes (B, h * w) to images (B, 3, H, W), about [-1, 1], not clamped."""
        out = super().decode(codes, spec)
        return picture_of(out, self.map) if self.kinds else out


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


def taming_f16(vocab: int = 1024, size: int = 256) -> VQGANConfig:
    """The first VQGAN: 16 x 16 codes for 256 pixels, out of 1024 or 16384."""
    return VQGANConfig(size=(size, size), vocab=vocab, dim=256, l2_norm=False)


def taming_gumbel_f8(size: int = 256) -> VQGANConfig:
    """The first VQGAN that draws its codes: 32 x 32 codes for 256 pixels, out of 8192."""
    return VQGANConfig(
        size=(size, size),
        multipliers=(1, 1, 2, 4),
        vocab=8192,
        dim=256,
        l2_norm=False,
        gumbel=True,
        deep_attention=True,
    )
