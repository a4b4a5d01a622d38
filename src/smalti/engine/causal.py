"""The loop of every causal system: draw one block of codes after another, streaming.

A model draws, the engine keeps what changes: codes, cache, noise, step count. Known codes (for
in-painting, out-painting, prompts made of image parts) are an argument of the loop, so editing
works for every causal system.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from smalti.codes import Cond, Draw, Guide, Span, TokenSpec
from smalti.sampling.filters import Filters
from smalti.sampling.guidance import Guidance
from smalti.sampling.noise import Noise


class CausalModel(Protocol):
    """What the loop knows of a model. Slot i holds what code i is predicted from."""

    spec: TokenSpec
    blocks: Sequence[int]
    """Positions per step: [1] * 256 for raster, [1, 4, 9, ...] for a pyramid."""

    def prepare(self, cond: Cond) -> Any:
        """All that no drawn code changes, once per image."""
        ...

    def cache(self, batch: int) -> Any:
        """An empty cache for this many rows."""
        ...

    def hidden(self, codes: Tensor, cond: Any, span: Span, cache: Any = None) -> Tensor:
        """Hidden states (B, n, D); reads codes of earlier blocks only."""
        ...

    def draw(
        self,
        codes: Tensor,
        cond: Any,
        span: Span,
        cache: Any,
        guide: Guide,
        noise: Tensor,
        filters: Filters,
    ) -> Draw: ...

    def loss(self, codes: Tensor, cond: Cond, read: Tensor | None = None) -> Tensor: ...


class Step(NamedTuple):
    """What the loop yields after each block."""

    done: int
    """Blocks drawn so far, this one included."""
    total: int
    span: Span
    codes: Tensor
    """All codes so far, (B, N, *trailing); those behind the span are zero. Reused: copy to keep."""
    logp: Tensor
    """Log-probability of this block's draws, (B, n), nats."""


class Known(NamedTuple):
    """Codes that are given, not drawn."""

    codes: Tensor
    """(B, N, *trailing)."""
    mask: Tensor
    """(B, N) bool, True where the code is given."""


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
) -> Iterator[Step]:
    """Draw the codes of a batch block by block, yielding a `Step` after each.

    `cond` has B rows and stands on the model's device; `negative` (B rows) takes the place of the
    null condition in guidance. Raises ValueError if `noise`, `known` or `negative` has another
    batch or shape, or if a label is no class of the model.
    """
    guidance, filters = guidance or Guidance(), filters or Filters()
    batch, device = cond.batch, cond.device
    if len(noise.seeds) != batch:
        raise ValueError(f"noise has {len(noise.seeds)} rows for a batch of {batch}")
    if known is not None:
        _check_known(known, model.spec, batch)
    if negative is not None and negative.batch != batch:
        raise ValueError(f"negative has {negative.batch} rows for a batch of {batch}")
    _check_labels(model, cond)
    codes = model.spec.empty(batch, device)
    uniform = noise.uniform(torch.arange(model.spec.positions), *_width(model.spec))
    branches = guidance.branches(cond, negative)
    prepared, cache = model.prepare(branches), model.cache(branches.batch)
    steps = spans(model.blocks, device, bucket)
    for i, span in enumerate(steps):
        slots = span.slots
        guide = guidance.at(i, len(steps))
        draw = model.draw(codes, prepared, span, cache, guide, uniform[:, slots], filters)
        new = draw.codes
        if known is not None:
            mask = known.mask[:, slots].reshape(*new.shape[:2], *[1] * (new.dim() - 2))
            new = torch.where(mask, known.codes[:, slots], new)
        codes[:, slots] = new
        yield Step(i + 1, len(steps), span, codes, draw.logp)


def generate(
    model: CausalModel,
    cond: Cond,
    noise: Noise,
    guidance: Guidance | None = None,
    filters: Filters | None = None,
    known: Known | None = None,
    bucket: int = 1,
    negative: Cond | None = None,
) -> Tensor:
    """Codes (B, N, *trailing) of a batch: the last step of `stream`."""
    codes = model.spec.empty(cond.batch, cond.device)
    for step in stream(model, cond, noise, guidance, filters, known, bucket, negative):
        codes = step.codes
    return codes


def _check_known(known: Known, spec: TokenSpec, batch: int) -> None:
    if tuple(known.codes.shape) != spec.shape(batch):
        raise ValueError(f"known codes must be {spec.shape(batch)}, got {tuple(known.codes.shape)}")
    shape, mask = (batch, spec.positions), known.mask
    if tuple(mask.shape) != shape or mask.dtype != torch.bool:
        raise ValueError(
            f"the mask of known codes must be {shape} bool, got {tuple(mask.shape)} {mask.dtype}"
        )


def _check_labels(model: CausalModel, cond: Cond) -> None:
    """Out of range, an embedding would raise something obscure or take the null class."""
    classes = getattr(getattr(model, "config", None), "classes", 0)
    if cond.labels is None or not classes or not len(cond.labels):
        return
    low, high = (int(n) for n in torch.aminmax(cond.labels))
    if low < 0 or high >= classes:
        raise ValueError(f"labels must be in [0, {classes}), got {low} to {high}")


def _width(spec: TokenSpec) -> tuple[int, ...]:
    """How many uniform numbers a position needs, as an argument of `Noise.uniform`."""
    width = 1
    for n in spec.trailing:
        width *= n
    return (width,) if spec.trailing else ()
