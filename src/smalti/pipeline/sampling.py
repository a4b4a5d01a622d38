"""How images are drawn: what a pipeline stores beside its weights, and every call may change."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypedDict

from torch import Tensor

from smalti.arguments import fitting
from smalti.codes import Cond, TokenSpec
from smalti.config import Setting, changed, part, settings_of, value_of, written
from smalti.engine.step import Known, Loop, Request
from smalti.models.generator import Generator
from smalti.sampling.filters import Filters
from smalti.sampling.guidance import Guidance, Schedule
from smalti.sampling.noise import Noise
from smalti.sampling.orders import known_first, order, shuffled
from smalti.sampling.parallel import Mode, Parallel
from smalti.sampling.pruning import Pruning
from smalti.sampling.reveal import Reveal
from smalti.sampling.solvers import Solver

MASKED = ("steps", "reveal", "confidence", "refresh", "final_temperature")
CONTINUOUS = ("solver", "head_steps")
DISCRETE = ("top_k", "top_p")
ORDERED = ("order", "known_first")
AHEAD = ("parallel", "window")
PRUNED = ("prune", "prune_layers")
"""Settings that mean something to such models, or codes, alone."""
GUIDED = ("schedule", "guidance_parallel", "rescale", "momentum")
"""Settings of how guidance leads."""


class Drawn(Protocol):
    """What settings are checked against: what a model says of how it draws pictures."""

    confidence: float | None
    parts: int
    any_order: bool

    @property
    def keeps_features(self) -> bool: ...
    @property
    def prunes(self) -> bool: ...
    @property
    def loop(self) -> Loop: ...
    @property
    def draws_by(self) -> str: ...
    @property
    def depths(self) -> int: ...
    @property
    def filtered(self) -> bool: ...
    @property
    def solved(self) -> bool: ...
    def draws(self, spec: TokenSpec | None) -> TokenSpec: ...
    def order(self, spec: TokenSpec | None = None) -> Tensor | None: ...
    def check_solver(self, solver: Solver) -> None: ...


def in_turn(model: Drawn, spec: TokenSpec | None) -> bool:
    """Whether one code is drawn after another, so that a pass may draw several ahead."""
    spec = model.draws(spec)
    return model.loop == "causal" and spec.discrete and len(spec.grids) == 1


class Settings(TypedDict, total=False):
    """The settings of `Sampling` by the names that calls, files and options have for them.

    Here is what each can be; what it means stands at the fields of `Sampling` and of its parts.
    Wherever a number is taken, those of numpy and torch are.
    """

    guidance: float
    schedule: Schedule
    power: float
    start: float
    stop: float
    scales: tuple[float, ...]
    guidance_parallel: float
    rescale: float
    momentum: float
    guidance_pictures: float | None
    temperature: float | tuple[float, ...]
    top_k: int | tuple[int, ...]
    top_p: float | tuple[float, ...]
    smooth: bool
    final_temperature: float | None
    order: str
    known_first: bool | None
    steps: int | None
    reveal: str
    confidence: float | None
    refresh: int
    solver: str
    head_steps: str
    parallel: Mode
    window: int
    prune: tuple[float, ...]
    prune_layers: float


@dataclass(frozen=True, repr=False)
class Sampling:
    """How images are drawn; a pipeline stores its defaults.

    In files, in calls of a pipeline and on the command line all settings stand side by side:
    `Sampling.of(guidance=2.0, top_p=0.95)`, `--guidance 2 --top-p 0.95`.
    """

    guidance: Guidance = part(Guidance())
    filters: Filters = part(Filters())
    order: str = ""
    """The order in which positions are drawn: row-major, spiral-in, spiral-out, z-curve, subsample,
    alternate, or random, which is another one for each image; "" is the model's own."""
    known_first: bool | None = None
    """Raster models: see all that is known before drawing the rest; None: if the model learned
    random orders."""
    reveal: Reveal = part(Reveal())
    refresh: int = 1
    """Masked models that keep features, such as MAR: compute those of known positions anew only
    every so many steps, which is faster and not exact; 1: always."""
    solver: Solver = part(Solver())
    parallel: Parallel = part(Parallel())
    pruning: Pruning = part(Pruning())

    @staticmethod
    def of(**settings: object) -> Sampling:
        """Settings by name, the others at their defaults. Raises ValueError for an unknown one."""
        return Sampling().changed(**settings)

    def changed(self, **settings: object) -> Sampling:
        """The same with other settings. Raises ValueError for an unknown one."""
        return changed(self, settings, "sampling")

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={value!r}" for name, value in written(self).items())
        return f"Sampling({values})"

    def request(
        self,
        model: Generator,
        cond: Cond,
        noise: Noise,
        known: Known | None = None,
        negative: Cond | None = None,
        spec: TokenSpec | None = None,
    ) -> Request:
        """What a loop is asked for; `spec` are codes on another grid than the model's own. Raises
        ValueError as `check` does."""
        self.check(model, spec)
        return Request(
            cond,
            noise,
            self.guidance,
            self.filters,
            self.solver,
            self.revealed(model),
            self.refresh,
            known,
            negative,
            self.orders(model, noise, known, spec),
            spec,
            self.parallel,
            self.pruning,
        )

    @staticmethod
    def foreign(model: Drawn, spec: TokenSpec | None = None) -> dict[str, str]:
        """Settings that mean nothing to a model of a spec, by default its own, and of which kind of
        model they are."""
        refused = dict[str, str]()
        if model.draws_by != "masked":
            refused |= dict.fromkeys(MASKED, "masked models; this one draws codes in a row")
        if not model.solved:
            others = "discrete ones" if model.filtered else "them without a solver"
            refused |= dict.fromkeys(CONTINUOUS, f"continuous codes; this model draws {others}")
            if not model.filtered:
                refused |= {"temperature": "models that draw at random; this one does not"}
        if model.loop != "mixed":
            refused |= {"guidance_pictures": "models that read text and pictures"}
        elif not model.any_order:
            refused |= dict.fromkeys(ORDERED, "models that know orders; this one draws in its own")
        if not model.filtered:
            refused |= dict.fromkeys(DISCRETE, "discrete codes; this model draws continuous ones")
        if not in_turn(model, spec):
            refused |= dict.fromkeys(AHEAD, "models that draw one discrete code after another")
        if not model.prunes:
            refused |= dict.fromkeys(PRUNED, "models of scales; this one has none")
        return refused

    def check(self, model: Drawn, spec: TokenSpec | None = None) -> None:
        """Raise ValueError for what cannot be, and for settings that are of another kind of model:
        they would do nothing."""
        settings = settings_of(Sampling)
        for name, why in self.foreign(model, spec).items():
            value = value_of(self, settings[name])
            if name in AHEAD and self.parallel.mode == "auto":
                continue  # which draws in turn where it has to
            if value != settings[name].field.default:
                raise ValueError(f"{name} {value} is for {why}")
        self.filters.require(model.depths)
        if self.pruning.prune:
            self.pruning.require(len(model.draws(spec).grids))
        if self.refresh > 1 and not model.keeps_features:
            raise ValueError(
                f"refresh {self.refresh} is for models that keep features between steps, such as "
                "MAR; this one reads everything at each"
            )
        if model.draws_by == "masked":
            self.revealed(model).count(model.draws(spec).positions * model.parts)
        if model.solved:
            model.check_solver(self.solver)

    def idle(self) -> dict[str, str]:
        """Settings that do nothing beside the others, whatever they are, and what they need."""
        guidance = self.guidance
        needs = (
            (GUIDED, not guidance.off, "guidance other than 1"),
            (("guidance",), guidance.schedule != "list", "another schedule than list"),
            (("power",), guidance.schedule == "power-cosine", "schedule power-cosine"),
            (("start", "stop"), guidance.schedule == "interval", "schedule interval"),
            (("window",), self.parallel.mode != "off", "parallel"),
            (("prune_layers",), bool(self.pruning.prune), "prune"),
        )
        return {name: need for names, met, need in needs if not met for name in names}

    def revealed(self, model: Drawn) -> Reveal:
        """How a masked model reveals positions: its own way, unless another or an order is asked
        for."""
        if self.order or self.reveal.confidence is not None:
            return self.reveal
        return replace(self.reveal, confidence=model.confidence)

    def orders(
        self,
        model: Drawn,
        noise: Noise,
        known: Known | None = None,
        spec: TokenSpec | None = None,
    ) -> Tensor | None:
        """Positions in the order in which `model` is to draw them, (N,) or (B, N); None is its
        own."""
        (grid, *others), asked = model.draws(spec).grids, None
        if not isinstance(self.order, str):
            raise ValueError(f"order must be the name of one, got {self.order!r}")
        if others and (self.order or self.known_first):
            raise ValueError(f"orders are for models of one grid; this one has {len(others) + 1}")
        if self.order == "random":
            asked = shuffled(noise, grid[0] * grid[1])
        elif self.order:
            asked = order(self.order, grid)
        if known is None or model.draws_by == "masked" or not self.sees_known_first(model):
            return asked
        usual = model.order(spec) if asked is None else asked
        usual = order("row-major", grid) if usual is None else usual
        return known_first(usual.to(known.mask.device), known.mask)

    def sees_known_first(self, model: Drawn) -> bool:
        """Whether `model` is to see all that is known before it draws."""
        return model.any_order if self.known_first is None else self.known_first


def fitted(changes: Mapping[str, Any], known: Mapping[str, Setting]) -> dict[str, Any]:
    """Those of the changes that are known settings, as Python's own values of their types. Raises
    ValueError for what cannot be one."""
    hints = {name: known[name].hint for name in changes if name in known}
    return {
        name: fitting(changes[name], name, typing.get_args(hint) or (hint,))
        for name, hint in hints.items()
    }
