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

    Sums are about `middle`, (*shape), by default the mean of the first rows added, so a mean far
    from 0 costs no digits.
    """

    def __init__(
        self, *shape: int, device: torch.device | str = "cpu", middle: Tensor | None = None
    ) -> None:
        self.count, self.middle = 0, middle
        self.total = torch.zeros(shape, dtype=torch.float64, device=device)  # (..., D)
        self.scatter = self.total.new_zeros(*shape, shape[-1])  # (..., D, D)

    def add(self, rows: Tensor) -> None:
        """Rows (B, *shape) of any dtype. Raises ValueError for another shape."""
        if rows.shape[1:] != self.total.shape:
            want, have = tuple(self.total.shape), tuple(rows.shape[1:])
            raise ValueError(f"features must have the shape {want} of those before, got {have}")
        if not len(rows):
            return
        rows = rows.to(self.total)
        if self.middle is None:
            self.middle = rows.mean(0)
        rows = rows - self.middle
        self.count += len(rows)
        self.total += rows.sum(0)
        rows = rows.reshape(len(rows), -1, rows.shape[-1]).transpose(0, 1)  # (P, B, D)
        self.scatter.view(-1, *self.scatter.shape[-2:]).baddbmm_(rows.mT, rows)

    def __add__(self, other: Moments) -> Moments:
        """The moments of both sets together."""
        return self.joined((self, other))

    @classmethod
    def joined(cls, parts: Sequence[Moments], times: Sequence[int] | None = None) -> Moments:
        """The moments of all parts together, each so many times; fast where middles are equal."""
        times = [1] * len(parts) if times is None else times
        first = next((p for p in parts if p.middle is not None), parts[0])
        both = cls(*first.total.shape, device=first.total.device, middle=first.middle)
        for part, n in zip(parts, times, strict=True):
            if not n or part.middle is None or both.middle is None:
                continue
            both.count += n * part.count
            both.total.add_(part.total.to(both.total), alpha=n)
            both.scatter.add_(part.scatter.to(both.total), alpha=n)
            shift = part.middle.to(both.total) - both.middle
            if shift.any():
                both.total.add_(shift, alpha=n * part.count)
                cross = shift.unsqueeze(-1) * (part.total + part.count / 2 * shift).unsqueeze(-2)
                both.scatter.add_(cross + cross.mT, alpha=n)
        return both

    def gaussian(self) -> Gaussian:
        """Raises ValueError for fewer than two rows."""
        if self.middle is None or self.count < 2:
            raise ValueError(
                f"{self.count} images give no covariance of {self.total.shape[-1]} features; "
                "at least 2 are needed"
            )
        off = self.total / self.count
        scatter = self.scatter - self.total.unsqueeze(-1) * off.unsqueeze(-2)
        return Gaussian(self.middle + off, scatter / (self.count - 1), self.count)


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
    factor[failed > 0] = 0
    squares = torch.linalg.eigvalsh(factor.mT @ b @ factor)  # (P, D), ascending
    traces = squares.clamp(min=0).sqrt().sum(-1)
    unsure = squares[:, 0] <= REGULAR * squares[:, -1]
    for i in unsure.nonzero().flatten().tolist():
        traces[i] = torch.linalg.svdvals(_range(a[i]).mT @ _range(b[i])).sum()
    return traces


def _range(cov: Tensor) -> Tensor:
    """A factor (D, R) of a covariance (D, D) of rank R: what rounding has added is left out."""
    values, vectors = torch.linalg.eigh(cov)
    most = values.abs().max()
    if values[0] < -1e-6 * most:
        raise ValueError(f"a covariance must have no negative eigenvalue, got {values[0].item():g}")
    kept = values > len(values) * torch.finfo(cov.dtype).eps * most
    return vectors[:, kept] * values[kept].sqrt()
