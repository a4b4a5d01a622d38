"""The convolutional encoder and decoder of the VQGAN family, whatever is between them.

Esser et al. 2020 (arXiv:2012.09841), as LlamaGen and VAR have them: one more residual block per
level in the decoder than in the encoder, attention at the deepest level, or where a tokenizer asks
for it, and in the middle. Levels of the decoder are stored in the order in which they run, deepest
first.

Letters: B images, H, W image size, h, w latent size, Z latent channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor, nn
from torch.nn import functional as F

from smalti.config import check
from smalti.nn.conv import (
    Downsample,
    ResnetBlock,
    SpatialAttention,
    Upsample,
    convolved,
    group_norm,
)


class Shape(Protocol):
    """What `Encoder` and `Decoder` read of a tokenizer's configuration."""

    @property
    def size(self) -> tuple[int, int]: ...
    @property
    def patch(self) -> int: ...
    @property
    def channels(self) -> int: ...
    @property
    def multipliers(self) -> tuple[int, ...]: ...
    @property
    def decoder_multipliers(self) -> tuple[int, ...]: ...
    @property
    def blocks(self) -> int: ...
    @property
    def latent(self) -> int: ...
    @property
    def attention(self) -> bool: ...
    @property
    def dropout(self) -> float: ...


def factor(config: Shape) -> int:
    """Image pixels per latent cell, along one side."""
    return config.patch * 2 ** (len(config.multipliers) - 1)


def levels_at(config: Shape, cells: Sequence[int]) -> list[int]:
    """Levels, from full size on, whose cells are so many pixels wide; none without attention."""
    if not config.attention:
        return []
    return [i for i in range(len(config.multipliers)) if config.patch * 2**i in cells]


def check_shape(config: Shape) -> None:
    """Raise ValueError unless this makes an encoder and a decoder of images of its size."""
    sizes = ("patch", "channels", "blocks", "latent")
    check(config, pairs=("size",), positive=sizes, rates=("dropout",))
    if not config.multipliers or min(config.multipliers + config.decoder_multipliers) < 1:
        raise ValueError(
            "multipliers must be one or more positive integers, "
            f"got {config.multipliers} and, of the decoder, {config.decoder_multipliers}"
        )
    if len(config.decoder_multipliers) not in (0, len(config.multipliers)):
        raise ValueError(
            f"decoder_multipliers must be as many as multipliers {config.multipliers}, "
            f"got {config.decoder_multipliers}"
        )
    if any(s % factor(config) for s in config.size):
        raise ValueError(f"size must be multiples of {factor(config)} pixels, got {config.size}")


def middle(channels: int, config: Shape) -> nn.ModuleList:
    return nn.ModuleList(
        [
            ResnetBlock(channels, channels, config.dropout),
            SpatialAttention(channels) if config.attention else nn.Identity(),
            ResnetBlock(channels, channels, config.dropout),
        ]
    )


class Level(nn.Module):
    """Residual blocks of one resolution, with attention if asked for, then resampling."""

    def __init__(
        self, in_channels: int, channels: int, blocks: int, attention: bool, dropout: float
    ) -> None:
        super().__init__()
        widths = [in_channels] + [channels] * blocks
        self.res = nn.ModuleList(
            [ResnetBlock(a, b, dropout) for a, b in zip(widths, widths[1:], strict=False)]
        )
        self.attn = nn.ModuleList([SpatialAttention(channels) for _ in range(blocks * attention)])
        self.downsample: nn.Module = nn.Identity()
        self.upsample: nn.Module = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        for i, block in enumerate(self.res):
            x = block(x)
            if len(self.attn):
                x = self.attn[i](x)
        return self.upsample(self.downsample(x))


class Encoder(nn.Module):
    """Images (B, planes, H, W) to `latent` channels, by default Z: (B, latent, h, w).

    `attention` has the levels with attention; None: the deepest, if the configuration has any.
    """

    def __init__(
        self,
        config: Shape,
        latent: int = 0,
        attention: Sequence[int] | None = None,
        planes: int = 3,
    ) -> None:
        super().__init__()
        widths = [config.channels * m for m in config.multipliers]
        last = len(widths) - 1
        if attention is None:
            attention = [last] if config.attention else []
        self.patch = config.patch
        self.conv_in = nn.Conv2d(planes * config.patch**2, config.channels, 3, padding=1)
        self.conv_blocks = nn.ModuleList()
        before = config.channels
        for i, width in enumerate(widths):
            level = Level(before, width, config.blocks, i in attention, config.dropout)
            if i < last:
                level.downsample = Downsample(width)
            self.conv_blocks.append(level)
            before = width
        self.mid = middle(before, config)
        self.norm_out = group_norm(before)
        self.conv_out = nn.Conv2d(before, latent or config.latent, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(F.pixel_unshuffle(x, self.patch))
        for level in self.conv_blocks:
            x = level(x)  # half the size, but for the last
        for block in self.mid:
            x = block(x)
        return convolved(x, self.norm_out, self.conv_out)


class Decoder(nn.Module):
    """Latents (B, Z, h, w) to images (B, planes, H, W); `attention` as the encoder's, of levels
    counted as there, from full size."""

    def __init__(
        self, config: Shape, attention: Sequence[int] | None = None, planes: int = 3
    ) -> None:
        super().__init__()
        multipliers = config.decoder_multipliers or config.multipliers
        widths = [config.channels * m for m in reversed(multipliers)]
        last = len(widths) - 1
        if attention is None:
            attention = [last] if config.attention else []
        self.conv_in = nn.Conv2d(config.latent, widths[0], 3, padding=1)
        self.mid = middle(widths[0], config)
        self.conv_blocks = nn.ModuleList()
        before = widths[0]
        for i, width in enumerate(widths):
            attends = last - i in attention
            level = Level(before, width, config.blocks + 1, attends, config.dropout)
            if i < last:
                level.upsample = Upsample(width)
            self.conv_blocks.append(level)
            before = width
        self.patch = config.patch
        self.norm_out = group_norm(before)
        self.conv_out = nn.Conv2d(before, planes * config.patch**2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for block in self.mid:
            x = block(x)
        for level in self.conv_blocks:
            x = level(x)  # twice the size, but for the last
        return F.pixel_shuffle(convolved(x, self.norm_out, self.conv_out), self.patch)
