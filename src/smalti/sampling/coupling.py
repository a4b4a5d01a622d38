"""Draws that mostly repeat a draft, and are as likely as if there were none.

A draft x drawn from q is kept with probability min(1, p(x) / q(x)); else the code is drawn from
what p has more than q, max(0, p - q) divided by its sum. Either way it is drawn from p (Leviathan,
Kalman, Matias 2022, arXiv:2211.17192). As a pass of a window does so, codes are final up to the
first that was not kept, that one included: speculative Jacobi decoding (Teng et al. 2024,
arXiv:2410.01699). Drafts behind it are kept by the same rule, and were then drawn from p, instead
of being drawn anew (So et al. 2025, arXiv:2510.24211).

B images, n slots, V ids.
"""

from __future__ import annotations

import torch
from torch import Tensor

from smalti.sampling.filters import draw
from smalti.sampling.noise import SlotNoise

FIRST = 2
"""Steps of noise below this are of other draws."""


def accepted(p: Tensor, q: Tensor, drafts: Tensor, uniform: Tensor) -> Tensor:
    """Which drafts (...) int64, drawn from q (..., V), are kept as drawn from p (..., V): (...)
    bool. `uniform` (...) in [0, 1) decides."""
    mine, theirs = (t.gather(-1, drafts.unsqueeze(-1)).squeeze(-1) for t in (p, q))
    return uniform * theirs < mine


def residual(p: Tensor, q: Tensor) -> Tensor:
    """What codes are drawn from in place of drafts that are not kept, (..., V); zeros where p is
    nowhere above q."""
    more = (p - q).clamp(min=0)
    return more / more.sum(-1, keepdim=True).clamp(min=torch.finfo(more.dtype).tiny)


class Drafts:
    """Draws codes of slots again and again as their probabilities change, each time with new
    numbers; a `noise.Drawing`.

    Args: how many images; of how many slots that follow each other drafts are kept.
    """

    def __init__(self, batch: int, slots: int) -> None:
        self.batch, self.size, self.number = batch, slots, FIRST
        self._slots, self._kept = dict[int, Tensor](), dict[int, tuple[Tensor, Tensor]]()
        """By part: which slot a place is of, (B, size); its draft, and what that was drawn from,
        (B, size, V)."""

    def __call__(
        self, noise: SlotNoise, logits: Tensor, part: int, parts: int, first: int = 0
    ) -> tuple[Tensor, Tensor]:
        """As `SlotNoise.draw`; the first part begins a new turn."""
        self.number += part == 0
        slots = noise.slots.expand(self.batch, -1)  # (B, n)
        numbers = noise.source.uniform(noise.slots, 2 * parts, step=self.number)
        keep, new = numbers[..., 2 * part], numbers[..., 2 * part + 1]  # (B, n)
        if part not in self._kept:
            size = (self.batch, self.size)
            self._slots[part] = slots.new_full(size, -1)
            self._kept[part] = slots.new_zeros(size), logits.new_zeros(*size, logits.shape[-1])
        at = torch.arange(self.batch, device=slots.device).unsqueeze(1), slots % self.size
        (drafts, drawn_from), p = self._kept[part], logits.softmax(-1)
        q, there = drawn_from[at], self._slots[part][at] == slots  # (B, n, V), (B, n)
        right = there & accepted(p, q, drafts[at], keep)
        instead = torch.where(there.unsqueeze(-1), residual(p, q), p)
        codes = torch.where(right, drafts[at], draw(instead.log(), new)[0])
        self._slots[part][at], drafts[at], drawn_from[at] = slots, codes, p
        return codes, p.gather(-1, codes.unsqueeze(-1)).squeeze(-1).log()
