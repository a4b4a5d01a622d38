"""Scores of embeddings of images and texts, such as CLIP's: no network here, only the formulas.

CLIPScore (Hessel et al., 2021, arXiv:2104.08718), torchmetrics' CLIP score, and CMMD (Jayasumana et
al., 2024, arXiv:2401.09603). N images, E numbers of an embedding, of any length. In float64.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 2048
"""Rows of a kernel that are computed at a time."""


def cosine(images: Tensor, texts: Tensor) -> Tensor:
    """Cosine of each pair of embeddings (N, E): (N,). Raises ValueError for other shapes."""
    if images.shape != texts.shape:
        ours, theirs = tuple(images.shape), tuple(texts.shape)
        raise ValueError(f"each image needs one text of its own, got {ours} and {theirs}")
    return (_unit(images) * _unit(texts)).sum(-1)


def clip_score(images: Tensor, texts: Tensor) -> float:
    """torchmetrics' CLIP score, 0 ... 100: the mean of 100 cosines, and 0 if that is negative."""
    return max(100 * cosine(images, texts).mean().item(), 0.0)


def clipscore(images: Tensor, texts: Tensor) -> float:
    """The paper's CLIPScore, 0 ... 2.5: the mean of 2.5 cosines, of which negative ones count 0."""
    return 2.5 * cosine(images, texts).clamp(min=0).mean().item()


def cmmd(samples: Tensor, reference: Tensor, width: float = 10.0, scale: float = 1000.0) -> float:
    """CMMD of embeddings (M, E) and (N, E), as its paper states it: `scale` times the biased
    squared MMD of unit vectors with the kernel exp(-d^2 / (2 width^2)). Raises ValueError for
    different E and for empty sets."""
    if samples.shape[1:] != reference.shape[1:] or not len(samples) or not len(reference):
        ours, theirs = tuple(samples.shape), tuple(reference.shape)
        raise ValueError(f"need two sets of rows of one length, got {ours} and {theirs}")
    x, y = _unit(samples), _unit(reference)
    own = _kernel_mean(x, x, width) + _kernel_mean(y, y, width)
    return scale * (own - 2 * _kernel_mean(x, y, width))


def cmmd_of_blocks(
    samples: Tensor, reference: Tensor, blocks: Tensor, width: float = 10.0, scale: float = 1000.0
) -> Callable[[np.ndarray], float]:
    """CMMD of samples (M, E), given how often each block of them is taken, (K,), where `blocks`,
    (M,) int64, says which of K each sample is in. Kernels are computed once."""
    x, y, count = _unit(samples), _unit(reference), int(blocks.max()) + 1
    sums = torch.zeros(count, count, dtype=torch.float64)
    across = torch.zeros(count, dtype=torch.float64)
    for part, mine in zip(x.split(BLOCK), blocks.split(BLOCK), strict=True):
        columns = torch.zeros(len(part), count, dtype=torch.float64)
        sums.index_add_(0, mine, columns.index_add_(1, blocks, _kernel(part, x, width)))
        across.index_add_(0, mine, _kernel(part, y, width).sum(1))
    sizes, theirs = torch.bincount(blocks).double(), _kernel_mean(y, y, width)

    def value(times: np.ndarray) -> float:
        taken = torch.from_numpy(np.asarray(times, np.float64))
        images = taken @ sizes
        own, cross = taken @ sums @ taken / images**2, taken @ across / (images * len(y))
        return scale * float(own + theirs - 2 * cross)

    return value


def _kernel(x: Tensor, y: Tensor, width: float) -> Tensor:
    """The kernel of unit vectors, less 1: kernels near 1 keep their digits."""
    return torch.expm1((x @ y.T - 1) / width**2)


def _kernel_mean(x: Tensor, y: Tensor, width: float) -> float:
    """The mean of the kernel of unit vectors, less 1."""
    sums = (_kernel(part, y, width).sum().item() for part in x.split(BLOCK))
    return sum(sums) / (len(x) * len(y))


def _unit(rows: Tensor) -> Tensor:
    return F.normalize(rows.double(), dim=-1)
