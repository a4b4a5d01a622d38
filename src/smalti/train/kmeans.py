"""Centres of vectors (Lloyd 1982), from which codebooks start.

Letters: n vectors of C dimensions.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def kmeans(
    rows: Tensor, clusters: int, generator: torch.Generator, spherical: bool, rounds: int = 10
) -> Tensor:
    """Lloyd's algorithm: centres (clusters, C) of rows (n, C); empty clusters take random rows.

    With `spherical` the centres are normalised after each round.
    """
    if not len(rows):
        raise ValueError("k-means needs at least one row")
    pick = torch.randperm(len(rows), generator=generator)
    if len(rows) < clusters:  # repeat rows, a little apart
        pick = torch.randint(len(rows), (clusters,), generator=generator)
    centres = rows[pick[:clusters].to(rows.device)].clone()
    if len(rows) < clusters:
        centres += 0.01 * torch.randn(centres.shape, generator=generator).to(rows.device)
    for _ in range(rounds):
        nearest = torch.cat([torch.cdist(part, centres).argmin(1) for part in rows.split(16384)])
        sums = torch.zeros_like(centres).index_add_(0, nearest, rows)
        sizes = torch.bincount(nearest, minlength=clusters)
        spare = torch.randint(len(rows), (clusters,), generator=generator).to(rows.device)
        centres = torch.where(sizes[:, None] > 0, sums / sizes[:, None].clamp(min=1), rows[spare])
        if spherical:
            centres = F.normalize(centres, dim=-1)
    return centres
