"""Rows of causal models: those of one position a step stand wherever each is; those of scales begin
together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from smalti.codes import Draw, Known, Span, TokenSpec
from smalti.engine.causal import Begun, CausalModel, begin, kept, one_by_one, spans
from smalti.engine.lanes import (
    Moved,
    Rows,
    behind,
    filters_of,
    guide_of,
    noise_of,
    seen,
    together,
)
from smalti.engine.step import Request, Step
from smalti.sampling.chance import Chance
from smalti.sampling.filters import Filters, RowFilters
from smalti.sampling.noise import Ahead, SlotNoise, racing
from smalti.sampling.orders import arrange


@dataclass
class Batch:
    """Rows that went through the same passes, or stand behind one another; R of them."""

    requests: list[Request]
    done: list[int]
    """Steps of each row."""
    ahead: Ahead
    codes: Tensor
    """(R, N, *trailing), in the order of drawing."""
    vectors: Tensor | None
    """(R, N, C) what stands for the codes, of a model that draws mixtures."""
    known: Known | None
    """In the order of drawing; None where no row knows any."""
    back: Tensor | None
    """(R, N) when each position is drawn; (N,) of all; None: row by row."""
    prepared: Any
    cache: Any
    branches: int
    filters: Filters | RowFilters

    @staticmethod
    def of(model: CausalModel[Any, Any], requests: list[Request], spec: TokenSpec) -> Batch:
        """Rows that have not begun."""
        begun = begin(model, together(requests))
        return Batch(
            requests,
            [0] * len(requests),
            begun.ahead,
            begun.codes,
            None,
            _known(requests, begun),
            begun.back,
            begun.prepared,
            begun.cache,
            1 if requests[0].guidance.off else 2,
            _filters(requests, begun.codes.device),
        )

    def add(self, other: Batch) -> None:
        """Take other rows behind one's own, or where that fails none."""
        rows = Rows.grown(len(self.done), len(other.done), self.branches, self.codes.device)
        prepared = behind(self.prepared, rows, other.prepared)
        cache = behind(self.cache, rows, other.cache)
        known, back = self.known, self.back
        if known is not None or other.known is not None:
            both = [_or_none(b) for b in (self, other)]
            known = Known(*(torch.cat(parts) for parts in zip(*both, strict=True)))
        if back is not None and back.dim() == 2 and other.back is not None:
            back = torch.cat((back, other.back))
        codes, requests = torch.cat((self.codes, other.codes)), self.requests + other.requests
        self.ahead = Ahead(noise_of(requests), codes.shape[1])
        self.prepared, self.cache, self.known, self.back = prepared, cache, known, back
        self.codes, self.requests, self.done = codes, requests, self.done + other.done
        self.filters = _filters(requests, codes.device)

    def keep(self, rows: Sequence[int]) -> None:
        """Take all other rows away."""
        batch, device = len(self.done), self.codes.device
        index = Rows.kept(rows, batch, self.branches, device)
        one = torch.tensor(rows, device=device)
        self.prepared, self.cache = self.prepared.rows(index), self.cache.rows(index)
        self.codes = self.codes[one]
        self.vectors = None if self.vectors is None else self.vectors[one]
        self.known = self.known and Known(*(t[one] for t in self.known))
        if self.back is not None and self.back.dim() == 2:
            self.back = self.back[one]
        self.requests = [self.requests[row] for row in rows]
        self.done = [self.done[row] for row in rows]
        self.ahead = Ahead(noise_of(self.requests), self.codes.shape[1])
        self.filters = _filters(self.requests, device)


def _filters(requests: list[Request], device: torch.device) -> Filters | RowFilters:
    """Those of all rows, which no step changes."""
    return filters_of([request.filters for request in requests], device)


def _known(requests: list[Request], begun: Begun[Any, Any]) -> Known | None:
    """What rows know, in the order of drawing."""
    if all(r.known is None for r in requests):
        return None
    device = begun.codes.device
    nothing = torch.zeros(begun.codes.shape[:2], dtype=torch.bool, device=device)
    codes, mask = begun.codes.clone(), nothing
    for row, request in enumerate(requests):
        if request.known is not None:
            codes[row], mask[row] = request.known.codes[0], request.known.mask[0]
    return Known(*(arrange(t, begun.orders) for t in (codes, mask)))


def _or_none(batch: Batch) -> Known:
    """What rows know, or that they know nothing."""
    if batch.known is not None:
        return batch.known
    nothing = torch.zeros(batch.codes.shape[:2], dtype=torch.bool, device=batch.codes.device)
    return Known(torch.zeros_like(batch.codes), nothing)


class CausalLane:
    """A `Lane` of a causal model, of codes of one spec."""

    def __init__(self, model: CausalModel[Any, Any], spec: TokenSpec, device: torch.device) -> None:
        self.model, self.spec, self.device = model, spec, device
        self.steps = spans(model.blocks(spec), device)
        self.by = racing if one_by_one(self.steps, spec) else None
        self.positions = torch.arange(spec.positions, device=device)
        self.anywhere = len(self.steps) == spec.positions
        """Whether rows may stand at different steps."""
        self.batch: Batch | None = None
        self.waiting: Batch | None = None
        """Rows that joined since the last pass: their first one is their own."""

    @property
    def open(self) -> bool:
        return self.anywhere or self.batch is None

    def __len__(self) -> int:
        return sum(len(b.done) for b in (self.batch, self.waiting) if b is not None)

    def join(self, requests: Sequence[Request]) -> None:
        new = list(requests) if self.waiting is None else [*self.waiting.requests, *requests]
        self.waiting = Batch.of(self.model, new, self.spec)

    def leave(self, rows: Sequence[int]) -> None:
        before, away = 0, set(rows)
        for name in ("batch", "waiting"):
            batch: Batch | None = getattr(self, name)
            if batch is None:
                continue
            count = len(batch.done)
            stay = [row for row in range(count) if before + row not in away]
            before += count
            if not stay:
                setattr(self, name, None)
            elif len(stay) < count:
                batch.keep(stay)

    def step(self) -> list[Moved]:
        found = [] if self.batch is None else self._pass(self.batch)
        if self.waiting is None:
            return found
        try:
            return found + self._entered(self.waiting)
        except Exception as error:  # of new rows alone: the others have made their step
            return found + [error] * len(self.waiting.done)

    def _entered(self, new: Batch) -> list[Moved]:
        """The first pass of new rows, which then stand behind the others."""
        found = self._pass(new)
        if self.batch is None:
            self.batch = new
        else:
            self.batch.add(new)
        self.waiting = None
        return found

    def _pass(self, batch: Batch) -> list[Moved]:
        """Go on by one step in each row of a batch."""
        span = self._span(batch.done)
        rows = len(batch.done)
        every = slice(None)
        if span.slots.dim() == 2:  # of each row its own
            every = torch.arange(rows, device=self.device).unsqueeze(1)
        at = (every, span.slots)
        draw, given = self._draw(batch, span, at)
        batch.codes[at] = kept(draw.codes, given)
        if draw.vectors is not None:
            if batch.vectors is None:
                shape = (rows, self.spec.positions, draw.vectors.shape[-1])
                batch.vectors = draw.vectors.new_zeros(shape)
            batch.vectors[at] = kept(draw.vectors, given, self.model)
        batch.done = [done + 1 for done in batch.done]
        discrete = self.spec.discrete
        drawn = draw.logp if discrete else batch.codes
        return seen(self._steps(batch, span, draw), drawn, discrete)

    def _span(self, done: list[int]) -> Span:
        """The slots of rows that have so many steps behind them."""
        if len(set(done)) == 1:
            return self.steps[done[0]]
        return Span.rows(torch.tensor(done, device=self.device).unsqueeze(1), max(done) + 1)

    def _draw(
        self, batch: Batch, span: Span, at: tuple[Tensor | slice, Tensor]
    ) -> tuple[Draw, Known | None]:
        """Draw the codes of a span, which stand `at` these places; and which of them are given."""
        requests, total = batch.requests, len(self.steps)
        scales = [
            r.guidance.scale_at(done, total) for r, done in zip(requests, batch.done, strict=True)
        ]
        noise = SlotNoise(batch.ahead.noise, span.slots, 0, batch.ahead, span.reach, self.by)
        given = batch.known and Known(*(t[at] for t in batch.known))
        chance = Chance(
            guide_of(requests, scales, self.device),
            noise,
            batch.filters,
            requests[0].solver,
            given,
        )
        read = batch.codes if batch.vectors is None else batch.vectors
        return self.model.draw(read, batch.prepared, span, batch.cache, chance), given

    def _steps(self, batch: Batch, span: Span, draw: Draw) -> list[Step]:
        """What rows have drawn, of which this span is the last."""
        codes, vectors = arrange(batch.codes, batch.back), batch.vectors
        order = self.positions if batch.back is None else batch.back
        ready = (order < span.slots[..., -1:] + 1).expand(len(codes), -1)
        mixed: Sequence[Tensor | None] = [None] * len(codes)
        if vectors is not None:
            mixed = vectors.unsqueeze(1).unbind()
        each = zip(
            batch.done,
            codes.unsqueeze(1).unbind(),
            draw.logp.unsqueeze(1).unbind(),
            ready.unbind(),
            mixed,
            strict=True,
        )
        total = len(self.steps)
        return [Step(done, total, code, logp, there, v) for done, code, logp, there, v in each]
