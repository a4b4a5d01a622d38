"""The halves of a small U-Net that stand before and behind a transformer.

Residual blocks with time as in DDPM (Ho et al. 2020, arXiv:2006.11239; Nichol and Dhariwal 2021,
arXiv:2102.09672), without attention: `Down` makes k x k cells of a latent one vector, `Up` makes
vectors cells again and is shown, by skips, what `Down` saw at each size.

Letters: P pictures, Z channels of a latent, h, w its size, W width, T width of a time, D width of
the transformer, k cells of a vector along each side, N = h / k * w / k vectors of a picture.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.nn.conv import Downsample, ResnetBlock, Upsample, group_norm
from smalti.nn.linear import Linear


class TimedBlock(ResnetBlock):
    """A residual block whose first convolution has the time added to it."""

    def __init__(self, in_channels: int, out_channels: int, time: int) -> None:
        super().__init__(in_channels, out_channels)
        self.time = Linear(time, out_channels)

    def timed(self, x: Tensor, time: Tensor) -> Tensor:
        """The block of x (P, C, h, w) and times (P, T)."""
        h = self.conv1(F.silu(self.norm1(x))) + self.time(F.silu(time))[..., None, None]
        return self.nin_shortcut(x) + self.conv2(F.silu(self.norm2(h)))


class Down(nn.Module):
    """Latents (P, Z, h, w) at times (P, T) to vectors (P, N, D), and what `Up` is shown: what each
    block gave, the last one first, at sizes that are halved until k is reached.

    Args: Z, W, blocks of each size, how often sizes are halved, T, D.
    """

    def __init__(
        self, channels: int, width: int, blocks: int, halvings: int, time: int, dim: int
    ) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(channels, width, 3, padding=1)
        sizes = [[TimedBlock(width, width, time) for _ in range(blocks)] for _ in range(halvings)]
        self.blocks = nn.ModuleList([nn.ModuleList(size) for size in sizes])
        self.halves = nn.ModuleList([Downsample(width) for _ in range(halvings)])
        self.norm = group_norm(width)
        self.proj = Linear(width, dim)

    def forward(self, x: Tensor, time: Tensor) -> tuple[Tensor, list[Tensor]]:
        x, skips = self.conv_in(x), list[Tensor]()
        for blocks, halve in zip(self.blocks, self.halves, strict=True):
            assert isinstance(blocks, nn.ModuleList)
            for block in blocks:
                assert isinstance(block, TimedBlock)
                x = block.timed(x, time)
                skips.append(x)
            x = halve(x)
        vectors = F.silu(self.norm(x)).flatten(2).transpose(1, 2)  # (P, N, W)
        return self.proj(vectors), skips[::-1]


class Up(nn.Module):
    """Vectors (P, N, D) of a grid, what `Down` saw and times (P, T) to latents (P, Z, h, w).

    Args: as those of `Down`.
    """

    def __init__(
        self, channels: int, width: int, blocks: int, halvings: int, time: int, dim: int
    ) -> None:
        super().__init__()
        self.proj = Linear(dim, width)
        sizes = [
            [TimedBlock(2 * width, width, time) for _ in range(blocks)] for _ in range(halvings)
        ]
        self.doubles = nn.ModuleList([Upsample(width) for _ in range(halvings)])
        self.blocks = nn.ModuleList([nn.ModuleList(size) for size in sizes])
        self.norm = group_norm(width)
        self.conv_out = nn.Conv2d(width, channels, 3, padding=1)

    def forward(
        self, vectors: Tensor, grid: tuple[int, int], skips: list[Tensor], time: Tensor
    ) -> Tensor:
        x = self.proj(vectors).transpose(1, 2).unflatten(2, grid)  # (P, W, h / k, w / k)
        seen = iter(skips)
        for double, blocks in zip(self.doubles, self.blocks, strict=True):
            assert isinstance(blocks, nn.ModuleList)
            x = double(x)
            for block in blocks:
                assert isinstance(block, TimedBlock)
                x = block.timed(torch.cat((x, next(seen)), 1), time)
        return self.conv_out(F.silu(self.norm(x)))
