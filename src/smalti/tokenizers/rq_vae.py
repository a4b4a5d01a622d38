"""RQ-VAE: images to a small grid of stacks of codes, each code a refinement of those before it.

Lee, Kim, Kim, Cho, Han 2022, "Autoregressive Image Generation using Residual Quantization"
(arXiv:2203.01941); DnD-Transformer (Chen et al. 2024, arXiv:2410.01912) has one with a table for
each depth.

Unusual: 256 pixels are 8 x 8 positions only, of four codes each (`quantize.residual`), and the
first few codes of every position are a coarser picture. Its convolutions are those of the first
VQGAN (`nn.autoencoder`), one level deeper.

Letters: B images, H, W image size, h, w code grid, N = h * w positions, D depths, r x r latent
cells of a position, Z latent channels, C codebook dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from smalti.codes import TokenSpec
from smalti.config import check
from smalti.nn.autoencoder import Decoder, Encoder, levels_at
from smalti.tokenizers.base import check_latent
from smalti.tokenizers.one_grid import ConvConfig, ConvTokenizer, StackTokenizer, check_levels
from smalti.tokenizers.quantize.residual import ResidualQuantizer


@dataclass(frozen=True)
class RQVAEConfig(ConvConfig):
    multipliers: tuple[int, ...] = (1, 1, 2, 2, 4, 4)
    """Width of each level as a multiple of `channels`; each but the last halves the size."""
    vocab: int = 16384
    """Codes of a table."""
    dim: int = 256
    """Channels of a latent cell; a code has `cells` times `cells` as many dimensions C."""
    depth: int = 4
    """Codes at each position, D."""
    shared: bool = True
    """One table for all depths; if not, each has its own."""
    cells: int = 1
    """Latent cells of each side that a position of codes covers, r."""
    attention_at: tuple[int, ...] = (32,)
    """Pixels per cell, along one side, of the levels with attention."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, several=("vocab",), positive=("dim", "depth", "cells"))
        check_levels(self)

    @property
    def factor(self) -> int:
        """Image pixels per position, along one side."""
        return super().factor * self.cells

    @property
    def spec(self) -> TokenSpec:
        return TokenSpec((self.grid,), self.vocab, self.depth)


class RQVAE(StackTokenizer, ConvTokenizer):
    """A `Tokenizer`: images (B, 3, H, W) in [-1, 1] to codes (B, h * w, D), row by row, and
    back."""

    def __init__(self, config: RQVAEConfig) -> None:
        super().__init__()
        self.config, self.spec = config, config.spec
        levels = levels_at(config, config.attention_at)
        self.encoder = Encoder(config, attention=levels)
        self.decoder = Decoder(config, levels)
        width = config.dim * config.cells**2
        self.quantize = ResidualQuantizer(config.vocab, width, config.depth, config.shared)
        self.quant_conv = nn.Conv2d(config.latent, config.dim, 1)
        self.post_quant_conv = nn.Conv2d(config.dim, config.latent, 1)

    def latent(self, images: Tensor) -> Tensor:
        """(B, C, h, w) before quantization."""
        return fold(super().latent(images), self.config.cells)

    def render(self, latent: Tensor) -> Tensor:
        """Sums of codes (B, C, h, w) to images (B, 3, H, W), not clamped."""
        return super().render(unfold(latent, self.config.cells))

    def soft_codes(
        self, images: Tensor, temperature: float, uniform: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Images (B, 3, H, W) to soft codes (B, h * w, D, V), of a softmax of distances, and the
        codes (B, h * w, D) that go with them, which `uniform` numbers (B, h * w, D) draw."""
        z = check_latent(self.latent(images))
        if uniform is not None:
            uniform = uniform.unflatten(1, z.shape[2:])
        soft, codes = self.quantize.soft(z, temperature, uniform)
        return soft.flatten(1, 2), codes.flatten(1, 2)


def fold(x: Tensor, cells: int) -> Tensor:
    """Maps (B, C, r h, r w) with the r x r cells of a position behind each other, row by row:
    (B, r r C, h, w)."""
    if cells == 1:
        return x
    x = x.unflatten(3, (-1, cells)).unflatten(2, (-1, cells))  # (B, C, h, r, w, r)
    return x.permute(0, 3, 5, 1, 2, 4).flatten(1, 3)


def unfold(x: Tensor, cells: int) -> Tensor:
    """What `fold` had: (B, C, r h, r w)."""
    if cells == 1:
        return x
    x = x.unflatten(1, (cells, cells, -1))  # (B, r, r, C, h, w)
    return x.permute(0, 3, 4, 1, 5, 2).flatten(4, 5).flatten(2, 3)


def tiny() -> RQVAEConfig:
    """A model of a few thousand parameters, for tests."""
    return RQVAEConfig(
        size=(16, 16),
        channels=8,
        multipliers=(1, 2, 2),
        blocks=1,
        latent=16,
        vocab=32,
        dim=4,
        depth=3,
        attention_at=(4,),
    )


def f32(depth: int = 4, size: int = 256) -> RQVAEConfig:
    """The published ones of RQ-Transformer: 8 x 8 positions for 256 pixels, one table for all
    depths."""
    return RQVAEConfig(size=(size, size), depth=depth)


def f16(depth: int = 2, size: int = 256) -> RQVAEConfig:
    """The published ones of DnD-Transformer: 16 x 16 positions for 256 pixels, a table for each
    depth."""
    return RQVAEConfig(
        size=(size, size),
        multipliers=(1, 1, 2, 2, 4),
        depth=depth,
        shared=False,
        attention_at=(16,),
    )


SIZES = {"f32": f32, "f16": f16}
"""The published ones, by pixels per position."""
