"""95 % bootstrap intervals: what a number would have been with other pictures of the same kind.

R resamples of N things, each taken so many times as chance has it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

Interval = tuple[float, float]
ANY: Interval = (-math.inf, math.inf)
BLOCKS = 20
"""Where things cannot be resampled one by one, so many blocks of them are."""
RUN = 1024
"""So many things have a random generator of their own."""


def deal(first: int, count: int, blocks: int = BLOCKS) -> np.ndarray:
    """The blocks (N,) that `count` things are in, of which the first has the number `first`.

    Each thing by chance, so blocks are alike in whatever order things come. The same numbers are in
    the same blocks in every call.
    """
    runs = range(first // RUN, (first + count) // RUN + 1)
    dealt = [np.random.default_rng((blocks, run)).integers(blocks, size=RUN) for run in runs]
    return np.concatenate(dealt)[first % RUN :][:count]


def resamples(count: int, draws: int, seed: int) -> Iterator[np.ndarray]:
    """How often each of `count` things is taken, (N,) int64, `draws` times."""
    rng = np.random.default_rng(seed)
    for _ in range(draws):
        yield rng.multinomial(count, np.full(count, 1 / count))


def around(
    value: float, resampled: Sequence[float] | np.ndarray, within: Interval = ANY
) -> Interval | None:
    """The interval of a value, given those of resamples: (R,). No value is beyond `within`.

    It has their spread, around the value itself: taking things twice moves a Fréchet distance up,
    which is no reason to move the interval. None for fewer than two resamples, or where one is no
    number.
    """
    found = np.asarray(resampled, np.float64)
    if len(found) < 2 or not np.isfinite(found).all() or not math.isfinite(value):
        return None
    low, high = np.quantile(found - found.mean(), (0.025, 0.975))
    low, high = value + min(0.0, float(low)), value + max(0.0, float(high))  # beyond rounding
    return max(within[0], low), min(within[1], high)


def bootstrap(
    value: Callable[[np.ndarray], float],
    count: int,
    draws: int,
    seed: int,
    within: Interval = ANY,
) -> Interval | None:
    """`around` of a statistic of `count` things, given how often each is taken, (N,).

    None for fewer than two things or draws, or where the statistic is no number.
    """
    if count < 2 or draws < 2:
        return None
    whole = value(np.ones(count, np.int64))
    return around(whole, [value(times) for times in resamples(count, draws, seed)], within)


def of_blocks(
    whole: float,
    value: Callable[[np.ndarray], float],
    counts: Sequence[int],
    draws: int,
    seed: int,
    within: Interval = ANY,
) -> Interval | None:
    """`from_blocks` of a statistic: `whole`, and its value given how often each block is taken."""
    if len(counts) < 2 or draws < 2:
        return None
    ones = np.ones(len(counts), np.int64)
    without = [value(ones - one) for one in np.eye(len(counts), dtype=np.int64)]
    return from_blocks(whole, without, counts, draws, seed, within)


def from_blocks(
    whole: float,
    without: Sequence[float],
    counts: Sequence[int],
    draws: int,
    seed: int,
    within: Interval = ANY,
) -> Interval | None:
    """The interval of a statistic of pictures in blocks of `counts`, given those `without` each.

    Each block stands for the number that its absence tells of it (the pseudo-value of a jackknife
    of unequal blocks, Busing, Meijer and van der Leeden, 1999), and those are resampled. Blocks
    taken twice would not do: a Fréchet distance hangs on how many different pictures there are.
    None for fewer than two blocks or draws, or where the statistic is no number.
    """
    blocks = len(counts)
    if blocks < 2 or draws < 2:
        return None
    shares = np.array(counts) / sum(counts)
    own = (whole - (1 - shares) * np.array(without)) / shares
    times = np.stack(list(resamples(blocks, draws, seed)))
    drawn = (times * shares) @ own / (times @ shares)
    wider = (blocks / (blocks - 1)) ** 0.5  # resamples of so few vary less than blocks do
    return around(whole, whole + wider * (drawn - whole), within)


def of_means(values: np.ndarray, draws: int, seed: int) -> Interval | None:
    """`bootstrap` of the mean of values (N,)."""
    within = float(values.min()), float(values.max())
    return bootstrap(lambda n: float(n @ values / n.sum()), len(values), draws, seed, within)
