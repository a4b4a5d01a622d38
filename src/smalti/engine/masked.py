"""The loop of masked generation: predict many positions at once, keep some, and go on.

What is kept at a step are positions in an order (MAR, Fluid: a random one for each image), or those
that the model is surest of (MaskGIT). Codes that are given are known from the start, so editing
works for every model.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from smalti.codes import Cond, Draw, TokenSpec, Turn
from smalti.engine.branches import Fresh
from smalti.engine.step import Model, Request, Step, Watch, check_request
from smalti.sampling.chance import Chance
from smalti.sampling.noise import Noise, SlotNoise, gumbel
from smalti.sampling.orders import known_first, shuffled
from smalti.sampling.reveal import Reveal, least_sure

P = TypeVar("P")
"""What a model prepares, once per image."""
C = TypeVar("C")
"""Its cache."""


class MaskedModel(Model, Protocol[P, C]):
    """What the loop knows of a model. Codes at unknown positions are zero and not read."""

    confidence: float | None
    """The weight of the noise with which it reveals where it is surest; None: in an order."""
    parts: int
    """How many parts of a position are hidden and revealed by themselves. Where there are several,
    `Turn`, `Draw`, `hidden` and `loss` are of N * parts units in place of N positions."""

    def split(self, codes: Tensor) -> Tensor:
        """Codes (B, N, *trailing) as units, (B, N * parts, ...)."""
        ...

    def join(self, units: Tensor) -> Tensor:
        """Units as codes."""
        ...

    def prepare(self, cond: Cond, spec: TokenSpec | None = None) -> P:
        """All that no drawn code changes, once per image."""
        ...

    def cache(self, batch: int, spec: TokenSpec | None = None) -> C | None:
        """Where features of so many rows are kept from step to step; None if nowhere."""
        ...

    def hidden(self, codes: Tensor, cond: P, turn: Turn, cache: C | None = None) -> Tensor:
        """Hidden states (B, m, D) of the positions that the turn wants."""
        ...

    def draw(self, codes: Tensor, cond: P, turn: Turn, cache: C | None, chance: Chance) -> Draw: ...

    def loss(
        self, codes: Tensor, cond: Cond, known: Tensor | None = None, noise: Noise | None = None
    ) -> Tensor:
        """What is minimised at each unknown position, 0 at known ones: (B, N)."""
        ...


@torch.inference_mode()
def stream(model: MaskedModel[P, C], request: Request) -> Iterator[Step]:
    """Draw the codes of a batch step by step, yielding a `Step` after each.

    Without an order of the request it is random, another one for each image. Where fewer positions
    are unknown than there are steps, there are as many steps as unknown positions; rows that differ
    in their number share the steps and the guidance of the one that has most.
    Raises ValueError as `engine.causal.stream` does, and for what `Reveal` refuses.
    """
    spec = check_request(model, request)
    check_reveal(spec, request, model.parts)
    codes, ready = begin(spec, request)
    parts, units = model.parts, model.split(codes)
    ready = ready.repeat_interleave(parts, 1)  # (B, N * parts)
    plan = Plan.of(request.reveal, ready)
    if not plan.steps:
        none = codes.new_zeros(len(codes), 0, dtype=torch.float32)
        yield Step(1, 1, codes, none, shown(ready, parts))
        return
    taker: Taker = (
        ByOrder(request.noise, orders_of(request, ready, parts))
        if request.reveal.confidence is None
        else Surest(request.noise, request.reveal, plan.steps, ready.shape[1])
    )
    rows = Fresh(lambda cond: model.prepare(cond, spec), request)
    cache = model.cache(rows.batch, spec) if request.refresh > 1 else None
    watch, guidance = Watch(spec, plan.steps), request.guidance
    for i in range(plan.steps):
        when = i, plan.steps, plan.share(i)
        # a cache holds features of all branches
        guide, prepared = rows.at(*when) if cache is None else (guidance.at(*when), rows.all)
        asked = taker.ask(i, plan.hiding(i))
        fresh = i % request.refresh == 0
        left = plan.steps - 1 - i
        reach = ready.shape[1] - min(plan.hidden(i))
        turn = Turn(ready, asked.wanted, reach, fresh, left, asked.weight)
        filters = request.filters.at_step(i, plan.steps)
        chance = Chance(guide, asked.noise, filters, request.solver)
        draw = model.draw(units, prepared, turn, cache, chance)
        watch.see(draw)
        units, ready = taker.take(units, ready, draw, asked)
        yield Step(i + 1, plan.steps, model.join(units), draw.logp, shown(ready, parts))


def shown(ready: Tensor, parts: int) -> Tensor:
    """Which positions are ready, (B, N), of those of which all parts are, (B, N * parts)."""
    return ready if parts == 1 else ready.view(len(ready), -1, parts).all(-1)


def begin(spec: TokenSpec, request: Request) -> tuple[Tensor, Tensor]:
    """Codes (B, N, ...), and where they are known (B, N) bool, before the first step."""
    batch, device = request.cond.batch, request.cond.device
    codes = spec.empty(batch, device)
    if request.known is None:
        return codes, torch.zeros(batch, spec.positions, dtype=torch.bool, device=device)
    ready = request.known.mask.to(device)
    return _where(ready, request.known.codes.to(codes), codes), ready


class Hiding(NamedTuple):
    """How many positions each row hides before a step and after it, (B,) each, and the most that
    one of them reveals."""

    before: Tensor
    after: Tensor
    most: int


class Plan(NamedTuple):
    """How many positions each row hides, before the first and after every step."""

    left: list[list[int]]
    """(B, steps + 1)."""
    counts: Tensor
    """The same on the device, which would be waited for if each step brought its own."""
    positions: int

    @staticmethod
    def of(reveal: Reveal, ready: Tensor) -> Plan:
        """The plan of rows of which some positions are `ready`, (B, N) bool."""
        positions, unknown = ready.shape[1], [int(n) for n in (~ready).sum(1).cpu()]
        steps = min(reveal.count(positions), max(unknown, default=0))
        left = [[n, *reveal.left(n, steps)] for n in unknown]
        return Plan(left, torch.tensor(left, device=ready.device), positions)

    @property
    def steps(self) -> int:
        return len(self.left[0]) - 1 if self.left else 0

    def hidden(self, step: int) -> list[int]:
        """Hidden positions of each row before a step."""
        return [row[step] for row in self.left]

    def hiding(self, step: int) -> Hiding:
        """The same before and after a step."""
        most = max(row[step] - row[step + 1] for row in self.left)
        return Hiding(self.counts[:, step], self.counts[:, step + 1], most)

    def share(self, step: int) -> float:
        """The share of all positions that are shown after a step, by which guidance goes on; of the
        row that hides most. As MAR counts, one position is as if hidden at the end."""
        hidden = max(1, max(self.left)[step + 1])
        return 1 - hidden / self.positions


class Asked(NamedTuple):
    """What a step draws and keeps."""

    noise: SlotNoise
    """Of the positions that are drawn."""
    wanted: Tensor | None = None
    """(B, m) positions to draw; None: all."""
    kept: Tensor | None = None
    """(B, m) bool; None: those that are surest."""
    hidden: Tensor | None = None
    """(B,) how many are to be hidden after the step."""
    weight: float | Tensor | None = None
    """Of the noise on how sure the model is: a number or (B,); None where none is asked."""


class Taker(Protocol):
    """Which positions a step draws, and which of them it keeps."""

    def ask(self, step: int, hiding: Hiding) -> Asked:
        """What to draw so that as many positions are left hidden."""
        ...

    def take(self, codes: Tensor, ready: Tensor, draw: Draw, asked: Asked) -> tuple[Tensor, Tensor]:
        """Codes (B, N, ...) and what is ready (B, N), with what is kept of the draw."""
        ...


def orders_of(request: Request, ready: Tensor, parts: int = 1) -> Tensor:
    """The order in which each row reveals its parts of positions, (B, N * parts), those that are
    `ready` first."""
    orders = request.orders
    if orders is None:
        orders = shuffled(request.noise, ready.shape[1])
    elif parts > 1:  # a position's parts one after another
        each = torch.arange(parts, device=orders.device)
        orders = (orders.unsqueeze(-1) * parts + each).flatten(-2)
    return known_first(orders.to(ready.device), ready)


class ByOrder:
    """Reveals positions in orders (B, N), each of which is drawn once (MAR, Fluid)."""

    def __init__(self, noise: Noise, orders: Tensor) -> None:
        self.noise, self.orders = noise, orders

    def ask(self, step: int, hiding: Hiding) -> Asked:
        total, device = self.orders.shape[1], self.orders.device
        first, end = total - hiding.before, total - hiding.after  # each (B,)
        index = first[:, None] + torch.arange(hiding.most, device=device)  # (B, m)
        wanted = self.orders.gather(1, index.clamp(max=total - 1))
        # a row that reveals fewer than another draws something in vain
        return Asked(SlotNoise(self.noise, wanted), wanted, index < end[:, None])

    def take(self, codes: Tensor, ready: Tensor, draw: Draw, asked: Asked) -> tuple[Tensor, Tensor]:
        assert asked.wanted is not None and asked.kept is not None
        n, new = codes.shape[1], draw.codes
        index = torch.where(asked.kept, asked.wanted, n)  # drawn in vain: a column of its own
        ready = torch.cat((ready, ready[:, :1]), 1).scatter(1, index, True)[:, :n]
        index = index.view(*index.shape, *[1] * (codes.dim() - 2)).expand(new.shape)
        codes = torch.cat((codes, codes[:, :1]), 1).scatter(1, index, new.to(codes))[:, :n]
        return codes, ready


class Surest:
    """Draws all positions at each step and keeps those that the model is surest of (MaskGIT)."""

    def __init__(self, noise: Noise, reveal: Reveal, steps: int, positions: int) -> None:
        self.noise, self.reveal, self.steps = noise, reveal, steps
        self.slots = torch.arange(positions, device=noise.seeds.device)

    def ask(self, step: int, hiding: Hiding) -> Asked:
        weight = self.reveal.weight(step, self.steps)
        noise = SlotNoise(self.noise, self.slots, step)
        return Asked(noise, hidden=hiding.after, weight=weight)

    def take(self, codes: Tensor, ready: Tensor, draw: Draw, asked: Asked) -> tuple[Tensor, Tensor]:
        return take_surest(codes, ready, draw, asked)


def take_surest(codes: Tensor, ready: Tensor, draw: Draw, asked: Asked) -> tuple[Tensor, Tensor]:
    """Codes (B, N, ...) and what is ready (B, N), with those that the model is surest of."""
    assert asked.hidden is not None and asked.weight is not None
    new, noise, weight = _where(ready, codes, draw.codes), asked.noise, asked.weight
    sure = draw.logp if draw.sure is None else draw.sure
    weight = weight.unsqueeze(1) if isinstance(weight, Tensor) else weight
    doubt = gumbel(noise.source.uniform(noise.slots, step=2 * noise.step + 1))
    confidence = (sure + weight * doubt).masked_fill(ready, torch.inf)
    ready = ~least_sure(confidence, asked.hidden)
    return _where(ready, new, torch.zeros_like(codes)), ready


def _where(mask: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Codes a where `mask` (B, N), codes b elsewhere."""
    return torch.where(mask.view(*mask.shape, *[1] * (b.dim() - 2)), a.to(b), b)


def check_reveal(spec: TokenSpec, request: Request, parts: int) -> None:
    """Raise ValueError for what a request asks of revealing that cannot be, of positions of so many
    parts."""
    reveal = request.reveal
    reveal.count(spec.positions * parts)
    if request.refresh < 1:
        raise ValueError(f"refresh must be at least 1, got {request.refresh}")
    if reveal.confidence is None:
        return
    if not spec.discrete:
        raise ValueError(
            f"confidence {reveal.confidence} is for discrete codes; continuous ones, which have no "
            "probability, are revealed in an order"
        )
    if request.orders is not None:
        raise ValueError(
            f"an order is for models that reveal in one; confidence {reveal.confidence} "
            "reveals where the model is surest"
        )
