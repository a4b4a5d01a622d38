"""Convolution blocks of ViTamin (Chen et al. 2024, arXiv:2404.02132) and their mirror images in
UniTok's decoder (Ma et al. 2025, arXiv:2502.20321).

Unusual: 3 x 3 convolutions of each channel by itself between two products that widen and narrow it
fourfold, and norms over the channels of a pixel. Going up, the wide channels are enlarged before
the convolution, by one of all channels.

B images, C channels, H, W size.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from smalti.nn.conv import Upsample

EXPANSION = 4


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of each pixel of (B, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-6)

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2).contiguous()


class Stem(nn.Module):
    """Pixels (B, 3, H, W) to (B, C, H / 2, W / 2)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, channels, 3, stride=2, padding=1)
        self.norm1 = ChannelNorm(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(F.gelu(self.norm1(self.conv1(x))))


class Shrink(nn.Module):
    """Halve height and width by averages, and change the channels if that is asked for."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(3, stride=2, padding=1, count_include_pad=False)
        self.expand = nn.Conv2d(before, after, 1) if before != after else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.expand(self.pool(x))


class MobileBlock(nn.Module):
    """Widen, convolve each channel, narrow, and add the input; `down` halves the size."""

    def __init__(self, before: int, after: int, down: bool = False) -> None:
        super().__init__()
        wide = EXPANSION * after
        self.shortcut: nn.Module = nn.Identity()
        if down:
            self.shortcut = Shrink(before, after)
        elif before != after:
            self.shortcut = nn.Conv2d(before, after, 1)
        self.pre_norm = ChannelNorm(before)
        self.conv1_1x1 = nn.Conv2d(before, wide, 1)
        self.conv2_kxk = nn.Conv2d(wide, wide, 3, 1 + down, padding=1, groups=wide)
        self.conv3_1x1 = nn.Conv2d(wide, after, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = F.gelu(self.conv1_1x1(self.pre_norm(x)))
        return self.conv3_1x1(F.gelu(self.conv2_kxk(h))) + self.shortcut(x)


class MobileUpBlock(nn.Module):
    """The same, where `up` doubles the size."""

    def __init__(self, before: int, after: int, up: bool = False) -> None:
        super().__init__()
        wide = EXPANSION * after
        self.shortcut: nn.Module = nn.Identity()
        if up:
            self.shortcut = Upsample(before, after)
        elif before != after:
            self.shortcut = nn.Conv2d(before, after, 1)
        self.pre_norm = ChannelNorm(before)
        self.conv1_1x1 = nn.Conv2d(before, wide, 1)
        self.up = Upsample(wide, wide) if up else nn.Identity()
        self.conv2_kxk = nn.Conv2d(wide, wide, 3, padding=1, groups=wide)
        self.conv3_1x1 = nn.Conv2d(wide, after, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.up(F.gelu(self.conv1_1x1(self.pre_norm(x))))
        return self.conv3_1x1(F.gelu(self.conv2_kxk(h))) + self.shortcut(x)


class Unstem(nn.Module):
    """Features (B, C, H, W) to pixels (B, 3, 2 H, 2 W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = Upsample(channels, channels)
        self.norm1 = ChannelNorm(channels)
        self.conv2 = nn.Conv2d(channels, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(F.gelu(self.norm1(self.conv1(x))))
