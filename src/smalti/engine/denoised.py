"""The loop of pictures whose numbers are denoised together: all positions from noise, step by step.

The same as a diffusion head does for each position, but the whole model is run at every step, on
all of them. Known positions follow the noise that is left of them, so editing works.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from smalti.codes import Cond, Draw, Past
from smalti.engine.branches import Fresh
from smalti.engine.step import Known, Model, Request, Step, Watch, check_request
from smalti.sampling.solvers import Path, Solver

P = TypeVar("P")
"""What a model prepares, once per picture."""


class DenoisedModel(Model, Protocol[P]):
    """What the loop knows of a model."""

    def prepare(self, cond: Cond) -> P:
        """All that no number of the picture changes."""
        ...

    def way(self, solver: Solver) -> Path:
        """How a solver gets from noise to a picture. Raises ValueError if it does not fit."""
        ...

    def clean(self, x: Tensor, cond: P, time: float, point: tuple[float, float]) -> Tensor:
        """The picture (B, N, C) that is seen in x = a * picture + b * noise, (B, N, C), at a time
        of a `way`, where `point` is (a, b)."""
        ...


@torch.inference_mode()
def stream(model: DenoisedModel[P], request: Request) -> Iterator[Step]:
    """Draw the numbers of a batch together, yielding a `Step` after each step of the solver, with
    the picture that was seen last.

    Raises ValueError as `engine.causal.stream` does.
    """
    spec = check_request(model, request)
    batch, device, known = request.cond.batch, request.cond.device, request.known
    way, rows = model.way(request.solver), Fresh(model.prepare, request)
    slots = torch.arange(spec.positions, device=device)
    noise = request.noise.normal(slots, way.draws * spec.channels)
    noise = noise.view(*noise.shape[:2], way.draws, -1).permute(2, 0, 1, 3)  # (draws, B, N, C)
    total, seen, past = len(way.times), noise[0], Past()

    def denoise(x: Tensor, i: int) -> tuple[Tensor, Tensor]:
        nonlocal seen
        guide, prepared = rows.at(i, total)
        x = _known(x, known, noise[0], way.points[i])
        found = model.clean(guide.tile(x), prepared, way.times[i], way.points[i])
        seen = _known(guide.merge(found, past), known)
        return seen, torch.zeros_like(seen)

    temperature, _, _ = request.filters.numbers
    steps = total // way.evaluations
    watch, none = Watch(spec, steps), torch.full((batch, spec.positions), torch.nan, device=device)
    ready = torch.ones(spec.positions, dtype=torch.bool, device=device)
    for i, x in enumerate(way.steps(denoise, noise, temperature)):
        codes = _known(x, known) if i + 1 == steps else seen
        watch.see(Draw(codes, none, codes))
        yield Step(i + 1, steps, codes, none, ready)


def _known(
    x: Tensor,
    known: Known | None,
    noise: Tensor | None = None,
    point: tuple[float, float] = (1.0, 0.0),
) -> Tensor:
    """x (B, N, C), with the codes that are known, as noisy as x is, where they are."""
    if known is None:
        return x
    codes = known.codes.to(x) * point[0]
    if noise is not None:
        codes = codes + point[1] * noise
    return torch.where(known.mask.unsqueeze(-1), codes, x)
