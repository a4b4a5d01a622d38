"""What the loops take and give: a request, known codes, steps, and the checks of a request."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from smalti.codes import Cond, Draw, Known, Reads, TokenSpec
from smalti.nn.finite import require_finite
from smalti.sampling.filters import Filters
from smalti.sampling.guidance import Guidance
from smalti.sampling.noise import Noise
from smalti.sampling.orders import check_order
from smalti.sampling.parallel import Parallel
from smalti.sampling.pruning import Pruning
from smalti.sampling.reveal import Reveal
from smalti.sampling.solvers import Solver

Loop = Literal["causal", "masked", "denoised", "mixed"]


class Model(Protocol):
    """What any loop knows of a model."""

    spec: TokenSpec
    """The codes that it draws, unless another grid is asked for."""
    loop: Loop
    """Which loop draws it."""
    smooth: bool
    """Whether it can draw mixtures of codes."""

    @property
    def prunes(self) -> bool:
        """Whether late layers can leave positions of late scales out."""
        ...

    @property
    def reads(self) -> Reads:
        """What it is conditioned on."""
        ...

    def draws(self, spec: TokenSpec | None) -> TokenSpec:
        """The codes to draw: those of `spec`, or its own. Raises ValueError if it cannot."""
        ...

    def by_windows(self, spec: TokenSpec | None) -> bool:
        """Whether the codes of `spec` are drawn by windows: each step then reads others."""
        ...


@dataclass(frozen=True)
class Request:
    """What is to be drawn, and how. B images, N positions."""

    cond: Cond
    """B rows, on the model's device."""
    noise: Noise
    """B rows of random numbers."""
    guidance: Guidance = Guidance()
    filters: Filters = Filters()
    solver: Solver = Solver()
    """Of models of continuous codes."""
    reveal: Reveal = Reveal()
    """Of masked models: how many positions each step reveals."""
    refresh: int = 1
    """Of masked models: features of known positions are computed anew every so many steps; above 1
    is faster and not exact."""
    known: Known | None = None
    """Codes that are given."""
    negative: Cond | None = None
    """B rows that take the place of the null condition in guidance."""
    orders: Tensor | None = None
    """Positions in the order of drawing, (N,) or (B, N); None: the model's own."""
    spec: TokenSpec | None = None
    """Codes on another grid than the model's own, if it can draw them."""
    parallel: Parallel = Parallel()
    """Of models that draw one code after another: whether a pass draws several ahead."""
    pruning: Pruning = Pruning()
    """Of models of scales: what late layers leave out of late scales."""
    pictures: Cond | None = None
    """B rows of the pictures of the conditions alone, of models that read text and pictures."""


class Step(NamedTuple):
    """What a loop yields after each step."""

    done: int
    """Steps done, this one included."""
    total: int
    codes: Tensor
    """All codes so far, (B, N, *trailing), row by row; those to come are as `TokenSpec.empty` has
    them. Reused: copy to keep."""
    logp: Tensor
    """Log-probability of this step's draws, (B, n), nats; NaN where there is none."""
    ready: Tensor
    """(N,) or (B, N) bool: positions that have their code."""
    vectors: Tensor | None = None
    """(B, N, C) what stands for the codes, where the model draws mixtures. Reused."""

    @property
    def drawn(self) -> Tensor:
        """What a tokenizer decodes: the codes, or the vectors that stand for them."""
        return self.codes if self.vectors is None else self.vectors


class Watch:
    """Refuses draws that are no numbers, as broken weights give, or a dtype too narrow for them.

    On a CPU every step is checked as it is drawn, in 10 us. Any other device would have to be
    waited for: there all steps are checked together before the last one is yielded.
    """

    def __init__(self, spec: TokenSpec, steps: int) -> None:
        self._discrete, self._steps, self._seen = spec.discrete, steps, 0
        self._unread: list[Tensor] = []

    def see(self, draw: Draw) -> None:
        """Raise ValueError if codes, here or since the last check, are no numbers or were drawn
        from logits that are none."""
        drawn = draw.logp if self._discrete else draw.codes
        self._seen += 1
        if drawn.device.type == "cpu":
            self._check(drawn, f"step {self._seen} of {self._steps}: ")
            return
        self._unread.append(drawn.flatten())
        if self._seen == self._steps:
            self.end()

    def end(self) -> None:
        """Check what is not yet: of a loop that may end before all steps, behind its last."""
        if self._unread:
            self._check(torch.cat(self._unread))
            self._unread.clear()

    def _check(self, drawn: Tensor, step: str = "") -> None:
        if math.isfinite(float(drawn.sum())):  # of few numbers this is the fastest
            return
        what = "log-probabilities of drawn codes" if self._discrete else "drawn codes"
        require_finite(drawn, step + what)


def check_request(model: Model, request: Request) -> TokenSpec:
    """The codes that are to be drawn. Raises ValueError unless all of a request has the batch and
    shape of its condition and of these codes, and is something that the model can do."""
    spec, batch = model.draws(request.spec), request.cond.batch
    if len(request.noise.seeds) != batch:
        raise ValueError(f"noise has {len(request.noise.seeds)} rows for a batch of {batch}")
    if request.known is not None:
        _check_known(request.known, spec, batch)
    negative = request.negative
    if negative is not None and negative.batch != batch:
        raise ValueError(f"negative has {negative.batch} rows for a batch of {batch}")
    if request.filters.smooth and not model.smooth:
        raise ValueError("smooth is for multi-scale models; this one has a single grid")
    if request.pruning.prune:
        if not model.prunes:
            raise ValueError(f"prune {request.pruning.prune} is for multi-scale models")
        request.pruning.require(len(spec.grids))
    if request.orders is not None:
        _check_orders(request.orders, spec, batch)
    _check_labels(model.reads.classes, request.cond)
    return spec


def _check_orders(orders: Tensor, spec: TokenSpec, batch: int) -> None:
    if len(spec.grids) > 1:
        raise ValueError(
            f"orders are for models of one grid; this one has {len(spec.grids)} scales"
        )
    if orders.dim() not in (1, 2) or (orders.dim() == 2 and len(orders) != batch):
        raise ValueError(f"orders must be (N,) or ({batch}, N), got {tuple(orders.shape)}")
    check_order(orders, spec.positions)


def _check_known(known: Known, spec: TokenSpec, batch: int) -> None:
    if tuple(known.codes.shape) != spec.shape(batch):
        raise ValueError(f"known codes must be {spec.shape(batch)}, got {tuple(known.codes.shape)}")
    require_finite(known.codes, "known codes")
    shape, mask = (batch, spec.positions), known.mask
    if tuple(mask.shape) != shape or mask.dtype != torch.bool:
        raise ValueError(
            f"the mask of known codes must be {shape} bool, got {tuple(mask.shape)} {mask.dtype}"
        )


def _check_labels(classes: int, cond: Cond) -> None:
    """Out of range, an embedding would raise something obscure or take the null class."""
    if cond.labels is None or not classes or not len(cond.labels):
        return
    low, high = (int(n) for n in torch.aminmax(cond.labels))
    if low < 0 or high >= classes:
        raise ValueError(f"labels must be in [0, {classes}), got {low} to {high}")
