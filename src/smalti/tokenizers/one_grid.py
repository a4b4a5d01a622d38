"""What tokenizers of one grid of codes share: a quantizer between an encoder and a decoder.

A tokenizer says what is quantized (`latent`), by what (`quantize`), and what becomes of it
(`render`); encoding, decoding and training follow. Its network stands in its own file.

Letters: B images, H, W image size, h, w code grid, Z channels of the encoder, C of latents.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from smalti.codes import TokenSpec
from smalti.nn import autoencoder
from smalti.tokenizers.base import (
    ImageTokenizer,
    Reconstruction,
    TokenizerConfig,
    check_images,
    check_latent,
)


@dataclass(frozen=True)
class GridConfig(TokenizerConfig):
    """What the settings of tokenizers of one grid have in common."""

    @property
    def factor(self) -> int:
        """Image pixels per code, along one side."""
        raise NotImplementedError

    @property
    def grid(self) -> tuple[int, int]:
        """Height and width in codes."""
        height, width = self.size
        return height // self.factor, width // self.factor


def check_levels(config: Any) -> None:
    """Raise ValueError unless a network, each level of which but the last halves the size, has
    levels, and images a whole number of codes."""
    if not config.multipliers or min(config.multipliers) < 1:
        raise ValueError(
            f"multipliers must be one or more positive integers, got {config.multipliers}"
        )
    if any(side % config.factor for side in config.size):
        raise ValueError(f"size must be multiples of {config.factor} pixels, got {config.size}")


class GridTokenizer(ImageTokenizer):
    """A `Tokenizer`: images (B, 3, H, W) in [-1, 1] to codes (B, h * w, *trailing), row by row, and
    back."""

    any_grid = True
    quantize: Any
    """From latents (B, C, h, w) to codes (B, h, w, *trailing) by `encode`, and back by `decode`."""

    def latent(self, images: Tensor) -> Tensor:
        """(B, C, h, w) before quantization."""
        raise NotImplementedError

    def render(self, latent: Tensor) -> Tensor:
        """What stands for codes, (B, C, h, w), to images (B, 3, H, W), not clamped."""
        raise NotImplementedError

    def forward(self, images: Tensor, entropy: bool = False) -> Reconstruction:
        z = self.latent(images)  # (B, C, h, w)
        quantized = self.quantize(z, entropy)
        return Reconstruction(self.render(quantized.latent.to(z.dtype)), z, quantized)

    def encode(self, images: Tensor, spec: TokenSpec | None = None) -> Tensor:
        """Images (B, 3, H, W) to codes (B, h * w, *trailing). Raises ValueError for images of
        another size than that of `spec`."""
        check_images(images, self.size_of(spec))
        return self.quantize.encode(check_latent(self.latent(images))).flatten(1, 2)

    def embedded(self, codes: Tensor) -> Tensor:
        return self.quantize.decode(codes.unflatten(1, self.spec.grids[0]))

    def decode(self, codes: Tensor, spec: TokenSpec | None = None) -> Tensor:
        """Codes (B, h * w, *trailing) to images (B, 3, H, W), about [-1, 1], not clamped."""
        grid = codes.unflatten(1, self.gives(spec).grids[0])  # (B, h, w, *trailing)
        return self.render(self.quantize.decode(grid))


class StackTokenizer(GridTokenizer):
    """One whose codes of a position are a stack of refinements (`quantize.residual`), of which the
    first few are a coarser picture."""

    @property
    def levels(self) -> int:
        return self.spec.depth

    @property
    def codebook(self) -> nn.Module:
        return self.quantize

    def decode(
        self, codes: Tensor, spec: TokenSpec | None = None, depth: int | None = None
    ) -> Tensor:
        """Codes (B, h * w, D) to images (B, 3, H, W), about [-1, 1], not clamped; of the first
        `depth` depths, which is all if None. Raises ValueError unless there are so many."""
        grid = codes.unflatten(1, self.gives(spec).grids[0])  # (B, h, w, D)
        return self.render(self.quantize.partial(grid, self.levels if depth is None else depth))

    def preview(self, codes: Tensor, levels: int, spec: TokenSpec | None = None) -> Tensor:
        return self.decode(codes, spec, levels)


@dataclass(frozen=True)
class ConvConfig(GridConfig):
    """The settings of the convolutions of the first VQGAN, `nn.autoencoder`."""

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
    """Channels Z between the convolutions and the quantizer."""
    attention: bool = True
    """Attention at the deepest level and in the middle."""
    dropout: float = 0.0
    """Dropout inside the residual blocks."""

    def __post_init__(self) -> None:
        autoencoder.check_shape(self)

    @property
    def factor(self) -> int:
        return autoencoder.factor(self)


class ConvTokenizer(GridTokenizer):
    """One whose latents pass a 1x1 convolution on either side of the quantizer, as in the first
    VQGAN."""

    encoder: nn.Module
    decoder: nn.Module
    quant_conv: nn.Module
    post_quant_conv: nn.Module

    def latent(self, images: Tensor) -> Tensor:
        return self.quant_conv(self.encoder(images))

    def render(self, latent: Tensor) -> Tensor:
        return self.decoder(self.post_quant_conv(latent))
