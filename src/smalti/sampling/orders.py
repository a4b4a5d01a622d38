"""Orders of a grid: which position is drawn first, second, ...

An order is a permutation (N,) int64: order[i] is the row-major position that is drawn i-th, so
`codes[:, order]` puts codes in the order and `drawn[:, inverse(order)]` puts them back. Several may
be stacked, (B, N), one of each image.

The fixed orders are those of Esser, Rombach and Ommer (2020, arXiv:2012.09841, "On the Ordering of
Image Representations", the permuters of taming-transformers), here for a grid of any shape:

- row-major: row by row from the top, each from the left.
- spiral-in: up the right column from the bottom right corner, left along the top row, down, right,
  and on inwards, always turning left.
- spiral-out: spiral-in backwards.
- z-curve: Morton's curve: the four quarters of every square of 2^k x 2^k cells, one after another
  (top left, top right, bottom left, bottom right), each in the same way.
- subsample: every second position of every second row first, then those to their right, those
  below, and the rest; each of the four in the same way.
- alternate: row by row, odd rows from the right (boustrophedon).
- random: shuffled by a seed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from smalti.config import did_you_mean
from smalti.sampling.noise import Noise

_SHUFFLE = 0xFFFFFFFF
"""A step of the noise that no drawing reaches: the order tells nothing about the codes."""


def order(name: str, grid: tuple[int, int], seed: int = 0) -> Tensor:
    """The order `name` of a grid (height, width): (N,) int64. `seed` is for random only.

    Raises ValueError for an unknown name or an empty grid.
    """
    h, w = grid
    if h < 1 or w < 1:
        raise ValueError(f"a grid has at least one row and one column, got {grid}")
    if name == "random":
        return shuffled(Noise.request(seed, 1), h * w)[0]
    if name not in _FIXED:
        near = did_you_mean(name, NAMES)
        raise ValueError(f"order must be one of {', '.join(NAMES)}, got {name!r}{near}")
    return _FIXED[name](h, w)


def shuffled(noise: Noise, n: int) -> Tensor:
    """An order of n positions for each image, (B, n), by numbers that no code is drawn with."""
    slots = torch.arange(n, device=noise.seeds.device)
    return noise.uniform(slots, step=_SHUFFLE).argsort(stable=True, dim=-1)


@lru_cache(maxsize=64)
def scan(name: str, grid: tuple[int, int]) -> Tensor | None:
    """The fixed order of a model, (N,) int64, or None for row-major, which moves nothing.

    Raises ValueError for an unknown name, and for random, which has no order of its own.
    """
    if name == "random":
        fixed = ", ".join(_FIXED)
        raise ValueError(f"the order of a model must be one of {fixed}, got 'random'")
    return None if name == "row-major" else order(name, grid)


def arrange(values: Tensor, order: Tensor | None) -> Tensor:
    """Row-major values (B, N, ...) or (1, N, ...) in an order (N,) or (B, N), or in a part of one;
    None leaves them."""
    return values if order is None else _gather(values, order.to(values.device))


def restore(values: Tensor, order: Tensor | None) -> Tensor:
    """Values (B, N, ...) in an order (N,) or (B, N) back in row-major order."""
    return values if order is None else _gather(values, inverse(order.to(values.device)))


def _gather(values: Tensor, index: Tensor) -> Tensor:
    if index.dim() == 1:
        return values.index_select(1, index)
    if len(values) == 1:  # one row for all
        values = values.expand(len(index), *values.shape[1:])
    index = index.view(*index.shape, *[1] * (values.dim() - 2))
    return values.gather(1, index.expand(*index.shape[:2], *values.shape[2:]))


def inverse(order: Tensor) -> Tensor:
    """When each position is drawn: inverse(order)[order] is 0, 1, 2, ... (..., N)."""
    return order.argsort(-1)


def check_order(order: Tensor, n: int) -> None:
    """Raise ValueError unless `order` (..., n) is a permutation of 0 ... n - 1 along its last axis,
    naming an index that is missing or there twice."""
    if order.dim() < 1 or order.shape[-1] != n:
        raise ValueError(f"an order of {n} positions must be (..., {n}), got {tuple(order.shape)}")
    if order.dtype != torch.int64:
        raise ValueError(f"an order must be int64, got {order.dtype}")
    rows = order.reshape(-1, n)
    if torch.equal(rows.sort().values, torch.arange(n, device=order.device).expand_as(rows)):
        return
    for row in rows.cpu():
        outside = row[(row < 0) | (row >= n)]
        if len(outside):
            raise ValueError(f"an order of {n} positions has 0 ... {n - 1}, got {int(outside[0])}")
        count = row.bincount(minlength=n)
        if (count != 1).any():
            missing, twice = int((count == 0).nonzero()[0]), int((count > 1).nonzero()[0])
            raise ValueError(f"not a permutation: {missing} is missing, {twice} is there again")


def known_first(order: Tensor, known: Tensor) -> Tensor:
    """The order with all known positions in front, otherwise as it was: (N,), or (B, N).

    Args: order (N,) or (B, N); known (N,) or (B, N) bool by row-major position. A model that can
    take any order then sees everything that is given before it draws.
    """
    if order.dim() < known.dim():
        order = order.expand(known.shape)
    known = known.expand(order.shape)
    late = (~known.gather(-1, order)).byte()  # by time
    return order.gather(-1, late.argsort(stable=True, dim=-1))


def _row_major(h: int, w: int) -> Tensor:
    return torch.arange(h * w)


def _spiral_in(h: int, w: int) -> Tensor:
    rest, sides = _row_major(h, w).view(h, w), list[Tensor]()
    while rest.numel():
        sides.append(rest[:, -1].flip(0))
        rest = rest[:, :-1].rot90(-1)  # the next side on the right
    return torch.cat(sides)


def _alternate(h: int, w: int) -> Tensor:
    rows = _row_major(h, w).view(h, w).clone()
    rows[1::2] = rows[1::2].flip(1)
    return rows.flatten()


def _quarters(h: int, w: int) -> list[Tensor]:
    """In which quarter a position lies, (N,) of 2 * lower + right, by bit of its row and column."""
    y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    bits = max(h, w).bit_length()
    return [(2 * (y >> b & 1) + (x >> b & 1)).flatten() for b in range(bits)]


def _by(quarters: list[Tensor]) -> Tensor:
    """Positions by their quarters, the last one deciding first."""
    return torch.stack([q << 2 * i for i, q in enumerate(quarters)]).sum(0).argsort()


_FIXED: dict[str, Callable[[int, int], Tensor]] = {
    "row-major": _row_major,
    "spiral-in": _spiral_in,
    "spiral-out": lambda h, w: _spiral_in(h, w).flip(0),
    "z-curve": lambda h, w: _by(_quarters(h, w)),
    "subsample": lambda h, w: _by(_quarters(h, w)[::-1]),
    "alternate": _alternate,
}
NAMES = (*_FIXED, "random")
"""The orders that `order` knows."""
