"""Rows that share the passes of a model, each by a request of its own, of one picture.

A request joins with what it has alone: what the model prepares of it, its codes, its place in its
own order. Rows are written one behind another, those of each branch of guidance together, as the
loops have them; where a row leaves, those behind it move up.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from smalti.codes import Cond, Guide, TokenSpec
from smalti.engine.step import Request, Step
from smalti.nn.finite import require_finite
from smalti.sampling.filters import Filters, RowFilters
from smalti.sampling.noise import Noise

Moved = Step | Exception
"""What becomes of a row in a pass: a step, or what is wrong with it and not with all."""


class Lane(Protocol):
    """Rows that share passes. All of it is called in torch's inference mode."""

    @property
    def open(self) -> bool:
        """Whether more may join."""
        ...

    def __len__(self) -> int:
        """How many rows there are."""
        ...

    def join(self, requests: Sequence[Request]) -> None:
        """Add a row for each request, behind those that there are. Raises ValueError, and adds
        none, if the model cannot serve one of them."""
        ...

    def leave(self, rows: Sequence[int]) -> None:
        """Take rows away."""
        ...

    def step(self) -> list[Moved]:
        """Go on by one step in every row; what became of each."""
        ...


def alike(request: Request, spec: TokenSpec) -> Hashable:
    """What requests that stand in one lane have in common."""
    cond, guidance, filters = request.cond, request.guidance, request.filters
    text = None if cond.text is None else tuple(cond.text.shape[1:])
    map = None if cond.map is None else cond.map.shape[1]
    return (
        *(spec, text, map, cond.labels is None, request.orders is None, request.solver),
        *(guidance.off, guidance.parallel, guidance.rescale, guidance.momentum),
        *(filters.smooth, {len(values) for values in filters.several.values()} == set()),
        *(request.reveal.confidence is None, request.refresh),
    )


def together(requests: Sequence[Request]) -> Request:
    """The conditions, noise and orders of several requests of one picture as those of one request,
    whose guidance has the branches of each."""
    first = requests[0]
    negative = [r.cond.null() if r.negative is None else r.negative for r in requests]
    given = any(r.negative is not None for r in requests)
    return Request(
        Cond.cat([r.cond for r in requests]),
        noise_of(requests),
        first.guidance,
        solver=first.solver,
        negative=Cond.cat(negative) if given else None,
        orders=None if first.orders is None else torch.cat([_order(r) for r in requests]),
        spec=first.spec,
    )


def _order(request: Request) -> Tensor:
    assert request.orders is not None
    return request.orders.view(1, -1)


def noise_of(requests: Sequence[Request]) -> Noise:
    """The noise of each row."""
    seeds, index = zip(*((r.noise.seeds, r.noise.index) for r in requests), strict=True)
    return Noise(torch.cat(seeds), torch.cat(index))


def guide_of(requests: Sequence[Request], scales: Sequence[float], device: torch.device) -> Guide:
    """The guide of rows whose scales at this step these are."""
    same = len(set(scales)) == 1
    return requests[0].guidance.guide(scales[0] if same else torch.tensor(scales, device=device))


def filters_of(filters: Sequence[Filters], device: torch.device) -> Filters | RowFilters:
    """The filters of each row, or those of all."""
    return filters[0] if len(set(filters)) == 1 else RowFilters.of(filters, device)


def seen(steps: Sequence[Step], drawn: Tensor, discrete: bool) -> list[Moved]:
    """The steps of R rows, or what is wrong with those that drew what is no number. `drawn` (R,
    ...) holds the codes, or where they are discrete their log-probabilities; a device is waited for
    once."""
    sums = drawn.flatten(1).sum(1).float().cpu().numpy()  # of few numbers this is the fastest
    return [
        step if math.isfinite(total) else _checked(step, drawn[row], discrete)
        for row, (step, total) in enumerate(zip(steps, sums, strict=True))
    ]


def _checked(step: Step, drawn: Tensor, discrete: bool) -> Moved:
    what = "log-probabilities of drawn codes" if discrete else "drawn codes"
    try:
        require_finite(drawn, f"step {step.done} of {step.total}: {what}")
    except ValueError as error:
        return error
    return step  # the sum is too large, not what is summed


class Rows(NamedTuple):
    """Where rows of a batch stand, of all branches, if some stay or others come behind them."""

    taken: Tensor
    """(branches * R,) int64: the rows that are there; those to come are any of them."""
    new: Tensor
    """Of these, the ones that came."""

    @staticmethod
    def kept(rows: Sequence[int], batch: int, branches: int, device: torch.device) -> Tensor:
        """Those of `rows`, of a batch of so many pictures."""
        one = torch.tensor(rows, dtype=torch.int64, device=device)
        return torch.cat([one + b * batch for b in range(branches)])

    @staticmethod
    def grown(batch: int, more: int, branches: int, device: torch.device) -> Rows:
        """Those of `batch` pictures with `more` behind them."""
        whole = batch + more
        one = torch.arange(whole, device=device).clamp(max=batch - 1)
        new = torch.arange(batch, whole, device=device)
        return Rows(
            torch.cat([one + b * batch for b in range(branches)]),
            torch.cat([new + b * whole for b in range(branches)]),
        )


def behind(mine: Any, rows: Rows, other: Any) -> Any:
    """What holds the rows of a batch, with those of another behind them."""
    grown = mine.rows(rows.taken)
    grown.put(rows.new, other)
    return grown


def one_row(request: Request) -> Request:
    """The request, with orders for each row. Raises ValueError unless it is of one picture."""
    if request.cond.batch != 1:
        raise ValueError(f"a row is a request of one picture, got {request.cond.batch}")
    return request if request.orders is None else replace(request, orders=_order(request))
