"""The loop of every causal system: draw one block of codes after another, streaming.

A model draws, the engine keeps what changes: codes, cache, noise, step count. Known codes (for
in-painting, out-painting, prompts made of image parts) are an argument of the loop, so editing
works for every causal system.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from smalti.codes import Cond, Draw, Rowwise, Span, TokenSpec
from smalti.engine.branches import alone_from
from smalti.engine.step import Known, Model, Request, Step, Watch, check_request, width
from smalti.sampling.chance import Chance
from smalti.sampling.guidance import Guidance
from smalti.sampling.noise import Noise, SlotNoise
from smalti.sampling.orders import arrange, inverse

P = TypeVar("P")
"""What a model prepares, once per image."""
C = TypeVar("C", bound=Any)
"""Its cache."""


class CausalModel(Model, Protocol[P, C]):
    """What the loop knows of a model. Slot i holds what code i is predicted from."""

    def order(self, spec: TokenSpec | None = None) -> Tensor | None:
        """The model's own order of positions, (N,); None if it is row by row."""
        ...

    def blocks(self, spec: TokenSpec | None = None) -> Sequence[int]:
        """Positions per step: [1] * 256 for raster, [1, 4, 9, ...] for a pyramid."""
        ...

    def prepare(self, cond: Cond, orders: Tensor | None = None, spec: TokenSpec | None = None) -> P:
        """All that no drawn code changes, once per image. Only models of one grid take `orders`."""
        ...

    def cache(self, batch: int, spec: TokenSpec | None = None) -> C:
        """An empty cache for this many rows."""
        ...

    def hidden(self, codes: Tensor, cond: P, span: Span, cache: C | None = None) -> Tensor:
        """Hidden states (B, n, D); reads codes (or, after `Draw.vectors`, vectors) of earlier
        blocks only, in the order in which they are drawn."""
        ...

    def draw(self, codes: Tensor, cond: P, span: Span, cache: C, chance: Chance) -> Draw: ...

    def embed(self, codes: Tensor) -> Tensor:
        """The vectors (B, n, C) that codes stand for, of a model that draws mixtures (`smooth`)."""
        ...

    def loss(
        self, codes: Tensor, cond: Cond, orders: Tensor | None = None, noise: Noise | None = None
    ) -> Tensor:
        """What training minimises at each position, (B, N); `noise` of heads that need it."""
        ...


def spans(blocks: Sequence[int], device: torch.device | str | None = None) -> list[Span]:
    """The slots of each step. Raises ValueError for a block without positions."""
    if any(n < 1 for n in blocks):
        raise ValueError(f"blocks must be positive, got {list(blocks)}")
    start, result = 0, list[Span]()
    slots = torch.arange(sum(blocks), device=device)
    for n in blocks:
        result.append(Span(slots[start : start + n], start + n, start))
        start += n
    return result


@torch.inference_mode()
def stream(model: CausalModel[P, C], request: Request) -> Iterator[Step]:
    """Draw the codes of a batch block by block, yielding a `Step` after each.

    Raises ValueError if something of the request has another batch or shape, if a label is no class
    of the model, if the model cannot do what is asked, or if what it draws is no number.
    """
    spec, cond, noise = check_request(model, request), request.cond, request.noise
    batch, device, guidance = cond.batch, cond.device, request.guidance
    orders = model.order(spec) if request.orders is None else request.orders
    orders = None if orders is None else orders.to(device)
    back = None if orders is None else inverse(orders)
    known = request.known and Known(*(arrange(t, orders) for t in request.known))
    time = torch.arange(spec.positions, device=device) if back is None else back
    codes, vectors = spec.empty(batch, device), None  # in the order in which they are drawn
    uniform = noise.uniform(torch.arange(spec.positions), width(spec))
    branches = guidance.branches(cond, request.negative, request.pictures)
    cache = model.cache(branches.batch, spec)
    prepared = model.prepare(branches, _of_branches(orders, branches.batch // batch), spec)
    steps = spans(model.blocks(spec), device)
    watch = Watch(spec, len(steps))
    alone = alone_from(guidance, len(steps))
    for i, span in enumerate(steps):
        slots = span.slots
        numbers = SlotNoise(noise, slots, ahead=uniform[:, slots])
        given = known and Known(known.codes[:, slots], known.mask[:, slots])
        if i == alone and isinstance(prepared, Rowwise):  # no other branch is needed any more
            first = torch.arange(batch, device=device)
            prepared, cache, guidance = prepared.rows(first), cache.rows(first), Guidance()
        guide = guidance.at(i, len(steps))
        chance = Chance(guide, numbers, request.filters, request.solver, given)
        read = codes if vectors is None else vectors
        draw = model.draw(read, prepared, span, cache, chance)
        watch.see(draw)
        codes[:, slots] = _kept(draw.codes, given)
        if draw.vectors is not None:
            if vectors is None:
                vectors = draw.vectors.new_zeros(batch, spec.positions, draw.vectors.shape[-1])
            vectors[:, slots] = _kept(draw.vectors, given, model)
        ready = time <= slots[-1]
        yield Step(i + 1, len(steps), arrange(codes, back), draw.logp, ready, vectors)


def _kept(new: Tensor, known: Known | None, model: CausalModel[P, C] | None = None) -> Tensor:
    """What was drawn at a span, with what is known where it is: codes, or a model's vectors."""
    if known is None:
        return new
    codes, mask = known
    mask = mask.reshape(*mask.shape, *[1] * (new.dim() - 2))
    return torch.where(mask, model.embed(codes).to(new) if model else codes, new)


def _of_branches(orders: Tensor | None, branches: int) -> Tensor | None:
    """Orders with a row for each branch of each image, where each image has its own."""
    return orders if orders is None or orders.dim() == 1 else orders.repeat(branches, 1)
