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
        self.filled = 1
        """All rows have guesses for the slots below this; the first needs none."""

    def fill(self, end: int) -> None:
        """Guess the slots of all rows below `end` that have no guess."""
        rows = torch.arange(len(self.codes), device=self.codes.device)
        for slot in range(self.filled, end):  # in turn: one may be near another
            guess = self.codes[rows, self.near[:, slot]]
            if self.known is not None:
                known = self.known.mask[:, slot].view(-1, *[1] * (guess.dim() - 1))
                guess = torch.where(known, self.codes[:, slot], guess)
            self.codes[:, slot] = guess
        self.filled = max(self.filled, end)


def nearest(spec: TokenSpec, orders: Tensor | None) -> Tensor:
    """For each slot of an order, (N,) or (B, N), the earlier slot whose position is nearest; of
    several the first, which is final soonest. Of the first slot: itself."""
    ((height, width),) = spec.grids
    cells = torch.cartesian_prod(torch.arange(height), torch.arange(width)).float()  # (N, 2)
    places = cells if orders is None else cells[orders.cpu()]  # (N, 2) or (B, N, 2)
    away = torch.cdist(places, places)
    earlier = torch.ones_like(away).tril(-1).bool()
    return away.masked_fill(~earlier, torch.inf).argmin(-1)  # of all inf the first
