"""How images are drawn: what a pipeline stores beside its weights, and every call may change."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor

from smalti.codes import Cond
from smalti.engine import causal, masked
from smalti.engine.step import Known, Step
from smalti.nn.linear import packed
from smalti.sampling.filters import Filters
from smalti.sampling.guidance import Guidance, Schedule
from smalti.sampling.noise import Noise
from smalti.sampling.orders import known_first, order, shuffled
from smalti.sampling.reveal import Reveal
from smalti.sampling.solvers import Solver, path

MASKED = ("steps", "reveal", "confidence", "refresh")
CONTINUOUS = ("solver", "head_steps")
DISCRETE = ("top_k", "top_p")
"""Settings that mean something to such models, or codes, alone."""


@dataclass(frozen=True)
class Sampling:
    """How images are drawn; a pipeline stores its defaults."""

    guidance: float = 1.0
    """u + s * (c - u): 1 is off, more follows the class more closely and varies less."""
    schedule: Schedule = "constant"
    """How guidance changes over the steps."""
    power: float = 1.0
    """Exponent of the power-cosine schedule."""
    start: float = 0.0
    """Interval schedule: first step with guidance, as a fraction."""
    stop: float = 1.0
    """Interval schedule: where guidance ends, as a fraction."""
    scales: tuple[float, ...] = ()
    """List schedule: the guidance of each step."""
    parallel: float = 1.0
    """APG: share of guidance along the conditional prediction; below 1 a high guidance saturates
    colours less. On discrete codes an experiment."""
    rescale: float = 0.0
    """APG: longest guidance of a position, before the scale; 0 is off."""
    momentum: float = 0.0
    """APG: share of the last diffusion step's guidance that is added; below 0 as published."""
    temperature: float = 1.0
    """Below 1 draws likelier codes, above 1 more varied ones."""
    top_k: int = 0
    """Draw from the k likeliest codes; 0 from all."""
    top_p: float = 1.0
    """Draw from the likeliest codes that hold this probability mass; 1 from all."""
    smooth: bool = False
    """Multi-scale models: draw mixtures of codes, for a smoother picture."""
    order: str = ""
    """The order in which positions are drawn, one of `sampling.orders`; "random" is another one for
    each image, "" the model's own."""
    known_first: bool | None = None
    """Raster models: see all that is known before drawing the rest; None: if the model learned
    random orders."""
    steps: int | None = None
    """Masked models: steps in which an image is revealed; None: 64, or one for each position."""
    reveal: str = "cosine"
    """Masked models: cosine, linear, square, meissonic, meissonic-linear, or the shares that are
    hidden after each step, such as 0.8,0.4,0."""
    confidence: float | None = None
    """Masked models of discrete codes: reveal where the model is surest, after noise of this
    weight, which falls to 0; None: the model's own way."""
    refresh: int = 1
    """Masked models: compute features of known positions anew only every so many steps, which is
    faster and not exact; 1: always."""
    solver: str = ""
    """Continuous codes: ancestral, ddim or dpm (for few steps) of a diffusion head, euler or
    midpoint of a flow head; "" is the first."""
    head_steps: str = "100"
    """Continuous codes: steps of the solver; of a diffusion head also of each of equal sections of
    its schedule, such as 10,5,5."""

    def stream(
        self,
        model: Any,
        cond: Cond,
        noise: Noise,
        known: Known | None = None,
        negative: Cond | None = None,
    ) -> Iterator[Step]:
        """Draw codes of a batch by the loop that the model is for, with its weights packed."""
        guidance, filters = self.check(model)
        orders = self.orders(model, noise, known)
        given: dict[str, Any] = {"known": known, "negative": negative, "orders": orders}
        with packed(model):
            if getattr(model, "masked", False):
                given |= {"reveal": self.revealed(model), "refresh": self.refresh}
                yield from masked.stream(model, cond, noise, guidance, filters, **given)
            else:
                yield from causal.stream(model, cond, noise, guidance, filters, **given)

    def check(self, model: Any) -> tuple[Guidance, Filters]:
        """Guidance and filters. Raises ValueError for what cannot be, and for settings that are of
        another kind of model: they would do nothing."""
        refused = dict[str, str]()
        if not getattr(model, "masked", False):
            refused |= dict.fromkeys(MASKED, "masked models; this one draws codes in a row")
        refused |= (
            dict.fromkeys(CONTINUOUS, "continuous codes; this model draws discrete ones")
            if model.spec.discrete
            else dict.fromkeys(DISCRETE, "discrete codes; this model draws continuous ones")
        )
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in refused and value != field.default:
                raise ValueError(f"{field.name} {value} is for {refused[field.name]}")
        guidance, filters = self.parts()
        if getattr(model, "masked", False):
            self.revealed(model).count(model.spec.positions)
        if not model.spec.discrete:
            path(filters.solver, model.config.head.kind, model.config.head.timesteps)
        return guidance, filters

    def revealed(self, model: Any) -> Reveal:
        """How a masked model reveals positions; an order that is asked for comes first."""
        own = None if self.order else getattr(model, "confidence", None)
        return Reveal(self.steps, self.reveal, own if self.confidence is None else self.confidence)

    def parts(self) -> tuple[Guidance, Filters]:
        schedule = (self.schedule, self.power, self.start, self.stop, tuple(self.scales))
        guidance = Guidance(self.guidance, *schedule, self.parallel, self.rescale, self.momentum)
        solver = Solver(self.solver, self.head_steps)
        return guidance, Filters(self.temperature, self.top_k, self.top_p, self.smooth, solver)

    def orders(self, model: Any, noise: Noise, known: Known | None = None) -> Tensor | None:
        """Positions in the order in which `model` is to draw them, (N,) or (B, N); None is its
        own."""
        (grid, *others), found = model.spec.grids, None
        if not isinstance(self.order, str):
            raise ValueError(f"order must be the name of one, got {self.order!r}")
        if others and (self.order or self.known_first):
            raise ValueError(f"orders are for models of one grid; this one has {len(others) + 1}")
        if self.order == "random":
            found = shuffled(noise, model.spec.positions)
        elif self.order:
            found = order(self.order, grid)
        if known is None or getattr(model, "masked", False) or not self.sees_known_first(model):
            return found
        own = getattr(model, "order", None) if found is None else found
        own = order("row-major", grid) if own is None else own
        return known_first(own.to(known.mask.device), known.mask)

    def sees_known_first(self, model: Any) -> bool:
        """Whether `model` is to see all that is known before it draws."""
        return getattr(model, "any_order", False) if self.known_first is None else self.known_first
