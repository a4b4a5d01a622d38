"""Vector quantization with a low-dimensional, l2-normalised codebook.

van den Oord et al. 2017 (arXiv:1711.00937); the low-dimensional normalised codebook is from
ViT-VQGAN (Yu et al. 2021, arXiv:2110.04627), as LlamaGen uses it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Quantized(NamedTuple):
    latent: Tensor
    """Codebook vectors (B, C, h, w) that pass the gradient straight through to the input."""
    codes: Tensor
    """(B, h, w) int64; (B, N) where there are several scales."""
    losses: dict[str, Tensor]
    """"codebook", "commitment" and, if asked for, "entropy"; scalars, unweighted."""


class VectorQuantizer(nn.Module):
    """Latents (B, C, h, w) to the nearest of `vocab` codebook rows; the first one on ties.

    With `l2_norm`, latents and rows are normalised when used; the stored rows are free. With
    `plain` as well, only rows that are decoded are.
    """

    tables = 1
    parts = 1

    def __init__(self, vocab: int, dim: int, l2_norm: bool = True, plain: bool = False) -> None:
        super().__init__()
        if vocab < 2 or dim < 1:
            raise ValueError(f"vocab must be at least 2 and dim at least 1, got {vocab}, {dim}")
        self.vocab, self.l2_norm, self.plain = vocab, l2_norm, plain
        self.embedding = nn.Embedding(vocab, dim)
        self.init_weights()

    def init_weights(self) -> None:
        nn.init.uniform_(self.embedding.weight, -1 / self.vocab, 1 / self.vocab)
        if self.l2_norm:
            self.embedding.weight.data = F.normalize(self.embedding.weight.data, dim=-1)

    def codebook(self) -> Tensor:
        """The vectors that codes stand for, (V, C)."""
        weight = self.embedding.weight
        return F.normalize(weight, dim=-1) if self.l2_norm else weight

    def book(self) -> Tensor:
        """The vectors that latents are compared with, (V, C), float32."""
        return (self.embedding.weight if self.plain else self.codebook()).float()

    def rows(self, z: Tensor) -> Tensor:
        """Latents (B, C, h, w) as the vectors that are compared, (B * h * w, C), float32."""
        z = z.permute(0, 2, 3, 1).flatten(0, 2).float()
        return F.normalize(z, dim=-1) if self.l2_norm and not self.plain else z

    def compared(self, z: Tensor) -> list[Tensor]:
        """The vectors that are compared at each level, of which there is one."""
        return [self.rows(z)]

    def unquantized(self, z: Tensor) -> Tensor:
        """What stands for `z` (B, C, h, w) while there is no codebook."""
        return as_map(self.rows(z), z)

    def distances(self, rows: Tensor, level: int = 0) -> Tensor:
        """Squared distances to every code, (rows, V), float32."""
        book = self.book()
        return torch.addmm(
            rows.square().sum(1, keepdim=True) + book.square().sum(1), rows, book.T, alpha=-2
        )

    def encode(self, z: Tensor) -> Tensor:
        """Codes (B, h, w) of latents (B, C, h, w)."""
        with torch.no_grad(), torch.autocast(z.device.type, enabled=False):
            return self.distances(self.rows(z)).argmin(1).view(len(z), *z.shape[2:])

    def decode(self, codes: Tensor) -> Tensor:
        """Codebook vectors (B, C, h, w) of codes (B, h, w)."""
        return F.embedding(codes, self.codebook()).permute(0, 3, 1, 2).contiguous()

    def forward(self, z: Tensor, entropy: bool = False) -> Quantized:
        """Quantize for training; `entropy` computes that loss too, which costs a softmax over V."""
        rows = self.rows(z)  # (B * h * w, C)
        with torch.autocast(z.device.type, enabled=False):
            distances = self.distances(rows if entropy else rows.detach())
            codes = distances.argmin(1)
            chosen = F.embedding(codes, self.book())
        losses = {
            "codebook": F.mse_loss(chosen, rows.detach()),
            "commitment": F.mse_loss(rows, chosen.detach()),
        }
        if entropy:
            losses["entropy"] = entropy_loss(-distances)
        shape = (len(z), *z.shape[2:])
        latent = as_map(rows + (chosen - rows).detach(), z)
        return Quantized(latent, codes.view(shape), losses)


def as_map(rows: Tensor, like: Tensor) -> Tensor:
    """Rows (B * h * w, C) as a feature map (B, C, h, w) of the size of `like`.

    Contiguous: a permuted view makes all convolutions behind it run channels last, in which group
    norm is many times slower on a CPU.
    """
    return rows.view(len(like), *like.shape[2:], -1).permute(0, 3, 1, 2).contiguous()


def entropy_loss(affinity: Tensor, temperature: float = 0.01) -> Tensor:
    """Mean entropy of each row's soft assignment less the entropy of their mean; low is good.

    `affinity` (rows, V), larger is nearer. The small constants are LlamaGen's.
    """
    logits = affinity / temperature
    probs = logits.softmax(-1)
    per_row = -(probs * (logits + 1e-5).log_softmax(-1)).sum(-1).mean()
    mean = probs.mean(0)
    return per_row + (mean * (mean + 1e-5).log()).sum()
