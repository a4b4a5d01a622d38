"""From noise to a latent: what diffusion and flow heads solve, step by step.

Everywhere x = a * clean + b * noise. A head predicts the clean latent at each of a solver's
evaluations, in whatever form it has learned; a solver moves x to the next, less noisy (a, b) until
only the clean latent is left. Coefficients are computed in float64.

- diffusion: a² + b² = 1 over T steps, Nichol and Dhariwal 2021 (arXiv:2102.09672): the cosine
  schedule, respacing, and `ancestral` sampling with a learned range of variances. `ddim`: Song,
  Meng, Ermon 2020 (arXiv:2010.02502), eta 0. `dpm`: DPM-Solver++(2M), Lu et al. 2022
  (arXiv:2211.01095), second order with one evaluation per step, for few steps.
- flow: a = t, b = 1 - t over t from 0 to 1, Liu et al. 2022 (arXiv:2209.03003) and Lipman et al.
  2022 (arXiv:2210.02747); the velocity is clean - noise. `euler`, and `midpoint`, which evaluates
  twice per step.

R rows, C channels, T diffusion steps, E evaluations.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Literal

import torch
from torch import Tensor

from smalti.config import called

Kind = Literal["diffusion", "flow"]
Denoise = Callable[[Tensor, int], tuple[Tensor, Tensor]]
"""x (R, C) and the number of the evaluation to the clean latent and the head's share of the largest
variance, 0 to 1, both (R, C); only ancestral sampling reads the share."""
Temperature = float | Tensor
"""A number, or (R, 1)."""
Points = tuple[tuple[float, float], ...]
"""(a, b) at each evaluation, and (1, 0) at the end: (E + 1,)."""

NAMES: dict[Kind, tuple[str, ...]] = {
    "diffusion": ("ancestral", "ddim", "dpm"),
    "flow": ("euler", "midpoint"),
}
"""The solvers of each kind of head, its own first."""
TIMES = 1000
"""Flow heads embed 1000 t."""


@dataclass(frozen=True)
class Solver:
    """Which solver, and how many steps. Raises ValueError for names and steps that cannot be."""

    name: str = called("solver", "")
    """Continuous codes: ancestral, ddim or dpm (for few steps) of a diffusion head, euler or
    midpoint of a flow head; "" is the first."""
    steps: str = called("head_steps", "100")
    """Continuous codes: steps of the solver; of a diffusion head also of each of equal sections of
    its schedule, the least noisy first, such as 10,5,5."""

    def __post_init__(self) -> None:
        known = [name for names in NAMES.values() for name in names]
        if self.name and self.name not in known:
            raise ValueError(f"solver must be one of {', '.join(known)}, got {self.name!r}")
        _sections(self.steps)

    def of(self, kind: Kind) -> str:
        """The solver's name for this kind of head. Raises ValueError if it does not fit."""
        if self.name and self.name not in NAMES[kind]:
            fitting = ", ".join(NAMES[kind])
            raise ValueError(f"a {kind} head is solved by {fitting}, got {self.name!r}")
        if kind == "flow" and len(_sections(self.steps)) > 1:
            raise ValueError(f"a flow head takes one number of steps, got {self.steps!r}")
        return self.name or NAMES[kind][0]


@dataclass(frozen=True)
class Path:
    """The way of one solver from noise to the clean latent."""

    times: tuple[float, ...]
    """What the head embeds at each evaluation, (E,)."""
    points: Points
    evaluations: int
    """Of the head, in each step."""
    draws: int
    """Normal numbers for each value: the initial noise, and that of each step if it has any."""
    steps: Callable[[Denoise, Tensor, Temperature], Iterator[Tensor]]
    """What x is after each step, (R, C), in the end the clean latent, of a denoiser, noise
    (draws, R, C) and a temperature, which scales the noise of each step, so that it changes
    ancestral sampling alone."""

    def solve(self, denoise: Denoise, noise: Tensor, temperature: Temperature) -> Tensor:
        """The clean latent (R, C)."""
        return deque(self.steps(denoise, noise, temperature), maxlen=1).pop()


@lru_cache(maxsize=64)
def path(solver: Solver, kind: Kind, timesteps: int = TIMES) -> Path:
    """The way of `solver` for a head trained on `timesteps` diffusion steps, or on a flow.

    Raises ValueError for a solver that does not fit the kind, and for too many steps.
    """
    name = solver.of(kind)
    if kind == "diffusion":
        return respaced(timesteps, solver.steps, whole=name == "ancestral").path(name)
    steps = _sections(solver.steps)[0]
    each = 2 if name == "midpoint" else 1
    evaluations = steps * each
    t = [i / evaluations for i in range(evaluations + 1)]
    points = tuple((u, 1 - u) for u in t)
    steps_of = _midpoint if name == "midpoint" else _first_order
    return Path(tuple(TIMES * u for u in t[:-1]), points, each, 1, partial(steps_of, points))


def _sections(steps: str) -> list[int]:
    try:
        counts = [int(count) for count in steps.split(",")]
    except ValueError:
        raise ValueError(
            f"steps of the head must be numbers with commas between, got {steps!r}"
        ) from None
    if min(counts) < 0 or sum(counts) < 1:
        raise ValueError(
            f"steps of the head must be at least 1, and no section below 0, got {steps!r}"
        )
    return counts


def spaced(timesteps: int, steps: str) -> list[int]:
    """The timesteps, ascending, that are left of `timesteps`: some of each equal section, evenly
    and from its first to its last. Raises ValueError for more than a section has."""
    sections, kept, start = _sections(steps), list[int](), 0
    for i, count in enumerate(sections):
        size = timesteps // len(sections) + (i < timesteps % len(sections))
        if count > size:
            raise ValueError(
                f"a section of {size} of {timesteps} timesteps cannot be respaced to {count} "
                f"steps, got {steps!r}"
            )
        stride, place = (size - 1) / (count - 1) if count > 1 else 1.0, 0.0
        for _ in range(count):  # summed up and rounded to even, as released models were
            kept.append(start + round(place))
            place += stride
        start += size
    return kept


def useful(timesteps: int, count: int) -> list[int]:
    """`count` timesteps, ascending and even, that leave out both ends of `timesteps`.

    Where x is all noise, a head that predicts noise says nothing of the clean latent: its error is
    multiplied by 20,000 at the last of 1000 timesteps and by 16 at the 960th, where x still passes
    for noise. A deterministic solver cannot make up for that. Raises ValueError for too many.
    """
    last = timesteps * 24 // 25
    if count > last:
        raise ValueError(
            f"a deterministic solver can use {last} of {timesteps} timesteps, got {count}"
        )
    return [(i + 1) * last // count for i in range(count)]


@dataclass(frozen=True)
class Schedule:
    """A diffusion of T steps, least noisy first; all fields and properties have T entries."""

    timesteps: tuple[int, ...]
    """Which steps of the training schedule these are."""
    kept: tuple[float, ...]
    """The share of the clean latent's variance that is left: the product of 1 - beta so far."""

    @property
    def _pairs(self) -> list[tuple[float, float]]:
        """`kept` at each step and at the one before, 1 at the first."""
        return list(zip(self.kept, (1.0, *self.kept), strict=False))

    @property
    def betas(self) -> list[float]:
        return [1 - kept / before for kept, before in self._pairs]

    @property
    def log_variance(self) -> list[float]:
        """The least log-variance of a step back, that of the posterior; at the first step, where it
        would be -inf, that of the second."""
        first, *rest = [(1 - k / b) * (1 - b) / (1 - k) for k, b in self._pairs]
        first = rest[0] if rest else self.betas[0]
        return [math.log(variance) for variance in (first, *rest)]

    @property
    def mean_clean(self) -> list[float]:
        """What the clean latent adds to the mean of a step back."""
        return [(1 - k / b) * math.sqrt(b) / (1 - k) for k, b in self._pairs]

    @property
    def mean_x(self) -> list[float]:
        """What x adds to the mean of a step back."""
        return [(1 - b) * math.sqrt(k / b) / (1 - k) for k, b in self._pairs]

    @property
    def table(self) -> list[tuple[float, ...]]:
        """Of each step a, b, `mean_clean`, `mean_x` and the least and greatest log-variance."""
        points = [(math.sqrt(k), math.sqrt(1 - k)) for k in self.kept]
        most = [math.log(beta) for beta in self.betas]
        columns = (self.mean_clean, self.mean_x, self.log_variance, most)
        return [(*p, *row) for p, *row in zip(points, *columns, strict=True)]

    def path(self, name: str) -> Path:
        """The way of the diffusion solver `name` down these steps."""
        table = self.table[::-1]
        points = (*((a, b) for a, b, *_ in table), (1.0, 0.0))
        if name == "ancestral":
            steps, draws = partial(_ancestral, [row[2:] for row in table]), len(table) + 1
        else:
            steps, draws = partial(_multistep if name == "dpm" else _first_order, points), 1
        return Path(self.timesteps[::-1], points, 1, draws, steps)


@lru_cache(maxsize=8)
def cosine(timesteps: int) -> Schedule:
    """The cosine schedule: offset 0.008, no beta above 0.999."""

    def signal(t: float) -> float:
        return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2

    kept = [1.0]
    for i in range(timesteps):
        beta = 1 - signal((i + 1) / timesteps) / signal(i / timesteps)
        kept.append(kept[-1] * (1 - min(beta, 0.999)))
    return Schedule(tuple(range(timesteps)), tuple(kept[1:]))


def respaced(timesteps: int, steps: str, whole: bool = True) -> Schedule:
    """The cosine schedule of `timesteps`, of which the `spaced` ones are left or, where `whole` is
    false and `steps` is one number, the `useful` ones."""
    left = spaced(timesteps, steps) if whole or "," in steps else useful(timesteps, int(steps))
    return Schedule(tuple(left), tuple(cosine(timesteps).kept[i] for i in left))


def _ancestral(
    rows: list[tuple[float, ...]], denoise: Denoise, noise: Tensor, temperature: Temperature
) -> Iterator[Tensor]:
    """Draw each step back from its Gaussian; the last is its mean."""
    x = noise[0]
    for i, (mean_clean, mean_x, least, most) in enumerate(rows):
        clean, share = denoise(x, i)
        x = mean_clean * clean + mean_x * x
        if i + 1 < len(rows):
            deviation = (0.5 * (least + (most - least) * share)).exp()
            if isinstance(temperature, Tensor):
                x = torch.addcmul(x, deviation * temperature, noise[1 + i])
            else:
                x = torch.addcmul(x, deviation, noise[1 + i], value=temperature)
        yield x


def _moved(x: Tensor, clean: Tensor, now: tuple[float, float], then: tuple[float, float]) -> Tensor:
    """x at the point `now` as it is at `then` if its clean latent is `clean`."""
    kept = then[1] / now[1]
    return kept * x + (then[0] - kept * now[0]) * clean


def _first_order(
    points: Points, denoise: Denoise, noise: Tensor, temperature: Temperature
) -> Iterator[Tensor]:
    """DDIM, and Euler's method, which is the same: keep the noise and the clean latent that x seems
    to hold, and mix them anew."""
    x = noise[0]
    for i in range(len(points) - 1):
        x = _moved(x, denoise(x, i)[0], points[i], points[i + 1])
        yield x


def _midpoint(
    points: Points, denoise: Denoise, noise: Tensor, temperature: Temperature
) -> Iterator[Tensor]:
    """Go half a step, and the whole step with the velocity that is found there."""
    x = noise[0]
    for i in range(0, len(points) - 1, 2):
        middle = _moved(x, denoise(x, i)[0], points[i], points[i + 1])
        velocity = (denoise(middle, i + 1)[0] - middle) / points[i + 1][1]
        x = x + (points[i + 2][0] - points[i][0]) * velocity
        yield x


def _multistep(
    points: Points, denoise: Denoise, noise: Tensor, temperature: Temperature
) -> Iterator[Tensor]:
    """DDIM with a clean latent that is extrapolated from the last two along log(a / b), unless the
    step is more than twice as long there as the one before: the last has no end."""
    x, before = noise[0], None
    place = [math.log(a / b) if b else math.inf for a, b in points]
    for i in range(len(points) - 1):
        clean = denoise(x, i)[0]
        target = clean
        if before is not None:
            ahead = (place[i + 1] - place[i]) / (place[i] - place[i - 1]) / 2
            if ahead <= 1:
                target = clean + ahead * (clean - before)
        x, before = _moved(x, target, points[i], points[i + 1]), clean
        yield x
