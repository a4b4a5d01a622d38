"""Codes as moving averages of the latents that they stand for, in place of gradients.

van den Oord et al. 2017 (arXiv:1711.00937, appendix A.1), as RQ-VAE trains its tables. Averages are
kept beside the codebook, and become its rows when no graph holds them.

Letters: R rows of a codebook, C dimensions, n latents.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch import distributed as dist

RARE = 1e-6
"""Latents a step below which an average stays where it is."""


class CodeAverages(nn.Module):
    """Sums of latents by code and how many they are, both fading by `decay` a step."""

    mass: Tensor
    sums: Tensor

    def __init__(self, weight: Tensor, decay: float) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("mass", torch.ones(len(weight)))
        self.register_buffer("sums", weight.detach().float().clone())

    def begin(self, weight: Tensor) -> None:
        """Start from the rows of a codebook (R, C), as if each had stood for one latent a step."""
        self.mass.fill_(1)
        self.sums.copy_(weight)

    def move(self, codes: Tensor, rows: Tensor) -> None:
        """Start codes (n,) again from rows (n, C)."""
        self.mass[codes] = 1
        self.sums[codes] = rows

    def update(self, latents: Tensor, codes: Tensor, first: Tensor | None = None) -> None:
        """Take latents (n, C) into the averages of their codes (n,), rows of the codebook; `first`
        says whether they are the first of a step, which fade what was there; None: they are."""
        found = torch.bincount(codes, minlength=len(self.mass)).float()
        sums = torch.zeros_like(self.sums).index_add_(0, codes, latents.float())
        if dist.is_initialized():
            dist.all_reduce(found)
            dist.all_reduce(sums)
        kept = self.decay if first is None else torch.where(first, self.decay, 1.0)
        self.mass.mul_(kept).add_(found, alpha=1 - self.decay)
        self.sums.mul_(kept).add_(sums, alpha=1 - self.decay)

    def place(self, weight: Tensor, now: Tensor | None = None) -> None:
        """Write the averages over the rows of a codebook (R, C); not if `now` is false."""
        often = (self.mass > RARE)[:, None]
        often = often if now is None else often & now.to(often.device)
        weight.copy_(torch.where(often, self.sums / self.mass.clamp(min=RARE)[:, None], weight))
