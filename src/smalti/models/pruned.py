"""Token pruning: late layers compute some positions of a late scale, and take what they would have
given at the others from an earlier, coarser scale.

FastVAR (Guo et al. 2025, "FastVAR: Linear Visual Autoregressive Modeling via Cached Token Pruning",
arXiv:2503.23367). Late scales add detail: what differs most from the mean of its picture is
computed, and the smooth rest is what the last whole scale had there.

B rows of images and branches, n positions of a scale, m of them that are computed, D width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from smalti.sampling.pruning import Pruning
from smalti.tokenizers.quantize.bsq import Grids


def farthest(x: Tensor, count: int) -> Tensor:
    """Which rows of x (B, n, D) are farthest from their mean, the farthest first: (B, count)."""
    away = (x - x.mean(1, keepdim=True)).square().sum(-1)  # (B, n)
    return away.argsort(dim=1, descending=True, stable=True)[:, :count]


def taken(x: Tensor, index: Tensor) -> Tensor:
    """The rows of x (B, n, ...) at index (B, m), in its order: (B, m, ...)."""
    return x[torch.arange(len(index), device=index.device)[:, None], index]


def restored(
    computed: Tensor,
    index: Tensor,
    earlier: Tensor,
    source: tuple[int, int],
    grid: tuple[int, int],
) -> Tensor:
    """All rows of a scale, (B, n, D): those `computed` (B, m, D) at index (B, m), and between them
    those of an earlier scale, (B, n', D) on the grid `source`, resized by area."""
    old = earlier.transpose(1, 2).unflatten(2, source)  # (B, D, h', w')
    new = F.adaptive_avg_pool2d(old, grid).flatten(2).transpose(1, 2)  # (B, n, D)
    return new.scatter(1, index[..., None].expand(computed.shape), computed.to(new.dtype))


@dataclass(frozen=True)
class Pruned:
    """What late layers compute of one scale."""

    first: int
    """The first of them."""
    out: int
    """How many positions they leave out."""
    gap: int
    """Slots that they left out of the scales before: their keys stand so much further ahead."""
    grid: tuple[int, int]
    source: tuple[int, int]
    """The grid of the last scale of which nothing is left out."""
    last: bool
    """Whether it is this one."""

    @staticmethod
    def of(pruning: Pruning, scale: int, grids: Grids, layers: int) -> Pruned | None:
        """Of a scale, of a model of so many layers; None where late layers do as others do."""
        last = len(grids) - len(pruning.prune) - 1
        if not pruning.prune or scale < last:
            return None
        sizes = [math.prod(grid) for grid in grids]
        out = [n - kept for n, kept in zip(sizes, pruning.kept(sizes), strict=True)]
        first, gap = pruning.first(layers), sum(out[:scale])
        return Pruned(first, out[scale], gap, grids[scale], grids[last], scale == last)


Outputs = dict[tuple[int, str], Tensor]
"""What each branch of each late layer gave at the last whole scale, (B, n', D)."""


@dataclass(frozen=True)
class Rows:
    """The rows of one layer and scale that are computed; all of them where nothing is pruned."""

    kept: Tensor | None = None
    """(B, m) which; None: all."""
    plan: Pruned | None = None
    """Of a late layer."""
    layer: int = 0
    outputs: Outputs | None = None

    @staticmethod
    def of(x: Tensor, layer: int, plan: Pruned, outputs: Outputs) -> Rows:
        """Of a late layer, that is given x (B, n, D)."""
        kept = farthest(x, math.prod(plan.grid) - plan.out) if plan.out else None
        return Rows(kept, plan, layer, outputs)

    def take(self, x: Tensor) -> Tensor:
        """Of rows (B, n, D) those that are computed, (B, m, D)."""
        return x if self.kept is None else taken(x, self.kept)

    def put(self, y: Tensor, branch: str) -> Tensor:
        """What a branch of the layer gives at all positions, (B, n, D), where it was computed at
        some of them, (B, m, D)."""
        plan, outputs = self.plan, self.outputs
        if plan is None or outputs is None:
            return y
        if self.kept is not None:
            earlier = outputs[self.layer, branch]
            return restored(y, self.kept, earlier, plan.source, plan.grid)
        if plan.last:  # behind words, if any stand before the picture
            outputs[self.layer, branch] = y[:, -math.prod(plan.grid) :]
        return y
