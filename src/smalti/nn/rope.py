"""Rotary position embedding (Su et al. 2021, arXiv:2104.09864), 1-D and 2-D, interleaved pairs.

A table is (positions, head_dim / 2, 2): cosine and sine of each pair's angle, float32. Rotation is
done in float32 and cast back. A row of zeros (LlamaGen's prefix) makes queries and keys zero.

HART turns other pairs, i and i + head_dim / 2 (`rope_halves`, `rotate_halves`); positions there may
be fractions, and other ones in each row of a batch.
"""

from __future__ import annotations

import torch
from torch import Tensor


def rope_1d(length: int, head_dim: int, base: float = 10000.0) -> Tensor:
    """Table of positions 0 ... length - 1: (length, head_dim / 2, 2)."""
    if head_dim % 2:
        raise ValueError(f"1-D RoPE needs an even head_dim, got {head_dim}")
    frequency = base ** (-torch.arange(0, head_dim, 2).float() / head_dim)
    angle = torch.outer(torch.arange(length).float(), frequency)
    return torch.stack((angle.cos(), angle.sin()), -1)


def rope_2d(height: int, width: int, head_dim: int, base: float = 10000.0) -> Tensor:
    """Table of a grid row by row, (height * width, head_dim / 2, 2).

    The first half of the pairs turns with the row, the second with the column.
    """
    if head_dim % 4:
        raise ValueError(f"2-D RoPE needs a head_dim that 4 divides, got {head_dim}")
    rows = rope_1d(height, head_dim // 2, base)[:, None].expand(-1, width, -1, -1)
    columns = rope_1d(width, head_dim // 2, base)[None].expand(height, -1, -1, -1)
    return torch.cat((rows, columns), 2).flatten(0, 1)


def rope_2d_within(
    grid: tuple[int, int], whole: tuple[int, int], head_dim: int, base: float = 10000.0
) -> Tensor:
    """Table of a grid whose rows and columns are spread over those of the `whole` one, which is as
    large or larger: (height * width, head_dim / 2, 2). So a place in the picture turns alike on
    every grid."""
    table = rope_2d(*whole, head_dim, base).unflatten(0, whole)
    rows, columns = (
        (torch.arange(side) * (full / side)).round().long()
        for side, full in zip(grid, whole, strict=True)
    )
    return table[rows][:, columns].flatten(0, 1)


def rotation(table: Tensor) -> Tensor:
    """The table as what `rotate` multiplies by: complex numbers (n, 1, head_dim / 2)."""
    return torch.view_as_complex(table.contiguous()).unsqueeze(1)


def rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """Turn the pairs of heads (B, n, H, head_dim) by rows (n, 1, head_dim / 2) of `rotation`.

    One complex product: on a CPU several times faster, forward and backward, than shuffled reals.
    """
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * rotation).flatten(-2).to(x.dtype)


def rope_halves(positions: Tensor, head_dim: int, base: float = 10000.0) -> Tensor:
    """Table (..., 2, head_dim), cosines and sines, of positions (..., axes) of one or two axes.

    Of two axes the first half of the dimensions has the angles of the first: a pair then has an
    angle of either, so that it is not only turned. Released weights depend on it.
    """
    axes = positions.shape[-1]
    if head_dim % (2 * axes):
        raise ValueError(f"head_dim must be a multiple of {2 * axes}, got {head_dim}")
    frequency = base ** (
        -torch.arange(0, head_dim, 2 * axes, device=positions.device).float() / head_dim
    )
    angle = positions.float().unsqueeze(-1) * frequency  # (..., axes, head_dim / 2 axes)
    angle = torch.cat((angle, angle), -1).flatten(-2)  # (..., head_dim)
    return torch.stack((angle.cos(), angle.sin()), -2)


def rope_2d_halves(height: int, width: int, head_dim: int, base: float = 10000.0) -> Tensor:
    """The angles of `rope_2d` for pairs i and i + head_dim / 2: (1, height * width, 2, head_dim)
    for `rotate_halves`, as the ViT of Qwen2-VL has it."""
    angles = rope_2d(height, width, head_dim, base).unbind(-1)  # cosines, sines
    return torch.stack([torch.cat((a, a), -1) for a in angles], 1)[None]


def rotate_halves(x: Tensor, table: Tensor) -> Tensor:
    """Turn heads (B, H, n, head_dim) by rows (B, n, 2, head_dim) of a table of `rope_halves`."""
    cos, sin = table.unsqueeze(1).unbind(-2)  # each (B, 1, n, head_dim)
    first, second = x.chunk(2, -1)
    return torch.addcmul(x * cos, torch.cat((-second, first), -1), sin).to(x.dtype)
