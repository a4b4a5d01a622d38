"""Several codes of a causal model in one pass; the picture is the one that drawing them one after
another gives.

The noise of a slot has an address, so what is drawn there is a function of what is before it. A
pass guesses the codes of a window of slots, and draws all of them, each with its own noise, from
the guesses before it. Where those were right, what was drawn is what drawing in turn gives. So
codes are final from the left up to the first that was guessed wrongly, that one included, and the
window moves on; what was drawn behind it are the guesses of the next pass. This is the Jacobi
iteration of Song et al. 2021 ("Accelerating feedforward computation via parallel nonlinear equation
solving", arXiv:2002.03629) with common random numbers; Teng et al. 2024 ("Accelerating
auto-regressive text-to-image generation with training-free speculative Jacobi decoding",
arXiv:2410.01699) accept by another rule, and draw another picture.

Rows advance by themselves. Numbers computed for several slots at once are rounded in another way
than for one: where two ids are as good as equal, the other may win, once in many pictures.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from smalti.codes import Draw, Known, Span, TokenSpec
from smalti.engine.causal import Begun, CausalModel, kept, one_by_one, spans
from smalti.engine.step import Request, Step, Watch
from smalti.sampling.chance import Chance
from smalti.sampling.noise import SlotNoise
from smalti.sampling.orders import arrange

P = TypeVar("P")
C = TypeVar("C")


@torch.inference_mode()
def stream(model: CausalModel[P, C], request: Request) -> Iterator[Step]:
    """Draw the codes of a batch, `request.window` slots at a time, yielding a `Step` after each
    pass. Its `done` counts codes, of the row that has the fewest.

    Raises ValueError as the causal loop does, and for a model that does not draw codes of one
    position after another.
    """
    begun = Begun.of(model, request)
    spec, codes, total = begun.spec, begun.codes, begun.spec.positions
    if not one_by_one(spans(model.blocks(spec)), spec):
        raise ValueError("only codes that are drawn one position after another can be drawn ahead")
    guesses = Guesses(begun)
    width = min(request.window, total)
    ahead, rows = (torch.arange(n, device=codes.device) for n in (width, len(codes)))
    time, done = codes.new_zeros(len(codes), 1), 0  # how many codes of each row are final
    while done < total:
        slots = time.clamp(max=total - width) + ahead  # (B, n)
        guesses.fill(slots)
        draw, given = _draw(model, request, begun, slots)
        found, at = kept(draw.codes, given), (rows.unsqueeze(1), slots)
        wrong = (found != codes[at]).view(*slots.shape, -1).any(-1)  # (B, n)
        final = F.pad(~wrong[:, :-1], (1, 0), value=True).cumprod(1).bool()
        codes[at] = found
        time = slots[:, :1] + final.sum(1, keepdim=True)
        done = int(time.min())
        logp = draw.logp.masked_fill(~final, torch.nan)
        yield Step(done, total, arrange(codes, begun.back), logp, begun.drawn(time))


def _draw(
    model: CausalModel[P, C], request: Request, begun: Begun[P, C], slots: Tensor
) -> tuple[Draw, Known | None]:
    """Draw all codes of slots (B, n) from what is before each; and which of them are given."""
    total, reach = begun.spec.positions, int(slots.max()) + 1
    span = Span.rows(slots, reach)
    if bool((slots == slots[:1]).all()):  # which needs no gathering
        span = Span(slots[0], reach, int(slots[0, 0]))
    guide = request.guidance.of_slots(slots, total)
    noise = SlotNoise(request.noise, slots, 0, begun.ahead, reach, race=True)
    rows = torch.arange(len(slots), device=slots.device).unsqueeze(1)
    given = begun.known and Known(*(t[rows, slots] for t in begun.known))
    chance = Chance(guide, noise, request.filters, request.solver, given)
    draw = model.draw(begun.codes, begun.prepared, span, begun.cache, chance)
    Watch(begun.spec, 1).see(draw)
    return draw, given


class Guesses:
    """The first guess of a code: that of the nearest position which is drawn before it."""

    def __init__(self, begun: Begun[P, C]) -> None:
        self.codes, self.known = begun.codes, begun.known
        if self.known is not None:
            self.codes[:] = kept(self.codes, self.known)
        self.near = nearest(begun.spec, begun.orders).to(self.codes.device)
        self.filled = self.codes.new_ones(len(self.codes))
        """Slots of each row that have a guess, (B,); the first needs none."""

    def fill(self, slots: Tensor) -> None:
        """Guess those of slots (B, n), which follow each other, that have no guess."""
        new = int((slots[:, -1] - self.filled).max()) + 1
        rows = torch.arange(len(slots), device=slots.device)
        for slot in slots.T[
            max(slots.shape[1] - new, 0) :
        ]:  # (B,), in turn: one may be near another
            near = self.near[slot] if self.near.dim() == 1 else self.near[rows, slot]
            fresh = slot >= self.filled
            if self.known is not None:
                fresh = fresh & ~self.known.mask[rows, slot]
            fresh = fresh.view(-1, *[1] * (self.codes.dim() - 2))
            guess = torch.where(fresh, self.codes[rows, near], self.codes[rows, slot])
            self.codes[rows, slot] = guess
        self.filled = torch.maximum(self.filled, slots[:, -1] + 1)


def nearest(spec: TokenSpec, orders: Tensor | None) -> Tensor:
    """For each slot of an order, (N,) or (B, N), the earlier slot whose position is nearest; of
    several the first, which is final soonest. Of the first slot: itself."""
    ((height, width),) = spec.grids
    cells = torch.cartesian_prod(torch.arange(height), torch.arange(width)).float()  # (N, 2)
    places = cells if orders is None else cells[orders.cpu()]  # (N, 2) or (B, N, 2)
    away = torch.cdist(places, places)
    earlier = torch.ones_like(away[..., :, :]).tril(-1).bool()
    return away.masked_fill(~earlier, torch.inf).argmin(-1)  # of all inf the first
