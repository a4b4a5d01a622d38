"""Fréchet distance of Gaussians: the squared 2-Wasserstein distance behind FID, sFID and FWD.

|m1 - m2|^2 + tr S1 + tr S2 - 2 tr (S1 S2)^(1/2)   (Dowson and Landau, 1982; Heusel et al., 2017,
arXiv:1706.08500). The last term is the nuclear norm of A1' A2 for any factors S = A A'. Unusual
here: no matrix square root, but Cholesky factors and symmetric eigenvalues where covariances are
well conditioned, else factors of their ranges alone, so what is singular costs no digits.
All in float64. N images, D features, "..." any leading dimensions, such as packets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

CHUNK = 2**23
"""Covariances of so many numbers in all are factored at a time."""
REGULAR = 1e-14
"""The least eigenvalue of a product of covariances, over the largest, whose root is sure: with a
spectrum down to here the fast way was right to 1e-12."""

LARGE = 128
"""So many features make three quarters of a product faster than the whole."""


@dataclass(frozen=True)
class Gaussian:
    """What a distance needs to know of a set of images."""

    mean: Tensor
    """(..., D) float64."""
    cov: Tensor
    """(..., D, D) float64, unbiased."""
    count: int = 0
    """Number of images, 0 if it is unknown."""


class Moments:
    """Running mean and covariance of rows (N, *shape), in memory independent of their number.

    Nothing is ever subtracted from sums of squares (Chan, Golub and LeVeque, 1979): a mean far from
    0 costs no digits, and equal rows have no covariance.
    """

    def __init__(self, *shape: int, device: torch.device | str = "cpu") -> None:
        self.count = 0
        self.mean = torch.zeros(shape, dtype=torch.float64, device=device)  # (..., D)
        self.scatter = self.mean.new_zeros(*shape, shape[-1])  # (..., D, D)
        # it is symmetric: the quarter at the lower left is left out where products are large
        self.half = shape[-1] // 2 if shape[-1] >= LARGE else shape[-1]

    def add(self, rows: Tensor) -> None:
        """Rows (B, *shape) of any dtype. Raises ValueError for another shape."""
        if rows.shape[1:] != self.mean.shape:
            want, have = tuple(self.mean.shape), tuple(rows.shape[1:])
            raise ValueError(f"features must have the shape {want} of those before, got {have}")
        if not len(rows):
            return
        number, total = len(rows), self.count + len(rows)
        rows = _packets_first(rows.to(self.mean.device).to(self.mean))
        mean = rows.mean(1)  # (P, D)
        shift = mean - self.mean.view_as(mean)
        about = rows.new_empty(len(rows), number + 1, rows.shape[2])
        torch.sub(rows, mean.unsqueeze(1), out=about[:, :-1])
        about[:, -1] = (self.count * number / total) ** 0.5 * shift
        self._add_squares(about)
        self.mean += (number / total * shift).view_as(self.mean)
        self.count = total

    @classmethod
    def joined(cls, parts: Sequence[Moments], times: Sequence[int] | None = None) -> Moments:
        """The moments of all parts together, each so many times."""
        if len(parts) == 1 and times is None:
            return parts[0]
        both = cls(*parts[0].mean.shape, device=parts[0].mean.device)
        times = [1] * len(parts) if times is None else times
        counts = [n * part.count for n, part in zip(times, parts, strict=True)]
        both.count = sum(counts)
        if not both.count:
            return both
        for part, count in zip(parts, counts, strict=True):
            both.mean += count / both.count * part.mean.to(both.mean)
        pairs = zip(parts, counts, strict=True)
        shifts = [count**0.5 * (part.mean.to(both.mean) - both.mean) for part, count in pairs]
        both._add_squares(_packets_first(torch.stack(shifts)))
        for part, n in zip(parts, times, strict=True):
            if n:
                both.scatter.add_(part.scatter.to(both.mean), alpha=n)
        return both

    def _add_squares(self, rows: Tensor) -> None:
        """Of rows (P, B, D)."""
        scatter = self.scatter.view(-1, *self.scatter.shape[-2:])
        upper, lower = rows[..., : self.half], rows[..., self.half :]
        scatter[:, : self.half].baddbmm_(upper.mT, rows)
        scatter[:, self.half :, self.half :].baddbmm_(lower.mT, lower)

    def gaussian(self) -> Gaussian:
        """Raises ValueError for fewer than two rows."""
        if self.count < 2:
            raise ValueError(
                f"{self.count} images give no covariance of {self.mean.shape[-1]} features; "
                "at least 2 are needed"
            )
        cov = self.scatter / (self.count - 1)
        cov[..., self.half :, : self.half] = cov[..., : self.half, self.half :].mT
        return Gaussian(self.mean.clone(), cov, self.count)


def _packets_first(rows: Tensor) -> Tensor:
    """(B, ..., D) as (P, B, D)."""
    return rows.reshape(len(rows), -1, rows.shape[-1]).transpose(0, 1)


def too_few(count: int, features: int) -> str:
    """A warning, if so many images give a singular covariance of so many features; else ""."""
    if not 0 < count <= features:
        return ""
    return (
        f"{count} images give a singular covariance of {features} features, and a distance that "
        f"is far too large; take many more than {features} images"
    )


def distance(a: Gaussian, b: Gaussian) -> Tensor:
    """Squared Fréchet distance of each pair of Gaussians: (...) float64.

    Covariances may be singular. Raises ValueError for different shapes, for what is no number, and
    for what is no covariance.
    """
    if a.mean.shape != b.mean.shape:
        ours, theirs = tuple(a.mean.shape), tuple(b.mean.shape)
        raise ValueError(f"features of two sets must have one shape, got {ours} and {theirs}")
    means, covs = (a.mean.double(), b.mean.double()), (a.cov.double(), b.cov.double())
    if not all(x.sum().isfinite() for x in (*means, *covs)):
        raise ValueError("means and covariances must be finite numbers: some features are not")
    apart = (means[0] - means[1]).square().sum(-1)
    spread = sum(cov.diagonal(dim1=-2, dim2=-1).sum(-1) for cov in covs)
    left, right = (cov.reshape(-1, *cov.shape[-2:]) for cov in covs)  # (P, D, D)
    some = max(1, CHUNK // left[0].numel())
    pairs = zip(left.split(some), right.split(some), strict=True)
    traces = torch.cat([_root_trace(*pair) for pair in pairs]).view_as(apart)
    return (apart + spread - 2 * traces).clamp(min=0)


def _root_trace(a: Tensor, b: Tensor) -> Tensor:
    """tr (a b)^(1/2) of covariances (P, D, D): (P,)."""
    factor, failed = torch.linalg.cholesky_ex(a)
    if failed.all():
        return torch.stack([_singular_root_trace(*pair) for pair in zip(a, b, strict=True)])
    factor[failed > 0] = 0
    squares = torch.linalg.eigvalsh(factor.mT @ b @ factor)  # (P, D), ascending
    traces = squares.clamp(min=0).sqrt().sum(-1)
    unsure = squares[:, 0] <= REGULAR * squares[:, -1]
    for i in unsure.nonzero().flatten().tolist():
        traces[i] = _singular_root_trace(a[i], b[i])
    return traces


def _singular_root_trace(a: Tensor, b: Tensor) -> Tensor:
    """tr (a b)^(1/2) of covariances (D, D), of which one or both are singular: ()."""
    factor = _range(a)  # (D, R)
    squares = torch.linalg.eigvalsh(factor.mT @ b @ factor)  # (R,), ascending
    if len(squares) and squares[0] > REGULAR * squares[-1]:
        return squares.sqrt().sum()
    return torch.linalg.svdvals(factor.mT @ _range(b)).sum()


def _range(cov: Tensor) -> Tensor:
    """A factor (D, R) of a covariance (D, D) of rank R: what rounding has added is left out."""
    values, vectors = torch.linalg.eigh(cov)
    most = values.abs().max()
    if values[0] < -1e-6 * most:
        raise ValueError(f"a covariance must have no negative eigenvalue, got {values[0].item():g}")
    kept = values > len(values) * torch.finfo(cov.dtype).eps * most
    return vectors[:, kept] * values[kept].sqrt()
