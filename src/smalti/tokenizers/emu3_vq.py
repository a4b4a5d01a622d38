"""Emu3's tokenizer: images to one grid of codes and back, by a network that was made for videos.

Wang et al. 2024, "Emu3: Next-Token Prediction is All You Need" (arXiv:2409.18869), as transformers
5.24.0 has it, after MoVQ (Zheng et al. 2022, arXiv:2209.09002).

Unusual: four frames become one grid of codes, and an image is a video that stands still. All
convolutions over time see what was before alone, so of an image the last slice of their weights is
all that counts, and the first frame of what comes back; the other slices, and videos with them, are
left out here. Only where four equal frames become one are whole weights needed. Norms of batches
never change there, so here they are a scale and a shift. The decoder normalises its features and
scales and shifts them, cell by cell, by what stands for the codes.

Letters: B images, H, W image size, h, w code grid, Z latent channels, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.codes import TokenSpec
from smalti.config import check
from smalti.nn.autoencoder import Encoder
from smalti.nn.conv import Upsample
from smalti.nn.guided import GuidedAttention, GuidedBlock, GuidedNorm, guided_levels
from smalti.tokenizers.one_grid import ConvConfig, GridTokenizer
from smalti.tokenizers.quantize.vq import VectorQuantizer


@dataclass(frozen=True)
class Emu3VQConfig(ConvConfig):
    channels: int = 256
    multipliers: tuple[int, ...] = (1, 2, 2, 4)
    latent: int = 4
    """Channels Z of latents and of rows of the codebook."""
    vocab: int = 32768
    """Codebook entries."""
    halvings: int = 2
    """How often the number of frames is halved."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, several=("vocab",), counts=("halvings",))

    @property
    def spec(self) -> TokenSpec:
        return TokenSpec((self.grid,), self.vocab)


class Affine(nn.Module):
    """A scale and a shift of each channel of (B, C, h, w)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight[:, None, None] + self.bias[:, None, None]


class FrameBlock(nn.Module):
    """Two 3x3 convolutions, each behind a scale, a shift and SiLU, plus the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = Affine(channels), Affine(channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        return x + self.conv2(F.silu(self.norm2(h)))


class Frames(nn.Module):
    """Features (B, Z, h, w) of each of equal frames to those of one."""

    def __init__(self, config: Emu3VQConfig) -> None:
        super().__init__()
        size = config.latent, config.latent, (4, 3, 3), (2, 1, 1), (0, 1, 1)
        self.halve = nn.ModuleList([nn.Conv3d(*size) for _ in range(config.halvings)])
        self.block = nn.ModuleList([FrameBlock(config.latent) for _ in range(config.blocks)])

    def forward(self, x: Tensor) -> Tensor:
        x = x.unsqueeze(2).expand(-1, -1, 2 ** len(self.halve), -1, -1)  # (B, Z, frames, h, w)
        for halve in self.halve:
            x = F.silu(halve(F.pad(x, (0, 0, 0, 0, 2, 0))))
        x = x[:, :, 0]
        for block in self.block:
            x = block(x)
        return x


class Decoder(nn.Module):
    """Latents (B, Z, h, w) and the rows of the codebook that stand for codes, of that shape, to
    images (B, 3, H, W)."""

    def __init__(self, config: Emu3VQConfig) -> None:
        super().__init__()
        guide, multipliers = config.latent, config.decoder_multipliers or config.multipliers
        widths = [config.channels * m for m in reversed(multipliers)]
        self.frame = nn.ModuleList([FrameBlock(guide) for _ in range(config.blocks)])
        self.later = nn.ModuleList(
            [nn.Conv2d(guide, guide, 3, padding=1) for _ in range(config.halvings)]
        )
        self.conv_in = nn.Conv2d(guide, widths[0], 3, padding=1)
        self.mid = nn.ModuleList([GuidedBlock(widths[0], widths[0], guide) for _ in range(2)])
        if config.attention:
            self.mid.insert(1, GuidedAttention(widths[0], guide))
        attends = [0] if config.attention else []
        self.up = guided_levels(widths, guide, config.blocks + 1, attends, Upsample)
        self.norm_out = GuidedNorm(widths[-1], guide)
        self.conv_out = nn.Conv2d(widths[-1], 3 * config.patch**2, 3, padding=1)
        self.patch = config.patch

    def in_time(self, x: Tensor) -> Tensor:
        """The first frame of what latents (B, Z, h, w) become."""
        for block in self.frame:
            x = block(x)
        for conv in self.later:
            x = F.silu(conv(x))
        return x

    def forward(self, latent: Tensor, rows: Tensor) -> Tensor:
        x, guide = self.conv_in(self.in_time(latent)), self.in_time(rows)
        for block in (*self.mid, *self.up):
            x = block(x, guide)  # of the last ones each but one doubles the size
        x = self.conv_out(F.silu(self.norm_out(x, guide)))
        return F.pixel_shuffle(x, self.patch)


class Emu3VQ(GridTokenizer):
    """A `Tokenizer`: images (B, 3, H, W) in [-1, 1] to codes (B, h * w), row by row, and back."""

    def __init__(self, config: Emu3VQConfig) -> None:
        super().__init__()
        self.config, self.spec, z = config, config.spec, config.latent
        self.encoder, self.frames, self.decoder = Encoder(config), Frames(config), Decoder(config)
        self.quantize = VectorQuantizer(config.vocab, z, False)
        self.quant_conv, self.post_quant_conv = nn.Conv2d(z, z, 1), nn.Conv2d(z, z, 1)

    @property
    def codebook(self) -> nn.Module:
        return self.quantize

    def latent(self, images: Tensor) -> Tensor:
        """(B, Z, h, w) before quantization."""
        return self.quant_conv(self.frames(self.encoder(images)))

    def render(self, latent: Tensor) -> Tensor:
        """Codebook vectors (B, Z, h, w) to images (B, 3, H, W), not clamped."""
        return self.decoder(self.post_quant_conv(latent), latent)


def tiny() -> Emu3VQConfig:
    """A model of a few thousand parameters, for tests."""
    return Emu3VQConfig(size=(16, 16), channels=8, multipliers=(1, 2, 2), blocks=1, vocab=32)
