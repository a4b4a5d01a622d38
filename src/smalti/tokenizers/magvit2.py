"""Show-o's tokenizer, called MAGVITv2 there: images to one grid of codes and back, without a table.

Xie et al. 2024 (arXiv:2408.12528), as showlab/Show-o has it, after MAGVIT-v2 (Yu et al. 2023,
arXiv:2310.05737).

Unusual: it is a VQGAN of the first kind, whose levels have different numbers of residual blocks,
with attention in the middle alone. A code is the number that the signs of K channels write, the
first of which counts most (`quantize.lfq`). Levels of the decoder are stored in the order in which
they run, deepest first.

Letters: B images, H, W image size, h, w code grid, K bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from smalti.codes import TokenSpec
from smalti.config import check
from smalti.nn.conv import (
    Downsample,
    ResnetBlock,
    SpatialAttention,
    Upsample,
    convolved,
    group_norm,
)
from smalti.tokenizers.one_grid import ConvTokenizer, GridConfig, check_levels
from smalti.tokenizers.quantize.lfq import LookupFree
from smalti.tokenizers.quantize.vq import Quantized


@dataclass(frozen=True)
class MAGVIT2Config(GridConfig):
    channels: int = 128
    """Width of the first level."""
    multipliers: tuple[int, ...] = (1, 2, 2, 4, 4)
    """Width of each level as a multiple of `channels`; each but the last halves the size."""
    blocks: tuple[int, ...] = (4, 3, 4, 3, 4)
    """Residual blocks of each level."""
    decoder_multipliers: tuple[int, ...] = (1, 1, 2, 2, 4)
    """Widths of the decoder's levels, from full size on as well."""
    decoder_blocks: tuple[int, ...] = (4, 4, 3, 4, 3)
    """Residual blocks of the decoder's levels."""
    bits: int = 13
    """Bits K of a code."""

    def __post_init__(self) -> None:
        check(self, pairs=("size",), positive=("channels", "bits"))
        check_levels(self)
        for name in ("blocks", "decoder_multipliers", "decoder_blocks"):
            numbers = getattr(self, name)
            if len(numbers) != len(self.multipliers) or min(numbers) < 1:
                raise ValueError(
                    f"{name} must be a positive number for each of {len(self.multipliers)} "
                    f"levels, got {numbers}"
                )
        if self.bits > 18:
            raise ValueError(f"bits must be at most 18, got {self.bits}")

    @property
    def factor(self) -> int:
        """Image pixels per code, along one side."""
        return 2 ** (len(self.multipliers) - 1)

    @property
    def spec(self) -> TokenSpec:
        return TokenSpec((self.grid,), 2**self.bits)


class Numbers(nn.Module):
    """Latents (B, K, h, w) to codes (B, h, w), the numbers that their signs write, and back."""

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.signs = LookupFree(bits, temperature=1.0)

    def places(self, device: torch.device) -> Tensor:
        """What each bit counts, (K,)."""
        return 2 ** torch.arange(self.signs.bits - 1, -1, -1, device=device)

    def encode(self, z: Tensor) -> Tensor:
        """Codes (B, h, w) of latents (B, K, h, w)."""
        return (self.signs.encode(z) * self.places(z.device)).sum(-1)

    def split(self, codes: Tensor) -> Tensor:
        """The bits (..., K) of codes (...)."""
        return (codes.unsqueeze(-1) & self.places(codes.device) > 0).long()

    def decode(self, codes: Tensor) -> Tensor:
        """Latents (B, K, h, w) of -1 and 1, float32, of codes (B, h, w)."""
        return self.signs.decode(self.split(codes))

    def forward(self, z: Tensor, entropy: bool = False) -> Quantized:
        """Quantize for training; `entropy` computes that loss too."""
        found = self.signs(z, entropy)
        return found._replace(codes=(found.codes * self.places(z.device)).sum(-1))


class Level(nn.Module):
    """Residual blocks of one resolution, then `after` them."""

    def __init__(self, in_channels: int, channels: int, blocks: int, after: nn.Module) -> None:
        super().__init__()
        widths = [in_channels] + [channels] * blocks
        pairs = zip(widths, widths[1:], strict=False)
        self.block = nn.ModuleList([ResnetBlock(a, b) for a, b in pairs])
        self.after = after

    def forward(self, x: Tensor) -> Tensor:
        for block in self.block:
            x = block(x)
        return self.after(x)


def middle(channels: int) -> nn.Sequential:
    """Two residual blocks with attention between them."""
    block = ResnetBlock(channels, channels), ResnetBlock(channels, channels)
    return nn.Sequential(block[0], SpatialAttention(channels), block[1])


def levels(first: int, widths: Sequence[int], blocks: Sequence[int], kind: type) -> nn.ModuleList:
    """Levels one after another, all but the last of which resample."""
    befores, made = [first, *widths], list[nn.Module]()
    for i, (before, width, count) in enumerate(zip(befores, widths, blocks, strict=False)):
        last = i == len(widths) - 1
        made.append(Level(before, width, count, nn.Identity() if last else kind(width)))
    return nn.ModuleList(made)


class Encoder(nn.Module):
    """Images (B, 3, H, W) to latents (B, K, h, w)."""

    def __init__(self, config: MAGVIT2Config) -> None:
        super().__init__()
        widths = [config.channels * m for m in config.multipliers]
        self.conv_in = nn.Conv2d(3, config.channels, 3, padding=1)
        self.down = levels(config.channels, widths, config.blocks, Downsample)
        self.mid = middle(widths[-1])
        self.norm_out = group_norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], config.bits, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for level in self.down:
            x = level(x)  # half the size, but for the last
        return convolved(self.mid(x), self.norm_out, self.conv_out)


class Decoder(nn.Module):
    """Latents (B, K, h, w) to images (B, 3, H, W)."""

    def __init__(self, config: MAGVIT2Config) -> None:
        super().__init__()
        widths = [config.channels * m for m in reversed(config.decoder_multipliers)]
        self.conv_in = nn.Conv2d(config.bits, widths[0], 3, padding=1)
        self.mid = middle(widths[0])
        self.up = levels(widths[0], widths, config.decoder_blocks[::-1], Upsample)
        self.norm_out = group_norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mid(self.conv_in(x))
        for level in self.up:
            x = level(x)  # twice the size, but for the last
        return convolved(x, self.norm_out, self.conv_out)


class MAGVIT2(ConvTokenizer):
    """A `Tokenizer`: images (B, 3, H, W) in [-1, 1] to codes (B, h * w), row by row, and back."""

    def __init__(self, config: MAGVIT2Config) -> None:
        super().__init__()
        self.config, self.spec = config, config.spec
        self.encoder, self.decoder = Encoder(config), Decoder(config)
        self.quantize = Numbers(config.bits)
        self.quant_conv = nn.Conv2d(config.bits, config.bits, 1)
        self.post_quant_conv = nn.Conv2d(config.bits, config.bits, 1)


def tiny() -> MAGVIT2Config:
    """A model of a few thousand parameters, for tests."""
    return MAGVIT2Config(
        size=(16, 16), channels=8, multipliers=(1, 2, 2), blocks=(2, 1, 1),
        decoder_multipliers=(1, 1, 2), decoder_blocks=(1, 2, 1), bits=5,
    )  # fmt: skip
