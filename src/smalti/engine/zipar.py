"""Several rows of a picture at once, each some codes behind the one above it: not exact.

He, Chen, He, He, Liu, Shan 2024, "ZipAR: Parallel Auto-regressive Image Generation through Spatial
Locality" (arXiv:2412.04062). The codes to the right in the row above say little of a code, so a row
begins as soon as the row above has `window` codes. What is missing then is the last code of that
row, which a row's first code is predicted from: the last one that is drawn stands in for it, and
what was computed from that is written again once the true one is there.

B images, n slots of a pass, H rows of W positions.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, TypeVar

import torch

from smalti.codes import Known, Span
from smalti.engine.causal import CausalModel, begin, kept, one_by_one, spans
from smalti.engine.step import Request, Step, Watch
from smalti.sampling.chance import Chance
from smalti.sampling.noise import SlotNoise, racing

P = TypeVar("P")
C = TypeVar("C")


class Pass(NamedTuple):
    """What one pass does, by slots."""

    drawn: list[int]
    again: list[int]
    """Beginnings of rows whose keys and values were computed from a stand-in."""
    stand_in: tuple[int, int] | None
    """Before it: a slot that has no code yet, and the one whose code stands in for it."""


def passes(height: int, width: int, window: int) -> list[Pass]:
    """The passes of a picture: in each that are at work, rows draw one code. As many as it takes
    the last row to begin and to be drawn."""
    found = list[Pass]()
    for t in range((height - 1) * window + width):
        columns = {row: t - row * window for row in range(height)}
        drawn = [row * width + column for row, column in columns.items() if 0 <= column < width]
        again = [(row + 1) * width for row in range(height - 1) if columns[row] == width]
        row, column = divmod(t, window)
        early = column == 0 and 0 < row < height and window < width
        stand_in = (row * width - 1, (row - 1) * width + window - 1) if early else None
        found.append(Pass(drawn, [slot for slot in again if slot not in drawn], stand_in))
    return found


@torch.inference_mode()
def stream(model: CausalModel[P, C], request: Request) -> Iterator[Step]:
    """Draw the codes of a batch, a code of several rows at a time, yielding a `Step` after each
    pass.

    Raises ValueError as the causal loop does, and for a model that does not draw codes of one
    position after another, or not row by row.
    """
    begun, batch = begin(model, request), request.cond.batch
    spec, codes, known = begun.spec, begun.codes, begun.known
    rows = one_by_one(spans(model.blocks(spec)), spec) and begun.orders is None
    if not rows or model.by_windows(request.spec):
        raise ValueError(
            "zipar is for models that draw one discrete code after another, by rows and not by "
            "windows"
        )
    ((height, width),) = spec.grids
    window = min(request.parallel.window or max(2, width // 3), width)
    plan, read = passes(height, width, window), codes.clone()  # with stand-ins
    written = torch.zeros(spec.positions, dtype=torch.bool, device=codes.device)
    ready, watch = written.clone(), Watch(spec, len(plan))
    for i, now in enumerate(plan):
        if now.stand_in is not None:
            missing, last = now.stand_in
            read[:, missing] = read[:, last]
        slots = torch.tensor(now.drawn + now.again, device=codes.device)
        written, ready = written.clone(), ready.clone()
        written[slots] = True
        reach = max(now.drawn) + 1
        span = Span(slots, reach, None if i else 0, written=written)
        given = known and Known(*(t[:, slots] for t in known))
        guide = request.guidance.of_slots(slots.expand(batch, -1), spec.positions)
        noise = SlotNoise(request.noise, slots, 0, begun.ahead, reach, racing)
        chance = Chance(guide, noise, request.filters, request.solver, given)
        draw = model.draw(read, begun.prepared, span, begun.cache, chance)
        watch.see(draw)
        count, fresh = len(now.drawn), slots[: len(now.drawn)]
        codes[:, fresh] = read[:, fresh] = kept(draw.codes, given)[:, :count]
        ready[fresh] = True
        yield Step(i + 1, len(plan), codes, draw.logp[:, :count], ready)
