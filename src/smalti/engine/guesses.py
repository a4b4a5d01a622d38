"""First guesses of codes that are drawn ahead.

B images, n slots, N positions.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from smalti.codes import TokenSpec
from smalti.engine.causal import Begun, kept


class Guesses:
    """What stands at slots that no pass has drawn: the code of the nearest position before it.

    It is hardly ever right, but a slot is drawn several times before its turn comes, and the first
    guess is soon forgotten.
    """

    def __init__(self, begun: Begun[Any, Any]) -> None:
        self.codes, self.known = begun.codes, begun.known
        if self.known is not None:
            self.codes[:] = kept(self.codes, self.known)
        near = nearest(begun.spec, begun.orders).to(self.codes.device)
        self.near = near.expand(len(self.codes), -1)  # (B, N)
        self.filled = self.codes.new_ones(len(self.codes), 1)
        """How many slots of each row have a guess, (B, 1); the first needs none."""
        self.counts = [1] * len(self.codes)
        """The same, in Python."""
        self.rows = torch.arange(len(self.codes), device=self.codes.device).unsqueeze(1)

    def fill(self, slots: Tensor, begins: list[int]) -> None:
        """Guess those of slots (B, n), which follow each other from `begins` on, that have no
        guess."""
        ends, rows = [begin + slots.shape[1] for begin in begins], self.rows
        new = max(end - count for end, count in zip(ends, self.counts, strict=True))
        if new < 1:
            return
        self.counts = list(map(max, ends, self.counts))
        for k in range(max(slots.shape[1] - new, 0), slots.shape[1]):  # one may be near another
            slot = slots[:, k : k + 1]
            fresh = slot >= self.filled
            if self.known is not None:
                fresh = fresh & ~self.known.mask[rows, slot]
            fresh = fresh.view(-1, 1, *[1] * (self.codes.dim() - 2))
            guess = self.codes[rows, self.near[rows, slot]]
            self.codes[rows, slot] = torch.where(fresh, guess, self.codes[rows, slot])
        self.filled = torch.maximum(self.filled, slots[:, -1:] + 1)


def nearest(spec: TokenSpec, orders: Tensor | None) -> Tensor:
    """For each slot of an order, (N,) or (B, N), the earlier slot whose position is nearest; of
    several the first, which is final soonest. Of the first slot: itself."""
    ((height, width),) = spec.grids
    cells = torch.cartesian_prod(torch.arange(height), torch.arange(width)).float()  # (N, 2)
    places = cells if orders is None else cells[orders.cpu()]  # (N, 2) or (B, N, 2)
    away = torch.cdist(places, places)
    earlier = torch.ones_like(away).tril(-1).bool()
    return away.masked_fill(~earlier, torch.inf).argmin(-1)  # of all inf the first
