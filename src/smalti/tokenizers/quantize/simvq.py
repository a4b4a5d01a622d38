"""A table of codes that learns as a whole: a frozen table behind a learned linear map.

Zhu, Li, Zhang et al. 2024, "Addressing Representation Collapse in Vector Quantized Models with One
Linear Layer" (arXiv:2411.02038), "SimVQ"; the rotation of gradients: Fifty et al. 2024
(arXiv:2410.06424).

Unusual: one gradient step moves every code, used or not, so codes do not die, and no care is taken
of them. Of a table of many codes so many latents are compared at a time that `ENTRIES` numbers are
enough.

B images, C codebook dimensions, h, w code grid, P = B * h * w positions, V codes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.tokenizers.quantize.vq import Quantized, VectorQuantizer, as_map

ENTRIES = 2**24
"""Distances that are in memory at once, 64 MB."""


class SimVQ(VectorQuantizer):
    """Latents (B, C, h, w) to the nearest of `vocab` codes; the first one on ties.

    `rotate`: gradients reach latents turned and scaled as latents are to become codes; else they
    pass straight through. Raises ValueError for a table without codes or dimensions.
    """

    table: Tensor

    def __init__(self, vocab: int, dim: int, rotate: bool = False) -> None:
        nn.Module.__init__(self)
        if vocab < 2 or dim < 1:
            raise ValueError(f"vocab must be at least 2 and dim at least 1, got {vocab}, {dim}")
        self.vocab, self.l2_norm, self.plain, self.rotate = vocab, False, False, rotate
        self.register_buffer("table", torch.empty(vocab, dim))
        self.transform = nn.Linear(dim, dim, bias=False)
        self.init_weights()

    def init_weights(self) -> None:
        """Codes normal with deviation C ** -0.5, as published; the map is torch's own start."""
        nn.init.normal_(self.table, std=self.table.shape[1] ** -0.5)
        self.transform.reset_parameters()

    def codebook(self) -> Tensor:
        """The vectors that codes stand for, (V, C)."""
        return self.transform(self.table)

    def nearest(self, rows: Tensor) -> Tensor:
        """The codes (P,) that are nearest to latents (P, C)."""
        parts = rows.split(max(1, ENTRIES // self.vocab))
        book = self.codebook().float()
        square = book.square().sum(1)
        # what all distances of a latent have in common, its length, decides nothing
        return torch.cat([torch.addmm(square, p, book.T, alpha=-2).argmin(1) for p in parts])

    @torch.no_grad()
    def encode(self, z: Tensor) -> Tensor:
        """Codes (B, h, w) of latents (B, C, h, w)."""
        with torch.autocast(z.device.type, enabled=False):
            return self.nearest(self.rows(z)).view(len(z), *z.shape[2:])

    def forward(self, z: Tensor, entropy: bool = False) -> Quantized:
        """Quantize for training. Raises ValueError for an entropy loss, which it has none of."""
        if entropy:
            raise ValueError("SimVQ has no entropy loss: entropy must be 0")
        with torch.autocast(z.device.type, enabled=False):
            rows = self.rows(z)  # (P, C)
            codes = self.encode(z)
            chosen = F.embedding(codes.flatten(), self.codebook().float())
        losses = {
            "codebook": F.mse_loss(chosen, rows.detach()),
            "commitment": F.mse_loss(rows, chosen.detach()),
        }
        passed = rotated(rows, chosen.detach()) if self.rotate else rows + (chosen - rows).detach()
        return Quantized(as_map(passed, z), codes, losses)


def rotated(rows: Tensor, to: Tensor) -> Tensor:
    """The rows `to` (P, C), which have the gradient of `rows` by the rotation and the scale that
    bring each to its place."""
    lengths, wanted = (x.detach().norm(dim=1, keepdim=True).clamp(min=1e-6) for x in (rows, to))
    begin, end = rows.detach() / lengths, to / wanted
    middle = F.normalize(begin + end, dim=1)
    along = (rows * middle).sum(1, keepdim=True)
    turned = rows - 2 * along * middle + 2 * (rows * begin).sum(1, keepdim=True) * end
    return turned * (wanted / lengths)
