"""Convolution blocks of the VQGAN family (Esser et al. 2020, arXiv:2012.09841).

Unusual: without gradients, a convolution behind an upsampling reads the small map (`Upsample`), and
one behind a norm works in strips of rows where the map is large (`convolved`). Both are what the
plain ones give, but for rounding.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LARGE = 1 << 22
"""Numbers of a map from which on it is normalised and convolved in strips on a CPU, whose caches
hold a strip; elsewhere of one eight times as large, to spare memory."""
STRIP = 1 << 21
"""Numbers of a strip, about."""


def group_norm(channels: int) -> nn.GroupNorm:
    """32 groups as published; fewer where 32 does not divide the channels."""
    return nn.GroupNorm(math.gcd(32, channels), channels, eps=1e-6)


def convolved(
    x: Tensor, norm: nn.GroupNorm, conv: nn.Conv2d, dropout: nn.Module | None = None
) -> Tensor:
    """`conv(dropout(silu(norm(x))))` of (B, C, H, W), with a convolution of 3x3 or 1x1 that keeps
    height and width.

    Without gradients a map of `LARGE` numbers or more is read twice, for the norm's mean and then
    its deviation, and convolved strip by strip: beside the result no other map is held, of the five
    or so that the plain way holds.
    """
    large = LARGE if x.device.type == "cpu" else 8 * LARGE
    if x.numel() < large or _learned(x, conv.weight):
        h = F.silu(norm(x))
        return conv(h if dropout is None else dropout(h))
    scale, shift = _affine(x, norm)  # (B, C, 1, 1)
    height, out = x.shape[2], x.new_empty(len(x), conv.out_channels, *x.shape[2:])
    for top, end in _strips(x):
        first, last = max(top - 1, 0), min(end + 1, height)  # what the kernel sees
        rows = F.silu(torch.addcmul(shift, x[:, :, first:last], scale), inplace=True)
        rows = rows if dropout is None else dropout(rows)
        out[:, :, top:end] = conv(rows)[:, :, top - first :][:, :, : end - top]
    return out


def _strips(x: Tensor) -> Iterator[tuple[int, int]]:
    """The first rows of strips of a map, and where they end."""
    height = x.shape[2]
    rows = max(1, STRIP * height // x.numel())
    return ((top, min(top + rows, height)) for top in range(0, height, rows))


def _affine(x: Tensor, norm: nn.GroupNorm) -> tuple[Tensor, Tensor]:
    """What a norm multiplies the channels of a map by, and then adds: each (B, C, 1, 1)."""
    count, channels = len(x), x.shape[1]
    per_group = channels // norm.num_groups
    mean = (
        x.mean((2, 3), dtype=torch.float32).view(count, norm.num_groups, -1).mean(2)
    )  # (B, groups)
    mean = mean.repeat_interleave(per_group, 1)[..., None, None]  # (B, C, 1, 1)
    squares = torch.zeros_like(mean)
    for top, end in _strips(x):
        squares += (x[:, :, top:end].float() - mean).square_().sum((2, 3), keepdim=True)
    variance = squares.view(count, norm.num_groups, -1).sum(2) / (per_group * x[0, 0].numel())
    deviation = (variance + norm.eps).sqrt().repeat_interleave(per_group, 1)[..., None, None]
    scale = norm.weight.float()[:, None, None] / deviation
    return scale.to(x.dtype), (norm.bias.float()[:, None, None] - mean * scale).to(x.dtype)


def _learned(x: Tensor, weight: Tensor) -> bool:
    """Whether gradients are wanted."""
    return torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)


class ResnetBlock(nn.Module):
    """Two 3x3 convolutions with pre-norm and SiLU, plus the input; (B, C, H, W)."""

    def __init__(self, in_channels: int, out_channels: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm1 = group_norm(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = group_norm(out_channels)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        if in_channels != out_channels:
            self.nin_shortcut = nn.Conv2d(in_channels, out_channels, 1)
        else:
            self.nin_shortcut = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = convolved(x, self.norm1, self.conv1)
        h = convolved(h, self.norm2, self.conv2, self.dropout)
        return self.nin_shortcut(x) + h


class SpatialAttention(nn.Module):
    """One attention head over all pixels of a feature map, plus the input: (B, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = group_norm(channels)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = (f(h).flatten(2).transpose(1, 2) for f in (self.q, self.k, self.v))  # (B, HW, C)
        h = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).contiguous()  # (B, C, HW)
        return x + self.proj_out(h.unflatten(2, x.shape[2:]))


class Downsample(nn.Module):
    """Halve height and width: zeros at the right and bottom, then a 3x3 convolution of stride 2."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Double height and width: nearest pixel, then a 3x3 convolution, (B, C, H, W) to (B, C', 2H,
    2W); C' is `out_channels`, or C.

    A kernel of nine sees no more than four different pixels of the small map there: of the pixels
    of a square of four each has a 2x2 kernel of its own, whose weights are sums. On a CPU, without
    gradients, these four convolutions take the place of the one, with 4 of 9 products. The sums are
    kept until the weights change.
    """

    def __init__(self, channels: int, out_channels: int | None = None) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out_channels or channels, 3, padding=1)
        self._kept: tuple[object, list[Tensor]] | None = None

    def train(self, mode: bool = True) -> Upsample:
        self._kept = None
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.conv.weight, self.conv.bias
        if x.device.type != "cpu" or _learned(x, weight):
            return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        height, width = x.shape[2:]
        x = F.pad(x, (1, 1, 1, 1))
        out = x.new_empty(len(x), len(weight), 2 * height, 2 * width)
        for square, kernel in enumerate(self._kernels()):
            row, column = divmod(square, 2)
            seen = x[:, :, row : row + height + 1, column : column + width + 1]
            out[:, :, row::2, column::2] = F.conv2d(seen, kernel, bias)
        return out

    def _kernels(self) -> list[Tensor]:
        """Those of the four pixels of a square, row by row: each (C', C, 2, 2)."""
        weight = self.conv.weight
        if weight.is_inference():  # nothing tells whether it has changed
            return folded(weight)
        now = (weight.data_ptr(), weight._version, weight.dtype, weight.device)
        if self._kept is None or self._kept[0] != now:
            self._kept = now, folded(weight)
        return self._kept[1]


def folded(weight: Tensor) -> list[Tensor]:
    """The four kernels (C', C, 2, 2) of the small map that do what a kernel (C', C, 3, 3) does when
    each pixel is repeated in a square of four; summed in float32."""

    def halves(kernel: Tensor, dim: int) -> list[Tensor]:
        """Of the first of two equal rows, or columns, and of the second."""
        a, b, c = kernel.unbind(dim)
        return [torch.stack((a, b + c), dim), torch.stack((a + b, c), dim)]

    kernels = [k for row in halves(weight.detach().float(), 2) for k in halves(row, 3)]
    return [kernel.to(weight.dtype).contiguous() for kernel in kernels]
