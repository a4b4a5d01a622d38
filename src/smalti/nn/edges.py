"""Edges of pictures as Canny finds them (1986, "A Computational Approach to Edge Detection").

Unusual: all of a batch at once, with convolutions and shifted copies. B images, H, W size.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

GREY = (0.299, 0.587, 0.114)
"""What red, green and blue count in a grey picture (ITU-R BT.601)."""
SIGMA, RADIUS = 1.0, 2
"""Pixels of the Gaussian that smooths, and how far it reaches."""
LOW, HIGH = 0.05, 0.1
"""Change of grey, of a range of 1, from one pixel to the next: an edge has at least LOW in all its
pixels and HIGH in one of them. About 100 and 200 where Sobel's sums of bytes are compared."""
AHEAD = ((0, 1), (1, 1), (1, 0), (1, -1))
"""The neighbour, rows and columns away, in the direction of a gradient of 0, 45, 90 and 135
degrees."""


def edges(images: Tensor, low: float = LOW, high: float = HIGH) -> Tensor:
    """Which pixels of images (B, 3, H, W) in [-1, 1] are an edge: (B, 1, H, W) bool.

    A pixel is one if the grey picture changes there no less than at both neighbours across the
    edge, and by more than `low`, and if pixels that touch lead from it to one of more than `high`.
    """
    weights = torch.tensor(GREY, device=images.device).view(1, 3, 1, 1)
    grey = (images.float() * weights).sum(1, keepdim=True) / 2  # of a range of 1
    across, down = gradients(smoothed(grey))
    size = across.square().add(down.square()).sqrt()  # (B, 1, H, W)
    ridge = (size > low) & highest(size, across, down)
    return grown(ridge & (size > high), ridge)


def smoothed(grey: Tensor) -> Tensor:
    """(B, 1, H, W) behind a Gaussian; beyond the border the last pixels are repeated."""
    offsets = torch.arange(-RADIUS, RADIUS + 1, device=grey.device, dtype=grey.dtype)
    kernel = torch.exp(-offsets.square() / (2 * SIGMA**2))
    kernel = kernel / kernel.sum()
    grey = F.pad(grey, (RADIUS,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(grey, kernel.view(1, 1, 1, -1)), kernel.view(1, 1, -1, 1))


def gradients(grey: Tensor) -> tuple[Tensor, Tensor]:
    """Change from pixel to pixel across and down, each (B, 1, H, W), by Sobel's kernels."""
    kernel = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]], device=grey.device) / 8
    both = torch.stack((kernel, kernel.T)).unsqueeze(1)
    across, down = F.conv2d(F.pad(grey, (1,) * 4, mode="replicate"), both).split(1, 1)
    return across, down


def highest(size: Tensor, across: Tensor, down: Tensor) -> Tensor:
    """Where a gradient is no smaller than that of the two neighbours in its direction, to 45
    degrees; of the neighbour ahead it must be larger, so that of two equal ones one is left."""
    turn = torch.atan2(down, across) / (math.pi / 4)
    direction = turn.round().long() % 4  # a gradient and its opposite are one
    padded, (height, width) = F.pad(size, (1,) * 4), size.shape[2:]
    found = torch.zeros_like(size, dtype=torch.bool)
    for number, (row, column) in enumerate(AHEAD):
        ahead = padded[:, :, 1 + row :, 1 + column :][:, :, :height, :width]
        behind = padded[:, :, 1 - row :, 1 - column :][:, :, :height, :width]
        found |= (direction == number) & (size > ahead) & (size >= behind)
    return found


def grown(seeds: Tensor, ridge: Tensor) -> Tensor:
    """The pixels of `ridge` that touching ones connect with `seeds`, (B, 1, H, W) bool."""
    while True:
        wider = (F.max_pool2d(seeds.float(), 3, 1, 1) > 0) & ridge
        if torch.equal(wider, seeds):
            return seeds
        seeds = wider
