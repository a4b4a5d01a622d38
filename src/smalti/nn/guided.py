"""Convolutions whose norms a guide scales and shifts, cell by cell (MoVQ: Zheng et al. 2022,
arXiv:2209.09002).

B images, C channels of features, h', w' their size, G channels of the guide, h, w its size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from smalti.nn.conv import group_norm


class GuidedNorm(nn.Module):
    """Features (B, C, h', w') normalised in groups, then scaled and shifted by a guide (B, G, h,
    w)."""

    def __init__(self, channels: int, guide: int) -> None:
        super().__init__()
        self.norm = group_norm(channels)
        self.scale, self.shift = nn.Conv2d(guide, channels, 1), nn.Conv2d(guide, channels, 1)

    def forward(self, x: Tensor, guide: Tensor) -> Tensor:
        guide = F.interpolate(guide, x.shape[-2:], mode="nearest")
        return self.norm(x) * self.scale(guide) + self.shift(guide)


class GuidedBlock(nn.Module):
    """Two 3x3 convolutions, each behind a guided norm and SiLU, plus the input; (B, C, h', w')."""

    def __init__(self, in_channels: int, channels: int, guide: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = GuidedNorm(in_channels, guide), GuidedNorm(channels, guide)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.nin_shortcut: nn.Module = nn.Identity()
        if in_channels != channels:
            self.nin_shortcut = nn.Conv2d(in_channels, channels, 1)

    def forward(self, x: Tensor, guide: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x, guide)))
        h = self.conv2(F.silu(self.norm2(h, guide)))
        return self.nin_shortcut(x) + h


class GuidedAttention(nn.Module):
    """Attention over all cells of features (B, C, h', w') behind a guided norm, plus the input."""

    def __init__(self, channels: int, guide: int) -> None:
        super().__init__()
        self.norm = GuidedNorm(channels, guide)
        self.q, self.k, self.v = (nn.Conv2d(channels, channels, 1) for _ in range(3))
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, guide: Tensor) -> Tensor:
        h = self.norm(x, guide)
        q, k, v = (f(h).flatten(2).mT for f in (self.q, self.k, self.v))  # (B, h' w', C)
        h = F.scaled_dot_product_attention(q, k, v).mT.contiguous()  # (B, C, h' w')
        return x + self.proj_out(h.unflatten(2, x.shape[2:]))


class GuidedLevel(nn.Module):
    """Blocks of one resolution, with attention behind each if asked for, then `upsample`.

    `widths` are the channels before and behind the first block.
    """

    def __init__(
        self,
        widths: tuple[int, int],
        guide: int,
        blocks: int,
        attends: bool,
        upsample: nn.Module,
    ) -> None:
        super().__init__()
        before, width = widths
        befores = [before, *[width] * (blocks - 1)]
        self.block = nn.ModuleList([GuidedBlock(b, width, guide) for b in befores])
        self.attn = nn.ModuleList([GuidedAttention(width, guide) for _ in range(blocks * attends)])
        self.upsample = upsample

    def forward(self, x: Tensor, guide: Tensor) -> Tensor:
        for i, block in enumerate(self.block):
            x = block(x, guide)
            if len(self.attn):
                x = self.attn[i](x, guide)
        return self.upsample(x)


def guided_levels(
    widths: Sequence[int],
    guide: int,
    blocks: int,
    attends: Sequence[int],
    enlarge: Callable[[int], nn.Module],
) -> nn.ModuleList:
    """Levels of a decoder of these widths, deepest first, each but the last of which doubles the
    size; those with these numbers attend."""
    befores, last = [widths[0], *widths[:-1]], len(widths) - 1
    return nn.ModuleList(
        [
            GuidedLevel(
                (before, width),
                guide,
                blocks,
                i in attends,
                enlarge(width) if i < last else nn.Identity(),
            )
            for i, (before, width) in enumerate(zip(befores, widths, strict=True))
        ]
    )
