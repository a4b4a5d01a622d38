"""Open-MAGVIT2's tokenizer: images to one grid of bits and back, without a codebook.

Luo et al. 2024, "Open-MAGVIT2: An Open-Source Project Toward Democratizing Auto-regressive Visual
Generation" (arXiv:2409.04410), after MAGVIT-v2 (Yu et al. 2023, arXiv:2310.05737).

Unusual: a code is the signs of the encoder's output (`quantize.lfq`), so 2^18 codes cost nothing.
Residual blocks have no bias, and there is no attention. The decoder doubles sizes by moving
channels into space, in the order of ONNX's DCR: the pixel of a cell is the slower of the two axes
that channels are split into. Before each level it normalises its features, and scales and shifts
them by what the deviation and the mean of the latent over the whole picture say. Levels of the
decoder are stored shallow first and run deepest first.

Letters: B images, H, W image size, h, w code grid, K bits, C channels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from smalti.codes import TokenSpec
from smalti.config import check
from smalti.nn.conv import convolved, group_norm
from smalti.tokenizers.one_grid import GridConfig, GridTokenizer, check_levels
from smalti.tokenizers.quantize.lfq import LookupFree

EPS = 1e-6
"""Added to the variance of latents, and of features before they are scaled by them."""


@dataclass(frozen=True)
class OpenMAGVIT2LFQConfig(GridConfig):
    patch: int = 1
    """Pixels of each side folded into channels before the first convolution; 1 as published, 2
    makes small models several times faster."""
    channels: int = 128
    """Width of the first level."""
    multipliers: tuple[int, ...] = (1, 1, 2, 2, 4)
    """Width of each level as a multiple of `channels`; each but the last halves the size."""
    blocks: int = 4
    """Residual blocks per level, and in the middle, of encoder and decoder alike."""
    bits: int = 18
    """Bits K of a code."""
    entropy_group: int = 18
    """The entropy loss is that of so many bits at a time, which takes 2 to that many numbers."""

    def __post_init__(self) -> None:
        positive = ("patch", "channels", "blocks", "bits", "entropy_group")
        check(self, pairs=("size",), positive=positive)
        check_levels(self)

    @property
    def factor(self) -> int:
        """Image pixels per code, along one side."""
        return self.patch * 2 ** (len(self.multipliers) - 1)

    @property
    def spec(self) -> TokenSpec:
        return TokenSpec((self.grid,), 2, channels=self.bits)


class Block(nn.Module):
    """Two 3x3 convolutions with pre-norm and SiLU, plus the input; (B, C, H, W)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm1 = group_norm(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = group_norm(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.nin_shortcut: nn.Module = nn.Identity()
        if in_channels != out_channels:
            self.nin_shortcut = nn.Conv2d(in_channels, out_channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = convolved(x, self.norm1, self.conv1)
        h = convolved(h, self.norm2, self.conv2)
        return self.nin_shortcut(x) + h


def _blocks(in_channels: int, channels: int, count: int) -> nn.Sequential:
    widths = [in_channels] + [channels] * count
    return nn.Sequential(*(Block(a, b) for a, b in zip(widths, widths[1:], strict=False)))


class Upsample(nn.Module):
    """Double height and width: a 3x3 convolution to four times the channels, moved into space."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 4 * channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x).unflatten(1, (2, 2, -1))  # (B, 2, 2, C, h, w)
        return x.permute(0, 3, 4, 1, 5, 2).flatten(4).flatten(2, 3)  # (B, C, 2h, 2w)


class AdaptiveNorm(nn.Module):
    """Features (B, C, h', w') normalised in groups, then scaled and shifted by a latent."""

    def __init__(self, bits: int, channels: int) -> None:
        super().__init__()
        self.groups = math.gcd(32, channels)
        self.gamma, self.beta = nn.Linear(bits, channels), nn.Linear(bits, channels)

    def forward(self, x: Tensor, latent: Tensor) -> Tensor:
        flat = latent.flatten(2)  # (B, K, h * w)
        correction = min(1, flat.shape[2] - 1)  # of a single cell there is no deviation
        deviation = (flat.var(2, correction=correction) + EPS).sqrt()
        scale, shift = self.gamma(deviation), self.beta(flat.mean(2))  # (B, C)
        x = F.group_norm(x, self.groups, eps=EPS)
        return x * scale[..., None, None] + shift[..., None, None]


class Down(nn.Module):
    """Residual blocks of one resolution, then half the size if asked for."""

    def __init__(self, in_channels: int, channels: int, count: int, halve: bool) -> None:
        super().__init__()
        self.block = _blocks(in_channels, channels, count)
        self.downsample: nn.Module = nn.Identity()
        if halve:
            self.downsample = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.downsample(self.block(x))


class Up(nn.Module):
    """Residual blocks of one resolution, then twice the size if asked for."""

    def __init__(self, in_channels: int, channels: int, count: int, double: bool) -> None:
        super().__init__()
        self.block = _blocks(in_channels, channels, count)
        self.upsample = Upsample(channels) if double else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.upsample(self.block(x))


class Encoder(nn.Module):
    """Images (B, 3, H, W) to latents (B, K, h, w)."""

    def __init__(self, config: OpenMAGVIT2LFQConfig) -> None:
        super().__init__()
        widths = [config.channels * m for m in (1, *config.multipliers)]
        last, count, self.patch = len(config.multipliers) - 1, config.blocks, config.patch
        self.conv_in = nn.Conv2d(3 * config.patch**2, widths[0], 3, padding=1, bias=False)
        self.down = nn.ModuleList(
            [Down(widths[i], widths[i + 1], count, halve=i < last) for i in range(last + 1)]
        )
        self.mid_block = _blocks(widths[-1], widths[-1], count)
        self.norm_out = group_norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], config.bits, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(F.pixel_unshuffle(x, self.patch))
        for level in self.down:
            x = level(x)  # half the size, but for the last
        return self.conv_out(F.silu(self.norm_out(self.mid_block(x))))


class Decoder(nn.Module):
    """Latents (B, K, h, w) to images (B, 3, H, W)."""

    def __init__(self, config: OpenMAGVIT2LFQConfig) -> None:
        super().__init__()
        widths = [config.channels * m for m in (*config.multipliers, config.multipliers[-1])]
        levels, count, self.patch = len(config.multipliers), config.blocks, config.patch
        self.conv_in = nn.Conv2d(config.bits, widths[-1], 3, padding=1)
        self.mid_block = _blocks(widths[-1], widths[-1], count)
        self.up = nn.ModuleList(
            [Up(widths[i + 1], widths[i], count, double=i > 0) for i in range(levels)]
        )
        self.adaptive = nn.ModuleList(
            [AdaptiveNorm(config.bits, widths[i + 1]) for i in range(levels)]
        )
        self.norm_out = group_norm(widths[0])
        self.conv_out = nn.Conv2d(widths[0], 3 * config.patch**2, 3, padding=1)

    def forward(self, latent: Tensor) -> Tensor:
        x = self.mid_block(self.conv_in(latent))
        for level, norm in zip(reversed(self.up), reversed(self.adaptive), strict=True):
            x = level(norm(x, latent))  # twice the size, but for the last
        return F.pixel_shuffle(convolved(x, self.norm_out, self.conv_out), self.patch)


class OpenMAGVIT2LFQ(GridTokenizer):
    """A `Tokenizer`: images (B, 3, H, W) in [-1, 1] to bits (B, h * w, K), row by row, and back."""

    def __init__(self, config: OpenMAGVIT2LFQConfig) -> None:
        super().__init__()
        self.config, self.spec = config, config.spec
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.quantize = LookupFree(config.bits, config.entropy_group)

    def latent(self, images: Tensor) -> Tensor:
        """(B, K, h, w) before quantization."""
        return self.encoder(images)

    def render(self, latent: Tensor) -> Tensor:
        """Latents (B, K, h, w) of -1 and 1 to images (B, 3, H, W), not clamped."""
        return self.decoder(latent)


def tiny() -> OpenMAGVIT2LFQConfig:
    """A model of a few thousand parameters, for tests."""
    return OpenMAGVIT2LFQConfig(size=(16, 16), channels=12, multipliers=(1, 2, 2), blocks=1, bits=6)


def f16(size: int = 256) -> OpenMAGVIT2LFQConfig:
    """The published one: 16 x 16 codes of 18 bits for 256 pixels, 115 M parameters."""
    return OpenMAGVIT2LFQConfig(size=(size, size))
