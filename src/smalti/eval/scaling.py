"""Scaling laws: how held-out loss falls with parameters, compute or data.

A power law L = (beta X)^alpha is a straight line in log-log space; VAR fits it (Tian et al. 2024,
arXiv:2404.02905). L = E + (beta X)^alpha has a floor E that no size gets below (Hoffmann et al.
2022, arXiv:2203.15556). Losses are in whatever unit they were measured; alpha is negative where
they fall.

Points are rows of (X, loss), (n, 2) float64. A run is the points of one size, in the order of X.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

STEEPEST, FLATTEST = 5.0, 1e-3
"""Between them lies -alpha of a law with a floor."""
GRID, ROUNDS = 33, 6
"""Exponents tried at once, and how often around the best of them."""


class Law(NamedTuple):
    alpha: float
    log_beta: float
    """The logarithm of beta, which itself can be beyond what a float holds."""
    floor: float = 0.0

    def __call__(self, x: Any) -> Any:
        """The loss at X, a number or an array."""
        return self.floor + np.exp(self.alpha * (self.log_beta + np.log(x)))

    def formula(self, name: str = "X") -> str:
        power = self.log_beta / math.log(10)
        digits = f"{10 ** (power - math.floor(power)):.2f}e{math.floor(power):+d}"
        floor = f"{self.floor:.4g} + " if self.floor else ""
        return f"{floor}({digits} {name})^{self.alpha:.3f}"


def needed(floor: bool) -> int:
    """How many points of different X a law takes: one more than it has numbers."""
    return 4 if floor else 3


def fit(points: np.ndarray, floor: bool = False) -> Law:
    """The law with the least squared error, of log L or, with a floor, of L relative to itself.

    Raises ValueError for too few points, for X or losses that are not above 0, and where no law
    fits: losses that are all equal or, with a floor, do not fall.
    """
    points = np.asarray(points, dtype=np.float64).reshape(-1, 2)
    if not (np.isfinite(points).all() and (points > 0).all()):
        raise ValueError("a law is fitted to numbers above 0, got others among X and losses")
    if (count := len(np.unique(points[:, 0]))) < needed(floor):
        kind = "a law with a floor" if floor else "a power law"
        raise ValueError(f"{kind} takes at least {needed(floor)} different X, got {count}")
    if np.ptp(points[:, 1]) == 0:
        raise ValueError("losses do not change with X, so that no law fits")
    log_x, loss = np.log(points[:, 0]), points[:, 1]
    return _with_floor(log_x, loss) if floor else _power(log_x, np.log(loss))


def _power(log_x: np.ndarray, log_loss: np.ndarray) -> Law:
    x = log_x - log_x.mean()
    alpha = float(x @ log_loss / (x @ x))
    if alpha == 0:
        raise ValueError("losses rise as much as they fall with X, so that no power law fits")
    return Law(alpha, float(log_loss.mean()) / alpha - float(log_x.mean()))


def _with_floor(log_x: np.ndarray, loss: np.ndarray) -> Law:
    """For a given alpha the rest is a line, so alpha alone is searched, ever more closely."""
    x = log_x - log_x.mean()
    edges = math.log(FLATTEST), math.log(STEEPEST)
    for _ in range(ROUNDS):
        powers = np.linspace(*edges, GRID)
        *_, errors = _lines(np.exp(-np.exp(powers)[:, None] * x), loss)
        best = int(np.argmin(errors))
        edges = powers[max(best - 1, 0)], powers[min(best + 1, GRID - 1)]
    alpha = -math.exp(sum(edges) / 2)
    (floor,), (factor,), (error,) = _lines(np.exp(alpha * x)[None], loss)
    if not np.isfinite(error):
        raise ValueError("losses do not fall with X, so that no law with a floor fits")
    return Law(alpha, math.log(factor) / alpha - float(log_x.mean()), float(floor))


def _lines(u: np.ndarray, loss: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each row of u (G, n): E >= 0, b > 0 with the least relative error of E + b u, and that
    error, infinite where there is no such b. Each (G,)."""
    weights = loss**-2 / (loss**-2).sum()
    mean_u, mean_loss = u @ weights, loss @ weights
    v = u - mean_u[:, None]
    b = (v * weights) @ loss / ((v * v) @ weights)
    floors = mean_loss - b * mean_u
    below = floors < 0
    b = np.where(below, (u * weights) @ loss / ((u * u) @ weights), b)
    floors = np.where(below, 0.0, floors)
    errors = (floors[:, None] + b[:, None] * u - loss) ** 2 @ weights
    return floors, b, np.where(b > 0, errors, np.inf)


def pearson(points: np.ndarray) -> float:
    """Pearson's r of log X and log L: -1 is a perfect falling power law."""
    return float(np.corrcoef(np.log(points).T)[0, 1])


def rmse(law: Law, points: np.ndarray) -> float:
    """Root of the mean squared difference of the logarithms of loss and law."""
    return float(np.sqrt(np.mean(np.log(points[:, 1] / law(points[:, 0])) ** 2)))


def frontier(points: np.ndarray) -> np.ndarray:
    """The lower envelope: the points below all others of equal or smaller X, by X."""
    points = points[np.lexsort((points[:, 1], points[:, 0]))]
    lowest = np.minimum.accumulate(points[:, 1])
    return points[np.r_[True, points[1:, 1] < lowest[:-1]]]


def study(
    runs: Sequence[np.ndarray],
    floor: bool = False,
    envelope: bool = False,
    seed: int = 0,
    resamples: int = 1000,
) -> dict[str, Any]:
    """All about one law of runs, in the order of size: as JSON has it.

    The law of all runs, or of their lower `envelope`; Pearson's r; 95 % intervals, by drawing whole
    runs with replacement; and, under "held_out", what the law of all runs but the largest says
    about the last point of the largest. Intervals are None where there are no more runs than a law
    takes, "held_out" is where that many are not left. Raises ValueError as `fit` does.
    """
    joined = _joined(runs, envelope)
    law = fit(joined, floor)
    told = _told(law) | {
        "points": len(joined),
        "pearson": pearson(joined),
        "rmse": rmse(law, joined),
        "intervals": None,
        "held_out": None,
    }
    laws = bootstrap(runs, floor, envelope, seed, resamples)
    if laws:
        columns = zip(Law._fields, np.array(laws).T, strict=True)
        told["intervals"] = {name: _interval(values) for name, values in columns}
    others, (x, loss) = runs[:-1], runs[-1][-1]
    if len(others) >= needed(floor):
        predicted = float(fit(_joined(others, envelope), floor)(x))
        laws = bootstrap(others, floor, envelope, seed, resamples)
        told["held_out"] = {
            "x": float(x),
            "loss": float(loss),
            "predicted": predicted,
            "error": predicted / float(loss) - 1,
            "interval": _interval(np.array([one(x) for one in laws])) if laws else None,
        }
    return told


def bootstrap(
    runs: Sequence[np.ndarray], floor: bool, envelope: bool, seed: int, resamples: int
) -> list[Law]:
    """The laws of runs drawn with replacement, as often as they give one: draws of too few
    different runs do not. None at all where there are no more runs than a law takes."""
    rng, laws = np.random.default_rng(seed), list[Law]()
    if len(runs) <= needed(floor):
        return laws
    for _ in range(resamples):
        drawn = [runs[i] for i in rng.integers(len(runs), size=len(runs))]
        try:
            laws.append(fit(_joined(drawn, envelope), floor))
        except ValueError:
            continue
    return laws


def _joined(runs: Sequence[np.ndarray], envelope: bool) -> np.ndarray:
    points = np.concatenate([np.asarray(run, dtype=np.float64) for run in runs])
    return frontier(points) if envelope else points


def _told(law: Law) -> dict[str, Any]:
    beta = math.exp(law.log_beta) if abs(law.log_beta) < 700 else None
    return law._asdict() | {"beta": beta, "formula": law.formula()}


def _interval(values: np.ndarray) -> list[float]:
    return np.percentile(values, (2.5, 97.5)).tolist()
