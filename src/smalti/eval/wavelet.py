"""Fréchet wavelet distance: Gaussians of Haar wavelet packets, no network (FWD).

Veeramacheneni, Wolter, Kuehne and Gall, 2024, arXiv:2312.15289. Images in [0, 1] are taken apart
by `level` steps of a Haar packet transform into P = 4^level packets; the distance is the mean of
the packets' Fréchet distances. Unusual: packets of 8-bit images are integers over 255 * 2^level, so
all but the last division is exact. B images, D = 3 h w features of a packet.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from smalti.eval.frechet import Gaussian, Moments, distance

STEP = [[1.0, 1, 1, 1], [1, 1, -1, -1], [1, -1, 1, -1], [1, -1, -1, 1]]
"""Packets a, h, v and d of the pixels top left, top right, bottom left and bottom right."""

EXACT = 8
"""Up to this level float32 holds sums of 4^level pixels of 8 bits."""


def default_level(size: tuple[int, int]) -> int:
    """The level at which packets of images (H, W) are just as large as they have to be.

    That is 16 pixels from 256 pixels on, as published (level 4 at 256), 8 from 64 on and 4 below,
    so that features stay few beside the number of images that there are of the size: D = 768, 192
    and 48. Sides that cannot be halved so often give larger packets.
    """
    short, level = min(size), 0
    least = 16 if short >= 256 else 8 if short >= 64 else 4
    while all(n % 2 ** (level + 1) == 0 for n in size) and short >= least * 2 ** (level + 1):
        level += 1
    return level


def packets(images: Tensor, level: int) -> Tensor:
    """Haar packets of images (B, C, H, W), uint8 or float in [0, 1]: (B, 4^level, C h w).

    float64 of uint8 images, else in their dtype. Packets in natural order: a (means), h
    (differences of rows), v (of columns), d (of both) of the first step, each divided so by the
    second, and so on. A step doubles the mean; an odd side is lengthened by its last pixel but one.
    Raises ValueError if the level is negative or more than the shorter side can be halved.
    """
    most = min(images.shape[-2:]).bit_length() - 1
    if not 0 <= level <= most:
        h, w = images.shape[-2:]
        raise ValueError(f"level must be in 0 ... {most} for images of {h}x{w}, got {level}")
    integers = torch.float32 if level <= EXACT else torch.float64
    dtype = integers if images.dtype == torch.uint8 else images.dtype
    x, left = images.unsqueeze(0), level  # (1, B, C, H, W)
    while left:
        steps = min(left, _halvings(*x.shape[-2:]))
        if not steps:
            h, w = x.shape[-2:]
            x, steps = F.pad(x.to(dtype), (0, w % 2, 0, h % 2, 0, 0), mode="reflect"), 1
        x, left = _split(x, steps, dtype), left - steps
    x = x.flatten(2).transpose(0, 1)  # (B, P, D), packet after packet in memory
    if images.dtype == torch.uint8:
        return x.double().div_(255 * 2**level)
    return x / 2**level


def _halvings(h: int, w: int) -> int:
    """How often both sides can be halved."""
    return (math.gcd(h, w) & -math.gcd(h, w)).bit_length() - 1


def _split(x: Tensor, steps: int, dtype: torch.dtype) -> Tensor:
    """Of each packet (P, B, C, H, W), 2^steps times too large: (P 4^steps, B, C, h, w)."""
    sides = (-1, *[2] * steps)
    pixels = x.unflatten(4, sides).unflatten(3, sides)  # (P, B, C, h, 2 ..., w, 2 ...)
    pairs = [axis for i in range(3 + steps, 3, -1) for axis in (i, i + steps + 1)]
    pixels = pixels.permute(0, *pairs, 1, 2, 3, 4 + steps)  # those of the first step first
    out = pixels.to(dtype).contiguous()
    step = out.new_tensor(STEP)
    for i in range(steps):
        out = step @ out.view(len(x) * 4**i, 4, -1)
    return out.view(-1, *pixels.shape[-4:])


class Wavelets:
    """Running Gaussians of the packets of images; the default level is that of their size."""

    def __init__(self, level: int | None = None) -> None:
        self.level = level
        self.size: tuple[int, ...] = ()
        self.moments: Moments | None = None

    def add(self, images: Tensor) -> None:
        """Images (B, 3, H, W), uint8 or float in [0, 1]. Raises ValueError for another size."""
        size = tuple(images.shape[1:])
        if self.size not in ((), size):
            raise ValueError(f"images must have the size {self.size} of those before, got {size}")
        if self.level is None:
            self.level = default_level((size[-2], size[-1]))
        rows = packets(images, self.level)
        if self.moments is None:
            self.size, self.moments = size, Moments(*rows.shape[1:], device=images.device)
        self.moments.add(rows)

    def gaussian(self) -> Gaussian:
        """Of each packet, (P, D) and (P, D, D). Raises ValueError for fewer than two images."""
        if self.moments is None:
            raise ValueError("0 images give no covariance of packets; at least 2 are needed")
        return self.moments.gaussian()


def fwd(a: Iterable[Tensor], b: Iterable[Tensor], level: int | None = None) -> float:
    """The distance of two sets of batches of images (B, 3, H, W), uint8 or float in [0, 1].

    Raises ValueError for images of several sizes, and for fewer than two in a set.
    """
    sets = Wavelets(level), Wavelets(level)
    for wavelets, batches in zip(sets, (a, b), strict=True):
        for images in batches:
            wavelets.add(images)
    if sets[0].size != sets[1].size:
        ours, theirs = sets[0].size, sets[1].size
        raise ValueError(f"images of two sets must have one size, got {ours} and {theirs}")
    return distance(sets[0].gaussian(), sets[1].gaussian()).mean().item()
