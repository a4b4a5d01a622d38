"""Rows of masked models, each at its own step of its own plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from smalti.codes import TokenSpec, Turn
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
from smalti.engine.masked import (
    Asked,
    ByOrder,
    Hiding,
    MaskedModel,
    Plan,
    begin,
    check_reveal,
    orders_of,
    shown,
    take_surest,
)
from smalti.engine.step import Request, Step
from smalti.sampling.chance import Chance
from smalti.sampling.noise import Noise, SlotNoise


@dataclass
class Row:
    """A picture, apart from its tensors."""

    request: Request
    plan: Plan
    done: int = 0


class MaskedLane:
    """A `Lane` of a masked model, of codes of one spec. R rows, U parts of positions."""

    def __init__(self, model: MaskedModel[Any, Any], spec: TokenSpec, device: torch.device) -> None:
        self.model, self.spec, self.device = model, spec, device
        self.rows: list[Row] = []
        self.units = model.split(spec.empty(0, device))
        self.ready = torch.zeros(self.units.shape[:2], dtype=torch.bool, device=device)
        self.orders: Tensor | None = None
        """(R, U); None where rows reveal what the model is surest of."""
        self.prepared: Any = None

    open = True

    def __len__(self) -> int:
        return len(self.rows)

    def join(self, requests: Sequence[Request]) -> None:
        for request in requests:
            check_reveal(self.spec, request, self.model.parts)
        merged = together(requests)
        prepared = self.model.prepare(
            merged.guidance.branches(merged.cond, merged.negative), self.spec
        )
        for request in requests:
            self._add(request)
        if self.prepared is None:
            self.prepared = prepared
            return
        before = len(self.rows) - len(requests)
        rows = Rows.grown(before, len(requests), self._branches, self.device)
        self.prepared = behind(self.prepared, rows, prepared)

    def _add(self, request: Request) -> None:
        """Take the codes and the plan of one more row."""
        codes, known = begin(self.spec, request)
        ready = known.repeat_interleave(self.model.parts, 1)
        self.rows.append(Row(request, Plan.of(request.reveal, ready)))
        self.units = torch.cat((self.units, self.model.split(codes)))
        self.ready = torch.cat((self.ready, ready))
        if request.reveal.confidence is None:
            order = orders_of(request, ready, self.model.parts)
            self.orders = order if self.orders is None else torch.cat((self.orders, order))

    @property
    def _branches(self) -> int:
        return 1 if self.rows[0].request.guidance.off else 2

    def leave(self, rows: Sequence[int]) -> None:
        away, count = set(rows), len(self.rows)
        stay = [row for row in range(count) if row not in away]
        index = Rows.kept(stay, count, self._branches, self.device)
        one = torch.tensor(stay, dtype=torch.int64, device=self.device)
        self.units, self.ready = self.units[one], self.ready[one]
        self.orders = None if self.orders is None or not stay else self.orders[one]
        self.prepared = self.prepared.rows(index) if stay else None
        self.rows = [self.rows[row] for row in stay]

    def step(self) -> list[Moved]:
        if not self.rows:
            return []
        requests, done = [r.request for r in self.rows], [r.done for r in self.rows]
        before, after = ([row.plan.left[0][row.done + k] for row in self.rows] for k in (0, 1))
        noise, hiding = noise_of(requests), self._hiding(before, after)
        by_order = None if self.orders is None else ByOrder(noise, self.orders)
        asked = self._surest(noise, done, hiding) if by_order is None else by_order.ask(0, hiding)
        scales = [
            r.request.guidance.scale_at(r.done, r.plan.steps, r.plan.share(r.done))
            for r in self.rows
        ]
        guide = guide_of(requests, scales, self.device)
        cooled = [r.request.filters.at_step(r.done, r.plan.steps) for r in self.rows]
        filters = filters_of(cooled, self.device)
        chance = Chance(guide, asked.noise, filters, requests[0].solver)
        left = torch.tensor([r.plan.steps - 1 - r.done for r in self.rows], device=self.device)
        reach = self.ready.shape[1] - min(before)
        turn = Turn(self.ready, asked.wanted, reach, True, left, asked.weight)
        draw = self.model.draw(self.units, self.prepared, turn, None, chance)
        take = take_surest if by_order is None else by_order.take
        self.units, self.ready = take(self.units, self.ready, draw, asked)
        codes, ready = self.model.join(self.units), shown(self.ready, self.model.parts)
        found = list[Step]()
        for i, row in enumerate(self.rows):
            row.done += 1
            one = slice(i, i + 1)
            found.append(Step(row.done, row.plan.steps, codes[one], draw.logp[one], ready[one]))
        return seen(found, draw.logp if self.spec.discrete else codes, self.spec.discrete)

    def _hiding(self, before: list[int], after: list[int]) -> Hiding:
        most = max(b - a for b, a in zip(before, after, strict=True))
        hidden = torch.tensor([before, after], device=self.device)
        return Hiding(hidden[0], hidden[1], most)

    def _surest(self, noise: Noise, done: list[int], hiding: Hiding) -> Asked:
        """What rows draw that reveal where the model is surest, each at its own step."""
        slots = torch.arange(self.ready.shape[1], device=self.device)
        weights = [r.request.reveal.weight(r.done, r.plan.steps) for r in self.rows]
        steps = torch.tensor(done, device=self.device)
        weight = torch.tensor(weights, device=self.device)
        return Asked(SlotNoise(noise, slots, steps), hidden=hiding.after, weight=weight)
