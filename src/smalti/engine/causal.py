"""The loop of every causal system: draw one block of codes after another, streaming.

A model draws, the engine keeps what changes: codes, cache, noise, step count. Known codes (for
in-painting, out-painting, prompts made of image parts) are an argument of the loop, so editing
works for every causal system.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from smalti.codes import Cond, Draw, Rowwise, Span, TokenSpec
from smalti.engine.branches import alone_from
from smalti.engine.step import Known, Model, Request, Step, Watch, check_request
from smalti.sampling.chance import Chance
from smalti.sampling.guidance import Guidance
from smalti.sampling.noise import Ahead, Noise, SlotNoise, racing
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


@dataclass
class Begun(Generic[P, C]):
    """A request as a loop that draws it holds it; codes in the order in which they are drawn."""

    spec: TokenSpec
    codes: Tensor
    """(B, N, *trailing), zeros where none is drawn."""
    known: Known | None
    orders: Tensor | None
    """(N,) or (B, N) positions in the order of drawing; None: row by row."""
    back: Tensor | None
    """When each position is drawn, as `orders`."""
    ahead: Ahead
    prepared: P
    cache: C

    def drawn(self, time: Tensor) -> Tensor:
        """Which positions are drawn, (N,) or (B, N) bool, where `time`, (1,) or (B, 1), is how many
        are."""
        device = self.codes.device
        order = torch.arange(self.spec.positions, device=device) if self.back is None else self.back
        return order < time


def begin(model: CausalModel[P, C], request: Request) -> Begun[P, C]:
    """Raises ValueError as `stream` does."""
    spec, cond, guidance = check_request(model, request), request.cond, request.guidance
    orders = model.order(spec) if request.orders is None else request.orders
    orders = None if orders is None else orders.to(cond.device)
    branches = guidance.branches(cond, request.negative, request.pictures)
    copies = branches.batch // cond.batch
    return Begun(
        spec,
        spec.empty(cond.batch, cond.device),
        request.known and Known(*(arrange(t, orders) for t in request.known)),
        orders,
        None if orders is None else inverse(orders),
        Ahead(request.noise, spec.positions),
        model.prepare(branches, _of_branches(orders, copies), spec),
        model.cache(branches.batch, spec),
    )


@torch.inference_mode()
def stream(model: CausalModel[P, C], request: Request) -> Iterator[Step]:
    """Draw the codes of a batch block by block, yielding a `Step` after each.

    Raises ValueError if something of the request has another batch or shape, if a label is no class
    of the model, if the model cannot do what is asked, or if what it draws is no number.
    """
    begun, guidance = begin(model, request), request.guidance
    spec, codes, vectors = begun.spec, begun.codes, None
    steps = spans(model.blocks(spec), codes.device)
    by = racing if one_by_one(steps, spec) else None
    watch = Watch(spec, len(steps))
    alone = alone_from(guidance, len(steps))
    for i, span in enumerate(steps):
        slots = span.slots
        numbers = SlotNoise(request.noise, slots, 0, begun.ahead, span.reach, by)
        given = begun.known and Known(*(t[:, slots] for t in begun.known))
        if i == alone and isinstance(begun.prepared, Rowwise):  # no other branch is needed
            guidance, first = Guidance(), torch.arange(len(codes), device=codes.device)
            begun.prepared, begun.cache = begun.prepared.rows(first), begun.cache.rows(first)
        guide = guidance.at(i, len(steps))
        chance = Chance(guide, numbers, request.filters, request.solver, given, request.pruning)
        read = codes if vectors is None else vectors
        draw = model.draw(read, begun.prepared, span, begun.cache, chance)
        watch.see(draw)
        codes[:, slots] = kept(draw.codes, given)
        if draw.vectors is not None:
            if vectors is None:
                vectors = draw.vectors.new_zeros(
                    len(codes), *codes.shape[1:2], draw.vectors.shape[-1]
                )
            vectors[:, slots] = kept(draw.vectors, given, model)
        ready = begun.drawn(slots[-1:] + 1)
        yield Step(i + 1, len(steps), arrange(codes, begun.back), draw.logp, ready, vectors)


def one_by_one(steps: Sequence[Span], spec: TokenSpec) -> bool:
    """Whether each step draws one position of discrete codes. Their ids race, so that several steps
    can be one (`parallel`)."""
    return spec.discrete and len(steps) == spec.positions


def kept(new: Tensor, known: Known | None, model: CausalModel[P, C] | None = None) -> Tensor:
    """What was drawn at a span, with what is known where it is: codes, or a model's vectors."""
    if known is None:
        return new
    codes, mask = known
    mask = mask.reshape(*mask.shape, *[1] * (new.dim() - 2))
    return torch.where(mask, model.embed(codes).to(new) if model else codes, new)


def _of_branches(orders: Tensor | None, branches: int) -> Tensor | None:
    """Orders with a row for each branch of each image, where each image has its own."""
    return orders if orders is None or orders.dim() == 1 else orders.repeat(branches, 1)
