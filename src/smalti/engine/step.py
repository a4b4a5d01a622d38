"""What both loops take and give: known codes, steps, and the checks of a request."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from smalti.codes import Cond, Draw, TokenSpec
from smalti.finite import require_finite
from smalti.sampling.noise import Noise
from smalti.sampling.orders import check_order


class Step(NamedTuple):
    """What a loop yields after each step."""

    done: int
    """Steps done, this one included."""
    total: int
    codes: Tensor
    """All codes so far, (B, N, *trailing), row by row; those to come are zero. Reused: copy to
    keep."""
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


class Known(NamedTuple):
    """Codes that are given, not drawn."""

    codes: Tensor
    """(B, N, *trailing)."""
    mask: Tensor
    """(B, N) bool, True where the code is given."""


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
            self._check(torch.cat(self._unread))

    def _check(self, drawn: Tensor, step: str = "") -> None:
        if math.isfinite(float(drawn.sum())):  # of few numbers this is the fastest
            return
        what = "log-probabilities of drawn codes" if self._discrete else "drawn codes"
        require_finite(drawn, step + what)


def check_request(
    model: Any, cond: Cond, noise: Noise, known: Known | None, negative: Cond | None
) -> None:
    """Raise ValueError unless all has the batch and shape of `cond` and the model's codes."""
    batch = cond.batch
    if len(noise.seeds) != batch:
        raise ValueError(f"noise has {len(noise.seeds)} rows for a batch of {batch}")
    if known is not None:
        _check_known(known, model.spec, batch)
    if negative is not None and negative.batch != batch:
        raise ValueError(f"negative has {negative.batch} rows for a batch of {batch}")
    _check_labels(model, cond)


def check_orders(orders: Tensor, spec: TokenSpec, batch: int) -> None:
    """Raise ValueError unless `orders` are permutations (N,) or (B, N) of a single grid."""
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


def _check_labels(model: Any, cond: Cond) -> None:
    """Out of range, an embedding would raise something obscure or take the null class."""
    classes = getattr(getattr(model, "config", None), "classes", 0)
    if cond.labels is None or not classes or not len(cond.labels):
        return
    low, high = (int(n) for n in torch.aminmax(cond.labels))
    if low < 0 or high >= classes:
        raise ValueError(f"labels must be in [0, {classes}), got {low} to {high}")


def width(spec: TokenSpec) -> tuple[int, ...]:
    """How many uniform numbers a position needs, as an argument of `Noise.uniform`."""
    count = 1
    for n in spec.trailing if spec.discrete else ():
        count *= n
    return (count,) if spec.discrete and spec.trailing else ()
