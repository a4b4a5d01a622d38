"""ViT-VQGAN: images to one grid of codes and back, by transformers alone.

Yu, Li, Koh, Zhang, Pang, Qin, Ku, Xu, Baldridge, Wu 2021, "Vector-quantized Image Modeling with
Improved VQGAN" (arXiv:2110.04627); Parti's tokenizer.

Unusual: patches in the place of convolutions, so that encoder and decoder are as fast as products
are; and a codebook of few dimensions, in which only directions count. A code is looked up among
vectors of 32 numbers that a product makes of hundreds, and another product makes hundreds of it.

There is no official code. [M], remembered only: all sizes, a layer of tanh between two products
behind the encoder and behind the decoder. Not known and decided here: positions are sines and
cosines of row and column, so that other sizes than that of training are possible.

Letters: B images, H, W image size, h, w code grid, N = h * w, C codebook dimensions, V codes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.codes import TokenSpec
from smalti.config import check
from smalti.nn.linear import Linear
from smalti.nn.vision import Block, TowerConfig
from smalti.tokenizers.one_grid import GridConfig, GridTokenizer
from smalti.tokenizers.quantize.vq import VectorQuantizer


@dataclass(frozen=True)
class ViTVQGANConfig(GridConfig):
    patch: int = 8
    """Pixels of a code, along one side."""
    layers: int = 12
    """Transformer blocks of the encoder."""
    heads: int = 12
    """Attention heads of these."""
    width: int = 768
    """Their width, a multiple of 4 and of `heads`; the feed-forward is four times as wide."""
    decoder_layers: int = 12
    """Transformer blocks of the decoder."""
    decoder_heads: int = 12
    """Attention heads of these."""
    decoder_width: int = 768
    """Their width."""
    vocab: int = 8192
    """Codes V."""
    dim: int = 32
    """Codebook dimensions C."""
    l2_norm: bool = True
    """Whether only directions of latents and codes count."""

    def __post_init__(self) -> None:
        check(self, several=("vocab",), positive=("patch", "dim"))
        for half in (self.encoder, self.decoder):
            if half.dim % 4:
                raise ValueError(f"widths must be multiples of 4, got {half.dim}")
        if any(side % self.patch for side in self.size):
            raise ValueError(f"size must be multiples of {self.patch} pixels, got {self.size}")

    @property
    def factor(self) -> int:
        """Image pixels per code, along one side."""
        return self.patch

    @property
    def encoder(self) -> TowerConfig:
        return TowerConfig(self.layers, self.heads, self.width, 4 * self.width)

    @property
    def decoder(self) -> TowerConfig:
        width = self.decoder_width
        return TowerConfig(self.decoder_layers, self.decoder_heads, width, 4 * width)

    @property
    def spec(self) -> TokenSpec:
        return TokenSpec((self.grid,), self.vocab)


def places(grid: tuple[int, int], dim: int) -> Tensor:
    """Sines and cosines of the row of each cell of a grid, then of its column, of wavelengths from
    2 pi to 10,000 times that: (h * w, D), float32."""
    height, width = grid
    rates = 10_000 ** -(torch.arange(dim // 4) / (dim // 4))  # (D / 4,)
    rows, columns = (torch.arange(n).float()[:, None] * rates for n in (height, width))
    rows, columns = rows[:, None].expand(-1, width, -1), columns.expand(height, -1, -1)
    waves = [wave for angle in (rows, columns) for wave in (angle.sin(), angle.cos())]
    return torch.cat(waves, -1).flatten(0, 1)  # (N, D)


class Transformer(nn.Module):
    """Tokens of a grid, (B, N, before), through blocks of width D, to (B, N, after)."""

    def __init__(self, config: TowerConfig, before: int, after: int) -> None:
        super().__init__()
        dim = config.dim
        self.proj = Linear(before, dim)
        self.layers = nn.ModuleList([Block(config) for _ in range(config.layers)])
        self.norm = nn.LayerNorm(dim, config.norm_eps)
        self.wide, self.out = Linear(dim, config.ffn_dim), Linear(config.ffn_dim, after)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        x = self.proj(x)  # (B, N, D)
        x = x + places(grid, x.shape[-1]).to(x)
        for layer in self.layers:
            x = layer(x)
        return self.out(torch.tanh(self.wide(self.norm(x))))  # (B, N, after)


class ViTVQGAN(GridTokenizer):
    """A `Tokenizer`: images (B, 3, H, W) in [-1, 1] to codes (B, h * w), row by row, and back."""

    config: ViTVQGANConfig

    def __init__(self, config: ViTVQGANConfig) -> None:
        super().__init__()
        self.config, self.spec = config, config.spec
        pixels = 3 * config.patch**2
        self.encoder = Transformer(config.encoder, pixels, config.dim)
        self.quantize = VectorQuantizer(config.vocab, config.dim, config.l2_norm)
        self.decoder = Transformer(config.decoder, config.dim, pixels)
        self.init_weights()

    def init_weights(self) -> None:
        """Xavier for products; biases zero; the quantizer its own."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    @property
    def codebook(self) -> nn.Module:
        return self.quantize

    @property
    def last_layer(self) -> Tensor:
        return self.decoder.out.weight

    def latent(self, images: Tensor) -> Tensor:
        """(B, C, h, w) before quantization."""
        cells = F.pixel_unshuffle(images, self.config.patch)  # (B, 3 p p, h, w)
        grid = (cells.shape[2], cells.shape[3])
        z = self.encoder(cells.flatten(2).transpose(1, 2), grid)  # (B, N, C)
        return z.transpose(1, 2).unflatten(2, grid)

    def render(self, latent: Tensor) -> Tensor:
        """What stands for codes, (B, C, h, w), to images (B, 3, H, W), not clamped."""
        grid = (latent.shape[2], latent.shape[3])
        cells = self.decoder(latent.flatten(2).transpose(1, 2), grid)  # (B, N, 3 p p)
        cells = cells.transpose(1, 2).unflatten(2, grid)
        return F.pixel_shuffle(cells, self.config.patch)


def tiny() -> ViTVQGANConfig:
    """A tokenizer of some thousand parameters, for tests."""
    return ViTVQGANConfig(
        size=(16, 16),
        patch=4,
        layers=1,
        heads=2,
        width=16,
        decoder_layers=1,
        decoder_heads=2,
        decoder_width=16,
        vocab=32,
        dim=4,
    )


SIZES = {"small": (8, 8, 512), "base": (12, 12, 768), "large": (32, 16, 1280)}
"""Layers, heads and width of a half, as they are remembered."""


def vit_vqgan(encoder: str, decoder: str, size: int = 256) -> ViTVQGANConfig:
    """A published one: 32 x 32 codes for 256 pixels, of two of `SIZES`. Raises KeyError if there is
    no such size."""
    return ViTVQGANConfig((size, size), 8, *SIZES[encoder], *SIZES[decoder])
