"""The loop of every causal system: draw one block of codes after another, streaming.

A model draws, the engine keeps what changes: codes, cache, noise, step count. Known codes (for
in-painting, out-painting, prompts made of image parts) are an argument of the loop, so editing
works for every causal system.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from smalti.codes import Cond, Draw, Guide, Span, TokenSpec
from smalti.engine.step import Known, Step, Watch, check_orders, check_request, width
from smalti.sampling.filters import Filters
from smalti.sampling.guidance import Guidance
from smalti.sampling.noise import Noise, SlotNoise
from smalti.sampling.orders import arrange, inverse


class CausalModel(Protocol):
    """What the loop knows of a model. Slot i holds what code i is predicted from."""

    spec: TokenSpec
    blocks: Sequence[int]
    """Positions per step: [1] * 256 for raster, [1, 4, 9, ...] for a pyramid."""

    def prepare(self, cond: Cond, orders: Tensor | None = None) -> Any:
        """All that no drawn code changes, once per image. Only raster models take `orders`."""
        ...

    def cache(self, batch: int) -> Any:
        """An empty cache for this many rows."""
        ...

    def hidden(self, codes: Tensor, cond: Any, span: Span, cache: Any = None) -> Tensor:
        """Hidden states (B, n, D); reads codes (or, after `Draw.vectors`, vectors) of earlier
        blocks only, in the order in which they are drawn."""
        ...

    def draw(
        self,
        codes: Tensor,
        cond: Any,
        span: Span,
        cache: Any,
        guide: Guide,
        noise: SlotNoise,
        filters: Filters,
    ) -> Draw: ...

    def loss(self, codes: Tensor, cond: Cond, read: Tensor | None = None) -> Tensor: ...


def spans(
    blocks: Sequence[int], device: torch.device | str | None = None, bucket: int = 1
) -> list[Span]:
    """The slots of each step. `bucket` rounds up how far attention reads the cache: 1 reads exactly
    what is filled (a CPU); more gives few shapes (captured graphs, compiled steps)."""
    if bucket < 1 or any(n < 1 for n in blocks):
        raise ValueError(f"bucket and blocks must be positive, got {bucket}, {list(blocks)}")
    total, start, result = sum(blocks), 0, list[Span]()
    slots = torch.arange(total, device=device)
    for n in blocks:
        end = start + n
        reach = min(-(-end // bucket) * bucket, total)
        result.append(Span(slots[start:end], start == 0, reach, padded=reach > end))
        start = end
    return result


@torch.inference_mode()
def stream(
    model: CausalModel,
    cond: Cond,
    noise: Noise,
    guidance: Guidance | None = None,
    filters: Filters | None = None,
    known: Known | None = None,
    bucket: int = 1,
    negative: Cond | None = None,
    orders: Tensor | None = None,
) -> Iterator[Step]:
    """Draw the codes of a batch block by block, yielding a `Step` after each.

    `cond` has B rows and stands on the model's device; `negative` (B rows) takes the place of the
    null condition in guidance; `orders` (N,) or (B, N) the place of the model's own order. Raises
    ValueError if `noise`, `known`, `negative` or `orders` has another batch or shape, if a label is
    no class of the model, if the model cannot do what is asked, or if what it draws is no number.
    """
    guidance, filters = guidance or Guidance(), filters or Filters()
    batch, device, spec = cond.batch, cond.device, model.spec
    check_request(model, cond, noise, known, negative)
    if filters.smooth and not hasattr(model, "embed"):
        raise ValueError("smooth is for multi-scale models; this one has a single grid")
    if orders is not None:
        check_orders(orders, spec, batch)
    orders = getattr(model, "order", None) if orders is None else orders
    back = None if orders is None else inverse(orders).to(device)
    given = None if known is None else Known(*(arrange(t, orders) for t in known))
    time = torch.arange(spec.positions, device=device) if back is None else back
    codes, vectors = spec.empty(batch, device), None  # in the order in which they are drawn
    uniform = noise.uniform(torch.arange(spec.positions), *width(spec))
    branches = guidance.branches(cond, negative)
    cache = model.cache(branches.batch)
    prepared = model.prepare(branches, *_orders(orders, branches.batch // batch, device))
    steps = spans(model.blocks, device, bucket)
    watch = Watch(spec, len(steps))
    for i, span in enumerate(steps):
        slots = span.slots
        guide, numbers = guidance.at(i, len(steps)), SlotNoise(uniform[:, slots], noise, slots)
        read = codes if vectors is None else vectors
        draw = model.draw(read, prepared, span, cache, guide, numbers, filters)
        watch.see(draw)
        codes[:, slots] = _kept(draw.codes, given, slots)
        if draw.vectors is not None:
            if vectors is None:
                vectors = draw.vectors.new_zeros(batch, spec.positions, draw.vectors.shape[-1])
            vectors[:, slots] = _kept(draw.vectors, given, slots, model)
        ready = time <= slots[-1]
        yield Step(i + 1, len(steps), arrange(codes, back), draw.logp, ready, vectors)


def generate(
    model: CausalModel,
    cond: Cond,
    noise: Noise,
    guidance: Guidance | None = None,
    filters: Filters | None = None,
    known: Known | None = None,
    bucket: int = 1,
    negative: Cond | None = None,
    orders: Tensor | None = None,
) -> Tensor:
    """What a tokenizer decodes of a batch, mostly codes (B, N, *trailing): the last step of
    `stream`."""
    drawn = model.spec.empty(cond.batch, cond.device)
    for step in stream(model, cond, noise, guidance, filters, known, bucket, negative, orders):
        drawn = step.drawn
    return drawn


def _kept(new: Tensor, given: Known | None, slots: Tensor, model: Any = None) -> Tensor:
    """What was drawn at `slots`, with what is given where it is: codes, or a model's vectors."""
    if given is None:
        return new
    mask, codes = given.mask[:, slots], given.codes[:, slots]
    mask = mask.reshape(*mask.shape, *[1] * (new.dim() - 2))
    return torch.where(mask, model.embed(codes).to(new) if model else codes, new)


def _orders(orders: Tensor | None, branches: int, device: torch.device) -> tuple[Tensor, ...]:
    """The argument of `prepare`, a row for each branch of each image; none without orders."""
    if orders is None:
        return ()
    orders = orders.to(device)
    return (orders if orders.dim() == 1 else orders.repeat(branches, 1),)
