"""Scores of features: Inception Score, precision and recall as ADM has them, and torch-fidelity's.

Salimans et al., 2016, arXiv:1606.03498; Kynkäänniemi et al., 2019, arXiv:1904.06991; Bińkowski et
al., 2018, arXiv:1801.01401. In float64, but for ADM's half-precision distances, an option.
N reference images, M samples, D features, C classes, R resamples.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 2048
"""Distances are computed for so many rows and columns at a time."""
HALF_BLOCK = 10_000
"""Those of ADM; each block of them is in float16 or in float32 as a whole."""


def inception_score(logits: Tensor, split: int = 5000) -> float:
    """ADM's: the mean over consecutive blocks of `split` rows, of which the last may be shorter.

    Logits (M, C) are those without bias. The order of rows matters: a set sorted by class scores
    low. Raises ValueError for no rows and for a split below 1.
    """
    return split_scores(consecutive(logits, split)).mean().item()


def consecutive(rows: Tensor, split: int = 5000) -> Sequence[Tensor]:
    """ADM's splits of rows (M, ...). Raises ValueError for a split below 1."""
    if split < 1:
        raise ValueError(f"split must be at least 1, got {split}")
    return rows.split(split)


def inception_score_fidelity(
    logits: Tensor, splits: int = 10, shuffle: bool = True, seed: int = 2020
) -> tuple[float, float]:
    """torch-fidelity's: mean and standard deviation over `splits` blocks of shuffled rows.

    Raises ValueError for fewer rows than splits.
    """
    return _mean_std(split_scores(shuffled(logits, splits, shuffle, seed)))


def shuffled(
    rows: Tensor, splits: int = 10, shuffle: bool = True, seed: int = 2020
) -> Sequence[Tensor]:
    """torch-fidelity's splits of rows (M, ...). Raises ValueError for fewer rows than splits."""
    count = len(rows)
    if not 1 <= splits <= count:
        raise ValueError(f"splits must be in 1 ... {count}, the number of images, got {splits}")
    if shuffle:
        rows = rows[torch.from_numpy(np.random.RandomState(seed).permutation(count))]
    bounds = [i * count // splits for i in range(splits + 1)]
    return [rows[i:j] for i, j in zip(bounds, bounds[1:], strict=False)]


def split_scores(blocks: Sequence[Tensor], times: Sequence[Tensor] | None = None) -> Tensor:
    """exp of the mean divergence of p(class | image) from p(class), of each of S blocks of logits.

    (S,); given how often each row of each block is taken, (B, R), (S, R): nan where none is.
    """
    scores = []
    for i, logits in enumerate(blocks):
        if not logits.numel() or not logits.isfinite().all():
            raise ValueError("logits must be finite numbers, of one image at least")
        logp = logits.double().log_softmax(-1)  # (B, C)
        p = logp.exp()
        weight = p.new_ones(len(p), 1) if times is None else times[i].to(p)  # (B, R)
        weight = weight / weight.sum(0)
        inner = (p * logp).sum(-1) @ weight  # (R,)
        scores.append((inner + torch.special.entr(p.T @ weight).sum(0)).exp())
    found = torch.stack(scores)
    return found[:, 0] if times is None else found


def precision_recall(
    reference: Tensor, samples: Tensor, k: int = 3, half: bool = False
) -> tuple[float, float]:
    """The shares of samples within the reference's balls, and of the reference within the samples'.

    Errors, memory and `half` are those of `in_balls`.
    """
    precise, recalled = in_balls(reference, samples, k, half)
    return precise.double().mean().item(), recalled.double().mean().item()


def in_balls(
    reference: Tensor, samples: Tensor, k: int = 3, half: bool = False
) -> tuple[Tensor, Tensor]:
    """Which samples are within the reference's balls, (M,), and the reverse, (N,).

    The ball of a row of features reaches to the k-th nearest other row of its set. `half` computes
    distances as ADM does, see `squared_distances`. Memory beside the features (N, D) and (M, D) is
    independent of their number: 0.2 GB, with `half` 2 GB. Raises ValueError for sets of k rows or
    fewer, for different D, and for what is no number.
    """
    if reference.shape[1:] != samples.shape[1:]:
        ours, theirs = reference.shape[-1], samples.shape[-1]
        raise ValueError(f"both sets must have the same features, got {ours} and {theirs}")
    for rows in (reference, samples):
        if len(rows) <= k:
            raise ValueError(f"{len(rows)} images have no {k} neighbours; at least {k + 1} needed")
        if not rows.isfinite().all():
            raise ValueError("features must be finite numbers")
    if not half:  # differences are the same, and exact to more digits
        middle = reference.double().mean(0)
        reference, samples = reference.double() - middle, samples.double() - middle
    size = HALF_BLOCK if half else BLOCK
    reach = radii(reference, k, half).split(size), radii(samples, k, half).split(size)
    precise, recalled = (
        torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
        for rows in (samples, reference)
    )
    parts = zip(reference.split(size), reach[0], recalled.split(size), strict=True)
    for part, limits, found in parts:
        others = zip(samples.split(size), reach[1], precise.split(size), strict=True)
        for other, other_limits, other_found in others:
            near, other_near = within(squared_distances(part, other, half), limits, other_limits)
            found |= near
            other_found |= other_near
    return precise, recalled


def radii(rows: Tensor, k: int = 3, half: bool = False) -> Tensor:
    """The squared distance (N,) of each row of (N, D) to its k-th nearest other one."""
    size = HALF_BLOCK if half else BLOCK
    return torch.cat(
        [
            kth_nearest((squared_distances(part, other, half) for other in rows.split(size)), k)
            for part in rows.split(size)
        ]
    )


def kth_nearest(blocks: Iterable[Tensor], k: int) -> Tensor:
    """The (k + 1)-th smallest of each row of distances within a set, given in blocks of columns.

    The distance of a row to itself is one of them.
    """
    least = [d.topk(min(k + 1, d.shape[1]), largest=False).values for d in blocks]
    return torch.cat(least, 1).topk(k + 1, largest=False).values.amax(1)


def within(distances: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """Which rows of distances (N, M) are in the ball of any column, (N,), and the reverse, (M,)."""
    return (distances <= columns).any(1), (distances <= rows.unsqueeze(1)).any(0)


def squared_distances(u: Tensor, v: Tensor, half: bool = False) -> Tensor:
    """Of all rows (N, D) and (M, D): (N, M), float64 and 0 where it is nothing but rounding.

    `half` is ADM's way: inputs and the result of each operation are rounded to float16, sums are in
    float32, and if any distance of the block overflows, all are computed in float32. TensorFlow's
    own sums depend on the platform, so its precision and recall differ by a sample or two.
    """
    if not half:
        u, v = u.double(), v.double()
        squares = u.square().sum(1), v.square().sum(1)
        found = squares[0].unsqueeze(1) - 2 * u @ v.T + squares[1]
        rounding = u.shape[1] * torch.finfo(u.dtype).eps * (squares[0].max() + squares[1].max())
        return F.threshold(found, rounding.item(), 0.0, inplace=True)
    for dtype in (torch.float16, torch.float32):
        found = _rounded_distances(u.float(), v.float(), dtype)
        if found.isfinite().all():
            break
    return found


def _rounded_distances(u: Tensor, v: Tensor, dtype: torch.dtype) -> Tensor:
    """Squared distances in float32, with inputs and results rounded to a dtype."""

    def rounded(x: Tensor) -> Tensor:
        return x.to(dtype).float()

    u, v = rounded(u), rounded(v)
    rows, columns = (rounded(rounded(x.square()).sum(1)) for x in (u, v))
    products = rounded(2 * rounded(u @ v.T))  # (N, M)
    return rounded(rounded(rows.unsqueeze(1) - products) + columns).clamp(min=0)


def kid(
    samples: Tensor, reference: Tensor, subsets: int = 100, size: int = 1000, seed: int = 2020
) -> tuple[float, float]:
    """torch-fidelity's kernel Inception distance: mean and standard deviation over random subsets.

    Unbiased squared MMD of the kernel (x y / D + 1)^3, so it may be negative. Raises ValueError for
    fewer images than a subset has, and for different D.
    """
    once = torch.ones(len(samples), 1), torch.ones(len(reference), 1)
    return _mean_std(kernel_distances(samples, reference, *once, subsets, size, seed)[:, 0])


def kernel_distances(
    samples: Tensor,
    reference: Tensor,
    times: Tensor,
    reference_times: Tensor,
    subsets: int = 100,
    size: int = 1000,
    seed: int = 2020,
) -> Tensor:
    """Of each subset of `kid`, given how often each row is taken: (subsets, R).

    `times` is (M, R), `reference_times` (N, R) or (N, 1). A row taken twice makes no pair with
    itself.
    """
    if samples.shape[1:] != reference.shape[1:]:
        ours, theirs = samples.shape[-1], reference.shape[-1]
        raise ValueError(f"both sets must have the same features, got {ours} and {theirs}")
    least = min(len(samples), len(reference))
    if not 2 <= size <= least:
        raise ValueError(f"a subset must have 2 ... {least} images, as there are, got {size}")
    rows = subset_rows(len(samples), len(reference), subsets, size, seed)
    pairs = ((samples[i], reference[j], times[i], reference_times[j]) for i, j in rows)
    return torch.stack([_mmd(*pair) for pair in pairs])


def subset_rows(
    samples: int, reference: int, subsets: int, size: int, seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """The rows of both sets that torch-fidelity puts in each subset, (S,) and (S,)."""
    draw = np.random.RandomState(seed).choice
    for _ in range(subsets):
        first = draw(samples, size, replace=False)
        yield torch.from_numpy(first), torch.from_numpy(draw(reference, size, replace=False))


def _mmd(x: Tensor, y: Tensor, *times: Tensor) -> Tensor:
    """Unbiased squared maximum mean discrepancy of x and y (S, D), taken (S, R) times: (R,)."""
    x, y = x.double(), y.double()
    weights = [taken.to(x) for taken in times]
    total = x.new_zeros(())
    for z, weight in zip((x, y), weights, strict=True):
        kernel = ((z @ z.T / z.shape[1] + 1) ** 3).fill_diagonal_(0)  # (S, S)
        pairs = weight.sum(0).square() - weight.square().sum(0)
        total = total + (weight * (kernel @ weight)).sum(0) / pairs
    across = (x @ y.T / x.shape[1] + 1) ** 3  # (S, S)
    sizes = weights[0].sum(0) * weights[1].sum(0)
    return total - 2 * (weights[0] * (across @ weights[1])).sum(0) / sizes


def _mean_std(values: Tensor) -> tuple[float, float]:
    """Mean and standard deviation (divisor N) of (N,)."""
    return values.mean().item(), values.std(correction=0).item()
