"""MaskGIT's VQGAN: images to one grid of codes and back, as RAR and many masked models use it.

Chang et al. 2022 (arXiv:2202.04200), in the form of bytedance/1d-tokenizer (RAR, Yu et al. 2024,
arXiv:2411.00776). Unusual beside the first VQGAN: no attention, no quant_conv, convolutions without
bias, average pooling, a codebook of 256 dimensions compared by plain distance, and images in [0, 1]
inside: every public method takes and gives [-1, 1]. Where a residual block changes its width, the
shortcut is a 1x1 convolution of the block's OUTPUT, and the input is dropped. Levels of the decoder
are stored shallow first and run deepest first.

Letters: B images, H, W image size, h, w code grid, C codebook dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from smalti.codes import TokenSpec
from smalti.config import check
from smalti.nn.conv import Upsample, convolved, group_norm
from smalti.tokenizers.one_grid import GridConfig, GridTokenizer, check_levels
from smalti.tokenizers.quantize.vq import VectorQuantizer


@dataclass(frozen=True)
class MaskGITVQGANConfig(GridConfig):
    channels: int = 128
    """Width of the first level."""
    multipliers: tuple[int, ...] = (1, 1, 2, 2, 4)
    """Width of each level as a multiple of `channels`; each but the last halves the size."""
    blocks: int = 2
    """Residual blocks per level, and in the middle, of encoder and decoder alike."""
    vocab: int = 1024
    """Codebook entries."""
    dim: int = 256
    """Codebook dimensions C, and channels of the latents."""
    dropout: float = 0.0
    """Dropout inside the residual blocks."""

    def __post_init__(self) -> None:
        check(
            self,
            pairs=("size",),
            several=("vocab",),
            positive=("channels", "blocks", "dim"),
            rates=("dropout",),
        )
        check_levels(self)

    @property
    def factor(self) -> int:
        """Image pixels per code, along one side."""
        return 2 ** (len(self.multipliers) - 1)

    @property
    def spec(self) -> TokenSpec:
        return TokenSpec((self.grid,), self.vocab)


class Block(nn.Module):
    """Two 3x3 convolutions with pre-norm and SiLU; (B, C, H, W).

    The input is added where the width stays, a projection of the output where it changes.
    """

    def __init__(self, in_channels: int, out_channels: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = group_norm(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = group_norm(out_channels)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.nin_shortcut = None
        if in_channels != out_channels:
            self.nin_shortcut = nn.Conv2d(out_channels, out_channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = convolved(x, self.norm1, self.conv1)
        h = convolved(h, self.norm2, self.conv2, self.dropout)
        return h + (x if self.nin_shortcut is None else self.nin_shortcut(h))


def blocks(in_channels: int, channels: int, count: int, dropout: float = 0.0) -> nn.Sequential:
    """Residual blocks, the first of which changes the width."""
    widths = [in_channels] + [channels] * count
    return nn.Sequential(*(Block(a, b, dropout) for a, b in zip(widths, widths[1:], strict=False)))


class Level(nn.Module):
    """Residual blocks of one resolution, then twice the size if asked for."""

    def __init__(
        self,
        in_channels: int,
        channels: int,
        count: int,
        dropout: float = 0.0,
        double: bool = False,
    ) -> None:
        super().__init__()
        self.block = blocks(in_channels, channels, count, dropout)
        self.upsample = Upsample(channels) if double else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.upsample(self.block(x))


class Encoder(nn.Module):
    """Images (B, 3, H, W) in [0, 1] to latents (B, C, h, w)."""

    def __init__(self, config: MaskGITVQGANConfig) -> None:
        super().__init__()
        widths = [config.channels * m for m in (1, *config.multipliers)]
        self.conv_in = nn.Conv2d(3, widths[0], 3, padding=1, bias=False)
        self.down = nn.ModuleList(
            [
                Level(a, b, config.blocks, config.dropout)
                for a, b in zip(widths, widths[1:], strict=False)
            ]
        )
        self.mid = blocks(widths[-1], widths[-1], config.blocks, config.dropout)
        self.norm_out = group_norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], config.dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for i, level in enumerate(self.down):
            x = level(F.avg_pool2d(x, 2) if i else x)  # half the size, but for the first
        return convolved(self.mid(x), self.norm_out, self.conv_out)


class Decoder(nn.Module):
    """Latents (B, C, h, w) to images (B, 3, H, W), about [0, 1]; `levels` are widths, and `count`
    is how many residual blocks each of them has."""

    def __init__(self, dim: int, levels: Sequence[int], count: int, dropout: float = 0.0) -> None:
        super().__init__()
        widths = [*levels, levels[-1]]
        self.conv_in = nn.Conv2d(dim, widths[-1], 3, padding=1)
        self.mid = blocks(widths[-1], widths[-1], count, dropout)
        self.up = nn.ModuleList(
            [
                Level(widths[i + 1], widths[i], count, dropout, double=i > 0)
                for i in range(len(levels))
            ]
        )
        self.norm_out = group_norm(widths[0])
        self.conv_out = nn.Conv2d(widths[0], 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mid(self.conv_in(x))
        for level in reversed(self.up):
            x = level(x)  # twice the size, but for the last
        return convolved(x, self.norm_out, self.conv_out)


class MaskGITVQGAN(GridTokenizer):
    """A `Tokenizer`: images (B, 3, H, W) in [-1, 1] to codes (B, h * w), row by row, and back."""

    def __init__(self, config: MaskGITVQGANConfig) -> None:
        super().__init__()
        self.config, self.spec = config, config.spec
        self.encoder = Encoder(config)
        levels = [config.channels * m for m in config.multipliers]
        self.decoder = Decoder(config.dim, levels, config.blocks, config.dropout)
        self.quantize = VectorQuantizer(config.vocab, config.dim, l2_norm=False)

    @property
    def codebook(self) -> nn.Module:
        return self.quantize

    def latent(self, images: Tensor) -> Tensor:
        """(B, C, h, w) before quantization."""
        return self.encoder((images + 1) / 2)

    def render(self, latent: Tensor) -> Tensor:
        """Codebook vectors (B, C, h, w) to images (B, 3, H, W), not clamped, as training needs."""
        return self.decoder(latent) * 2 - 1

    def decode(self, codes: Tensor, spec: TokenSpec | None = None) -> Tensor:
        """Codes (B, h * w) to images (B, 3, H, W), clamped to [-1, 1]."""
        return super().decode(codes, spec).clamp(-1, 1)


def tiny() -> MaskGITVQGANConfig:
    """A model of a few thousand parameters, for tests."""
    return MaskGITVQGANConfig(
        size=(16, 16), channels=8, multipliers=(1, 2, 2), blocks=1, vocab=32, dim=4
    )


def f16(size: int = 256) -> MaskGITVQGANConfig:
    """The published one: 16 x 16 codes for 256 pixels, 54.5 M parameters."""
    return MaskGITVQGANConfig(size=(size, size))
