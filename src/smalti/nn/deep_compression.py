"""Blocks of deep-compression autoencoders: residual blocks, linear attention, and the ways down and
up whose shortcuts only move pixels between places and channels.

Chen, Cai, Chen, Xie, Yang, Tang, Li, Lu, Han 2024, "Deep Compression Autoencoder for Efficient
High-Resolution Diffusion Models" (arXiv:2410.10733); the attention is that of EfficientViT (Cai et
al. 2022, arXiv:2205.14756).

Unusual: attention has no softmax. Queries and keys are positive parts, so that keys are summed up
with values once for all queries, and costs grow as the number of places. Norms stand behind the
convolutions, and go over the channels of a place.

B images, C channels, H, W size, N = H * W places, d numbers of a head.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.nn.conv import Upsample

Activation = Literal["silu", "relu", "gelu", "mish"]
ACTIVATIONS = {"silu": nn.SiLU, "relu": nn.ReLU, "gelu": nn.GELU, "mish": nn.Mish}


class ChannelRMSNorm(nn.Module):
    """Root-mean-square norm over the channels of each place of (B, C, H, W), with a bias."""

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        scale = (x.float().square().mean(1, keepdim=True) + self.eps).rsqrt()
        return torch.addcmul(self.bias[:, None, None], x * scale, self.weight[:, None, None])


def norm_of(channels: int, batch: bool) -> nn.Module:
    """A norm over channels, or one over the batch."""
    return nn.BatchNorm2d(channels) if batch else ChannelRMSNorm(channels)


class ResidualBlock(nn.Module):
    """x + norm(conv(activation(conv(x))))."""

    def __init__(self, channels: int, activation: Activation, batch_norm: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.activation = ACTIVATIONS[activation]()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = norm_of(channels, batch_norm)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.norm(self.conv2(self.activation(self.conv1(x))))


def linear_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention of heads (B, heads, d, N), the weight of a key being relu(q) * relu(k): the same
    shape, in float32. Queries without positive numbers, or whose keys have none there, give 0."""
    with torch.autocast(q.device.type, enabled=False):
        q, k, v = F.relu(q.float()), F.relu(k.float()), v.float()
        v = F.pad(v, (0, 0, 0, 1), value=1.0)  # one row more sums up the weights
        y = (v @ k.transpose(2, 3)) @ q  # (B, heads, d + 1, N)
        return y[:, :, :-1] / (y[:, :, -1:] + 1e-15)


class LinearAttention(nn.Module):
    """x + norm(attention(x)): linear attention of heads of queries, keys and values, and of as many
    more for each of `kernels`, which sees them convolved with that kernel."""

    def __init__(
        self, channels: int, head_dim: int, kernels: tuple[int, ...], batch_norm: bool
    ) -> None:
        super().__init__()
        self.head_dim, heads = head_dim, channels // head_dim
        inner = heads * head_dim
        self.to_qkv = nn.Conv2d(channels, 3 * inner, 1, bias=False)
        self.scales = nn.ModuleList()
        for kernel in kernels:
            spread = nn.Conv2d(
                3 * inner, 3 * inner, kernel, padding=kernel // 2, groups=3 * inner, bias=False
            )
            mixed = nn.Conv2d(3 * inner, 3 * inner, 1, groups=3 * heads, bias=False)
            self.scales.append(nn.Sequential(spread, mixed))
        self.to_out = nn.Conv2d(inner * (1 + len(kernels)), channels, 1, bias=False)
        self.norm_out = norm_of(channels, batch_norm)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.to_qkv(x)
        maps = torch.cat([qkv, *(scale(qkv) for scale in self.scales)], 1)
        # a head takes 3 d channels in a row, be they queries, keys or values: released weights do
        heads = maps.flatten(2).unflatten(1, (-1, 3 * self.head_dim))  # (B, heads, 3 d, N)
        y = linear_attention(*heads.chunk(3, 2)).flatten(1, 2)
        y = y.unflatten(2, x.shape[2:]).to(qkv.dtype)
        return x + self.norm_out(self.to_out(y))


class GatedConvs(nn.Module):
    """x + norm(narrow(a * silu(b))), where a and b are halves of widened channels, each convolved
    by itself."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        wide = 4 * channels
        self.conv_inverted = nn.Conv2d(channels, 2 * wide, 1)
        self.conv_depth = nn.Conv2d(2 * wide, 2 * wide, 3, padding=1, groups=2 * wide)
        self.conv_point = nn.Conv2d(wide, channels, 1, bias=False)
        self.norm = ChannelRMSNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        h, gate = self.conv_depth(F.silu(self.conv_inverted(x))).chunk(2, 1)
        return x + self.norm(self.conv_point(h * F.silu(gate)))


class AttentionBlock(nn.Module):
    """Linear attention between all places, then convolutions."""

    def __init__(
        self, channels: int, head_dim: int, kernels: tuple[int, ...], batch_norm: bool
    ) -> None:
        super().__init__()
        self.attn = LinearAttention(channels, head_dim, kernels, batch_norm)
        self.conv_out = GatedConvs(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_out(self.attn(x))


def averaged(x: Tensor, channels: int) -> Tensor:
    """(B, C, H, W) with fewer channels, each the mean of as many in a row."""
    return x.unflatten(1, (channels, -1)).mean(2)


def repeated(x: Tensor, channels: int) -> Tensor:
    """(B, C, H, W) with more channels, each repeated in a row."""
    return x.repeat_interleave(channels // x.shape[1], 1)


class Down(nn.Module):
    """(B, C, H, W) to (B, C', H / 2, W / 2): a convolution of stride 2 or, with `shuffle`, one
    whose squares of four places become channels; plus, with `shortcut`, means of the channels that
    the squares of the input become."""

    def __init__(self, before: int, after: int, shuffle: bool, shortcut: bool = True) -> None:
        super().__init__()
        self.shuffle, self.shortcut = shuffle, shortcut
        narrow, stride = (after // 4, 1) if shuffle else (after, 2)
        self.conv = nn.Conv2d(before, narrow, 3, stride, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        y = F.pixel_unshuffle(y, 2) if self.shuffle else y
        return y + averaged(F.pixel_unshuffle(x, 2), y.shape[1]) if self.shortcut else y


class ShuffleUp(nn.Module):
    """(B, C, H, W) to (B, C', 2 H, 2 W): a convolution whose channels become squares of four
    places; plus, with `shortcut`, the same of the repeated channels of the input."""

    def __init__(self, before: int, after: int, shortcut: bool = True) -> None:
        super().__init__()
        self.shortcut = shortcut
        self.conv = nn.Conv2d(before, 4 * after, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return F.pixel_shuffle(y + repeated(x, y.shape[1]) if self.shortcut else y, 2)


class RepeatUp(Upsample):
    """The same, where each place is repeated in a square before the convolution."""

    def __init__(self, before: int, after: int, shortcut: bool = True) -> None:
        super().__init__(before, after)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y + F.pixel_shuffle(repeated(x, 4 * y.shape[1]), 2) if self.shortcut else y


def up(before: int, after: int, shuffle: bool, shortcut: bool = True) -> nn.Module:
    """(B, C, H, W) to (B, C', 2 H, 2 W)."""
    return (ShuffleUp if shuffle else RepeatUp)(before, after, shortcut)
