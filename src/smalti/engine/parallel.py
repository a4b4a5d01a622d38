"""Several codes of a causal model in one pass; the picture is the one that drawing them one after
another gives.

The noise of a slot has an address, so what is drawn there is a function of what is before it. A
pass guesses the codes of a window of slots, and draws all of them, each with its own noise, from
the guesses before it. Where those were right, what was drawn is what drawing in turn gives. So
codes are final from the left up to the first that was guessed wrongly, that one included, and the
window moves on; what was drawn behind it are the guesses of the next pass. This is the Jacobi
iteration of Song et al. 2021 ("Accelerating feedforward computation via parallel nonlinear equation
solving", arXiv:2002.03629) with common random numbers.

Rows advance by themselves. Numbers computed for several slots at once are rounded in another way
than for one: where two ids are as good as equal, the other may win, once in many pictures.

B images, n slots of a pass, N positions.
"""

from __future__ import annotations

from collections.abc import Iterator
from time import perf_counter, thread_time
from typing import TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.codes import Draw, Known, Span
from smalti.engine.causal import Begun, CausalModel, begin, kept, one_by_one, spans
from smalti.engine.guesses import Guesses
from smalti.engine.step import Request, Step, Watch
from smalti.engine.window import Window
from smalti.sampling.chance import Chance
from smalti.sampling.coupling import Drafts
from smalti.sampling.noise import SlotNoise, racing
from smalti.sampling.orders import arrange

P = TypeVar("P")
C = TypeVar("C")


@torch.inference_mode()
def stream(model: CausalModel[P, C], request: Request) -> Iterator[Step]:
    """Draw the codes of a batch, a window of slots at a time, yielding a `Step` after each pass.
    Its `done` counts codes, of the row that has the fewest.

    Raises ValueError as the causal loop does, and for a model that does not draw codes of one
    position after another, or draws them by windows.
    """
    begun = begin(model, request)
    turns = one_by_one(spans(model.blocks(begun.spec)), begun.spec)
    if not turns or model.by_windows(request.spec):  # a slot that is drawn ahead costs a window
        raise ValueError(
            f"parallel {request.parallel.mode} is for codes that are drawn one position after "
            "another, and not by windows"
        )
    yield from Passes(model, request, begun).stream()


def wanted(model: CausalModel[P, C], request: Request) -> bool:
    """Whether a request is to be drawn here. `auto` is where that gives the same codes but once in
    many pictures (in less than float32 other codes are as good as equal too often), and of one
    picture: for several, a pass of several slots costs too much (docs/performance.md)."""
    mode = request.parallel.mode
    if mode != "auto":
        return mode != "off"
    if request.cond.batch > 1 or model.by_windows(request.spec):
        return False
    spec = model.draws(request.spec)
    weights = cast(nn.Module, model).parameters()  # those of a recorded model too
    exact = all(weight.dtype == torch.float32 for weight in weights)
    return exact and one_by_one(spans(model.blocks(spec)), spec)


class Passes:
    """The passes of a request."""

    def __init__(self, model: CausalModel[P, C], request: Request, begun: Begun[P, C]) -> None:
        self.model, self.request, self.begun = model, request, begun
        self.total, batch = begun.spec.positions, len(begun.codes)
        self.rows = torch.arange(batch, device=begun.codes.device).unsqueeze(1)
        self.guesses = Guesses(begun)
        self.scales = request.guidance.each_scale(self.total, begun.codes.device)
        self.window = Window(request.parallel, self.total)
        speculative = request.parallel.mode == "speculative"
        self.by = Drafts(batch, self.window.most) if speculative else racing

    def stream(self) -> Iterator[Step]:
        """What is drawn, pass by pass."""
        codes, watch = self.begun.codes, Watch(self.begun.spec, self.total)
        clock = thread_time if codes.device.type == "cpu" else perf_counter
        time = codes.new_zeros(len(codes), 1)  # how many codes of each row are final
        before = [0] * len(codes)  # the same, in Python: read once a pass, as a GPU is waited for
        while (done := min(before)) < self.total:
            began, width = clock(), self.window.width(self.total - done)
            slots = time.clamp(max=self.total - width) + torch.arange(width, device=time.device)
            begins = [min(n, self.total - width) for n in before]
            draw, final = self.drawn(slots, begins, time)
            watch.see(draw)
            fresh = final & (slots >= time)
            time = torch.maximum(time, slots[:, :1] + final.sum(1, keepdim=True))
            after = [int(n) for n in time[:, 0].cpu()]
            came = [b - a for a, b in zip(before, after, strict=True) if a + width <= self.total]
            self.window.see(width, came, clock() - began)
            before = after
            if min(after) == self.total:
                watch.end()
            logp = draw.logp.masked_fill(~fresh, torch.nan)
            picture = arrange(codes, self.begun.back)
            yield Step(min(after), self.total, picture, logp, self.begun.drawn(time))

    def drawn(self, slots: Tensor, begins: list[int], time: Tensor) -> tuple[Draw, Tensor]:
        """Draw codes of slots (B, n), which begin at `begins`, and write down those that are not
        final yet; `time` (B, 1) says which. Returns the draw, and which are final now, (B, n)
        bool."""
        codes, at = self.begun.codes, (self.rows, slots)
        self.guesses.fill(slots, begins)
        span = self.span(slots, begins)
        old, known = codes[at], self.begun.known
        given = None if known is None else Known(*(t[at] for t in known))
        draw = self.model.draw(
            codes,
            self.begun.prepared,
            span,
            self.begun.cache,
            self.chance(slots, span.reach, given),
        )
        past = slots < time
        past = past.view(*past.shape, *[1] * (old.dim() - 2))
        new = torch.where(past, old, kept(draw.codes, given))
        codes[at] = new
        right = (new == old).view(*slots.shape, -1).all(-1)  # (B, n)
        return draw, F.pad(right[:, :-1], (1, 0), value=True).cumprod(1).bool()

    def span(self, slots: Tensor, begins: list[int]) -> Span:
        """Of slots (B, n); where all rows stand at the same, it needs no gathering."""
        reach = max(begins) + slots.shape[1]
        if min(begins) == max(begins):
            return Span(slots[0], reach, begins[0])
        return Span.rows(slots, reach)

    def chance(self, slots: Tensor, reach: int, given: Known | None = None) -> Chance:
        """How codes of slots (B, n) are drawn, all in one pass."""
        request = self.request
        guide = request.guidance.guide(self.scales[slots])
        noise = SlotNoise(request.noise, slots, 0, self.begun.ahead, reach, self.by)
        return Chance(guide, noise, request.filters, request.solver, given)
