"""The loop of masked generation: predict many positions at once, keep some, and go on.

What is kept at a step are positions in an order (MAR, Fluid: a random one for each image), or those
that the model is surest of (MaskGIT). Codes that are given are known from the start, so editing
works for every model.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import Tensor

from smalti.codes import Cond, Draw, Guide, TokenSpec, Turn
from smalti.engine.step import Known, Step, Watch, check_orders, check_request, width
from smalti.sampling.filters import Filters
from smalti.sampling.guidance import Guidance
from smalti.sampling.noise import Noise, SlotNoise, gumbel
from smalti.sampling.orders import known_first, shuffled
from smalti.sampling.reveal import Reveal, least_sure


class MaskedModel(Protocol):
    """What the loop knows of a model. Codes at unknown positions are zero and not read."""

    spec: TokenSpec

    def prepare(self, cond: Cond) -> Any:
        """All that no drawn code changes, once per image."""
        ...

    def cache(self, batch: int) -> Any:
        """Where features of so many rows are kept from step to step; None if nowhere."""
        ...

    def hidden(self, codes: Tensor, cond: Any, turn: Turn, cache: Any = None) -> Tensor:
        """Hidden states (B, m, D) of the positions that the turn wants."""
        ...

    def draw(
        self,
        codes: Tensor,
        cond: Any,
        turn: Turn,
        cache: Any,
        guide: Guide,
        noise: SlotNoise,
        filters: Filters,
    ) -> Draw: ...

    def loss(
        self,
        codes: Tensor,
        cond: Cond,
        read: Tensor | None = None,
        known: Tensor | None = None,
        noise: Noise | None = None,
    ) -> Tensor:
        """What is minimised at each unknown position, 0 at known ones: (B, N)."""
        ...


@torch.inference_mode()
def stream(
    model: MaskedModel,
    cond: Cond,
    noise: Noise,
    guidance: Guidance | None = None,
    filters: Filters | None = None,
    known: Known | None = None,
    bucket: int = 1,
    negative: Cond | None = None,
    orders: Tensor | None = None,
    reveal: Reveal | None = None,
    refresh: int = 1,
) -> Iterator[Step]:
    """Draw the codes of a batch step by step, yielding a `Step` after each.

    Arguments as of `engine.causal.stream`. `orders` (N,) or (B, N) says what is revealed first;
    None is random, another one for each image. `bucket` rounds up how many known positions a model
    reads. With `refresh` above 1, features of known positions are computed anew only every so many
    steps, which is faster and not exact. Where fewer positions are unknown than there are steps,
    there are as many steps as unknown positions; rows that differ in their number share the steps
    and the guidance of the one that has most.
    Raises ValueError as `engine.causal.stream` does, and for what `Reveal` refuses.
    """
    guidance, filters, reveal = guidance or Guidance(), filters or Filters(), reveal or Reveal()
    batch, device, spec = cond.batch, cond.device, model.spec
    check_request(model, cond, noise, known, negative)
    _check_can(spec, filters, reveal, orders, batch, bucket, refresh)
    codes = spec.empty(batch, device)
    ready = torch.zeros(batch, spec.positions, dtype=torch.bool, device=device)
    if known is not None:
        ready = known.mask.to(device)
        codes = _where(ready, known.codes.to(codes), codes)
    unknown: list[int] = (~ready).sum(1).tolist()
    steps = min(reveal.count(spec.positions), max(unknown, default=0))
    if not steps:
        yield Step(1, 1, codes, codes.new_zeros(batch, 0, dtype=torch.float32), ready)
        return
    # hidden positions of each row before and after every step
    left = [[n, *reveal.left(n, steps)] for n in unknown]
    most = max(left)
    orders = shuffled(noise, spec.positions) if orders is None else orders
    orders = known_first(orders.to(device), ready)  # (B, N)
    branches = guidance.branches(cond, negative)
    prepared = model.prepare(branches)
    cache = model.cache(branches.batch) if refresh > 1 else None
    watch = Watch(spec, steps)
    sure, everywhere = reveal.confidence is not None, torch.arange(spec.positions, device=device)
    for i in range(steps):
        before, after = ([row[j] for row in left] for j in (i, i + 1))
        # as MAR counts: of all positions, and one as if it were hidden at the end
        hidden = max(1, after[left.index(most)])
        guide = guidance.at(i, steps, 1 - hidden / spec.positions)
        reach = -(-(spec.positions - min(before)) // bucket) * bucket
        wanted, kept = (None, None) if sure else _next(orders, before, after)
        turn = Turn(ready, wanted, min(reach, spec.positions), fresh=i % refresh == 0)
        slots, again = (everywhere, i) if wanted is None else (wanted, 0)
        uniform = noise.uniform(slots, *width(spec), step=2 * again)
        numbers = SlotNoise(uniform, noise, slots, again)
        draw = model.draw(codes, prepared, turn, cache, guide, numbers, filters)
        watch.see(draw)
        if kept is None or wanted is None:
            new = _where(ready, codes, draw.codes)
            ready = _surest(draw.logp, ready, after, numbers, reveal.weight(i, steps))
            codes = _where(ready, new, torch.zeros_like(codes))
        else:
            codes, ready = _placed(codes, ready, draw.codes, wanted, kept)
        yield Step(i + 1, steps, codes, draw.logp, ready)


def generate(model: MaskedModel, cond: Cond, noise: Noise, *args: Any, **more: Any) -> Tensor:
    """Codes (B, N, *trailing) of a batch: the last step of `stream`."""
    *_, last = stream(model, cond, noise, *args, **more)
    return last.drawn


def _next(orders: Tensor, before: list[int], after: list[int]) -> tuple[Tensor, Tensor]:
    """The positions (B, m) to draw, and which of them are to be kept: a row that draws fewer than
    another draws something in vain."""
    first, end = (orders.shape[1] - torch.tensor(n, device=orders.device) for n in (before, after))
    count = max(b - a for b, a in zip(before, after, strict=True))
    index = first[:, None] + torch.arange(count, device=orders.device)  # (B, m)
    return orders.gather(1, index.clamp(max=orders.shape[1] - 1)), index < end[:, None]


def _placed(
    codes: Tensor, ready: Tensor, new: Tensor, wanted: Tensor, kept: Tensor
) -> tuple[Tensor, Tensor]:
    """Codes (B, N, ...) and what is ready, with new codes (B, m, ...) at the wanted positions."""
    n = codes.shape[1]
    index = torch.where(kept, wanted, n)  # what is drawn in vain goes to a column of its own
    ready = torch.cat((ready, ready[:, :1]), 1).scatter(1, index, True)[:, :n]
    index = index.view(*index.shape, *[1] * (codes.dim() - 2)).expand(new.shape)
    codes = torch.cat((codes, codes[:, :1]), 1).scatter(1, index, new.to(codes))[:, :n]
    return codes, ready


def _surest(
    logp: Tensor, ready: Tensor, hidden: list[int], numbers: SlotNoise, weight: float
) -> Tensor:
    """What is ready when all but `hidden` positions of each row are revealed, (B, N) bool."""
    noise = gumbel(numbers.source.uniform(numbers.slots, step=2 * numbers.step + 1))
    confidence = (logp + weight * noise).masked_fill(ready, torch.inf)
    return ~least_sure(confidence, torch.tensor(hidden, device=logp.device))


def _where(mask: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Codes a where `mask` (B, N), codes b elsewhere."""
    return torch.where(mask.view(*mask.shape, *[1] * (b.dim() - 2)), a.to(b), b)


def _check_can(
    spec: TokenSpec,
    filters: Filters,
    reveal: Reveal,
    orders: Tensor | None,
    batch: int,
    bucket: int,
    refresh: int,
) -> None:
    reveal.count(spec.positions)
    for name, number in (("bucket", bucket), ("refresh", refresh)):
        if number < 1:
            raise ValueError(f"{name} must be at least 1, got {number}")
    if filters.smooth:
        raise ValueError("smooth is for multi-scale models; this one has a single grid")
    if reveal.confidence is not None and not spec.discrete:
        raise ValueError(
            f"confidence {reveal.confidence} is for discrete codes; continuous ones, which have no "
            "probability, are revealed in an order"
        )
    if orders is not None:
        check_orders(orders, spec, batch)
        if reveal.confidence is not None:
            raise ValueError("an order is for models that do not reveal by confidence")
