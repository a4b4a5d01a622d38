"""Residual quantization over scales: each scale codes, coarse to fine, what the ones before left.

VAR (Tian et al. 2024, arXiv:2404.02905). Unusual: one codebook serves all scales; a scale's
vectors are spread over the whole grid (bicubic) and pass a convolution `phi` before they are added,
so that a later scale repairs what an earlier one did; neighbouring scales may share a phi.

Letters: B images, C codebook dimensions, V codebook entries, K scales of h_k x w_k = n_k codes,
N = n_0 + ... + n_(K-1), h, w the last and largest grid.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.tokenizers.quantize.vq import Quantized, entropy_loss

Grid = tuple[int, int]


class Corrected(NamedTuple):
    """What a model learns from when some of the codes that it reads are wrong."""

    inputs: Tensor
    """(B, N - n_0, C): what predicts the scales behind the first, of the codes that were shown."""
    labels: Tensor
    """(B, N, *trailing): codes to predict, each scale's of what the shown ones before it left."""
    shown: Tensor
    """(B, N, *trailing): the labels, some of them or of their bits changed."""


class Phi(nn.Conv2d):
    """A 3x3 convolution mixed with its input, (B, C, h, w): `ratio` is the convolution's share."""

    def __init__(self, dim: int, ratio: float) -> None:
        super().__init__(dim, dim, 3, padding=1)
        self.ratio = ratio

    def forward(self, input: Tensor) -> Tensor:
        return input * (1 - self.ratio) + super().forward(input) * self.ratio


class MultiScaleQuantizer(nn.Module):
    """Latents (B, C, h, w) to codes (B, N), scale by scale and row by row inside a scale.

    A residual's code is the nearest row of the codebook, the first one on ties; with `l2_norm` the
    row of the nearest direction. Rows are added as they are stored. `phis` convolutions serve the
    K scales in turn, 0 is one for each; `phi_ratio` is their share beside the identity.
    """

    tables = 1
    parts = 1

    def __init__(
        self,
        grids: tuple[Grid, ...],
        vocab: int,
        dim: int,
        phis: int = 4,
        phi_ratio: float = 0.5,
        l2_norm: bool = False,
    ) -> None:
        super().__init__()
        check_scales(grids, vocab, dim, phis, phi_ratio)
        self.grids, self.vocab, self.phis, self.l2_norm = grids, vocab, phis, l2_norm
        self.sizes = [h * w for h, w in grids]
        self.embedding = nn.Embedding(vocab, dim)
        count = phis or len(grids)
        self.phi = nn.ModuleList(
            [Phi(dim, phi_ratio) if phi_ratio else nn.Identity() for _ in range(count)]
        )
        self.phi_of = phi_choice(len(grids), len(self.phi))
        self.init_weights()

    def init_weights(self) -> None:
        """phi begins as the identity, so that what is added is what was found to be nearest."""
        nn.init.uniform_(self.embedding.weight, -1 / self.vocab, 1 / self.vocab)
        for phi in self.phi:
            if isinstance(phi, Phi):
                assert phi.bias is not None
                nn.init.dirac_(phi.weight)
                nn.init.zeros_(phi.bias)

    # -- vectors and the two resizings

    def embed(self, codes: Tensor) -> Tensor:
        """The vectors (B, n, C) that codes (B, n) stand for."""
        return self.embedding(codes)

    def empty(self, batch: int, like: Tensor) -> Tensor:
        """The latent (B, C, h, w) of no codes, in the dtype and on the device of `like`."""
        return like.new_zeros(batch, self.embedding.embedding_dim, *self.grids[-1])

    def settings(self) -> dict[str, int | float]:
        """What a model of these codes has to know of it beside them."""
        ratio = next((phi.ratio for phi in self.phi if isinstance(phi, Phi)), 0.0)
        return {
            "latent": self.embedding.embedding_dim,
            "phis": self.phis,
            "phi_ratio": ratio,
        }

    def add(self, latent: Tensor, vectors: Tensor, k: int) -> Tensor:
        """`latent` (B, C, h, w) and what vectors (B, n_k, C) of scale k add to it."""
        x = vectors.transpose(1, 2).contiguous().unflatten(2, self.grids[k])  # (B, C, h_k, w_k)
        if self.grids[k] != self.grids[-1]:
            x = F.interpolate(x, self.grids[-1], mode="bicubic")  # (B, C, h, w)
        return latent + self.phi[self.phi_of[k]](x)

    def shrink(self, latent: Tensor, k: int) -> Tensor:
        """`latent` (B, C, h, w) as scale k sees it, each cell the mean of its area: (B, n_k, C)."""
        if self.grids[k] != self.grids[-1]:
            latent = F.adaptive_avg_pool2d(latent, self.grids[k])  # (B, C, h_k, w_k)
        return latent.flatten(2).transpose(1, 2)

    # -- codes

    def distances(self, rows: Tensor, level: int = 0) -> Tensor:
        """Squared distances of rows (n, C) to every code, (n, V), float32; with `l2_norm` both
        are normalised."""
        rows, book = rows.float(), self.embedding.weight.float()
        if self.l2_norm:
            rows, book = F.normalize(rows, dim=-1), F.normalize(book, dim=-1)
        return torch.addmm(
            rows.square().sum(1, keepdim=True) + book.square().sum(1), rows, book.T, alpha=-2
        )

    def nearest(self, rows: Tensor) -> Tensor:
        """The codes (B, n) of vectors (B, n, C)."""
        return self.distances(rows.detach().flatten(0, 1)).argmin(1).view(rows.shape[:2])

    def walk(self, z: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Scale by scale: what is left of `z` (B, n_k, C), its codes (B, n_k), and the latent
        (B, C, h, w) of all codes so far."""
        latent = torch.zeros_like(z)
        for k in range(len(self.grids)):
            rows = self.shrink(z - latent.detach(), k)
            codes = self.nearest(rows)
            latent = self.add(latent, self.embed(codes), k)
            yield rows, codes, latent

    def compared(self, z: Tensor) -> list[Tensor]:
        """What each scale compares with the codebook, (B * n_k, C) float32 each."""
        with torch.autocast(z.device.type, enabled=False):
            return [rows.flatten(0, 1) for rows, _, _ in self.walk(z.float())]

    def unquantized(self, z: Tensor) -> Tensor:
        """What stands for `z` (B, C, h, w) while there is no codebook."""
        return z

    def encode(self, z: Tensor) -> Tensor:
        """Codes (B, N) of latents (B, C, h, w)."""
        with torch.no_grad(), torch.autocast(z.device.type, enabled=False):
            return torch.cat([codes for _, codes, _ in self.walk(z.float())], 1)

    def decode(self, codes: Tensor, scales: int | None = None) -> Tensor:
        """Latents (B, C, h, w) of the first `scales` scales (all, if None) of codes (B, N), or of
        vectors (B, N, C) in their place."""
        if scales is not None and not 0 <= scales <= len(self.grids):
            raise ValueError(f"scales must be from 0 to {len(self.grids)}, got {scales}")
        vectors = codes if codes.is_floating_point() else self.embed(codes)  # (B, N, C)
        parts = vectors.split(self.sizes, 1)
        latent = self.empty(len(vectors), vectors)
        for k in range(len(parts) if scales is None else scales):
            latent = self.add(latent, parts[k], k)
        return latent

    def inputs(self, codes: Tensor) -> Tensor:
        """What predicts scales 1 ... K-1, (B, N - n_0, C): at each scale the latent of those before
        it, shrunk."""
        parts, read = self.embed(codes).split(self.sizes, 1), list[Tensor]()
        latent = self.empty(len(codes), parts[0])
        for k in range(len(parts) - 1):
            latent = self.add(latent, parts[k], k)
            read.append(self.shrink(latent, k + 1))
        return torch.cat([parts[0][:, :0], *read], 1)

    @torch.no_grad()
    def correct_codes(self, codes: Tensor, uniform: Tensor, strength: Tensor) -> Corrected:
        """What a model learns from that reads wrong codes and is to predict those that make them
        good. A scale's label is the nearest code to its own vector less what the shown codes of
        the scales before it added too much; so labels are the codes until one is wrong.

        Args: codes (B, N); numbers (B, N) in [0, 1), where those below the strength of their scale
        show another code, each of the others as likely; strengths (B, K), the first scales' if
        there are fewer.
        """
        labels, shown, read = list[Tensor](), list[Tensor](), list[Tensor]()
        rate = F.pad(strength, (0, max(0, len(self.grids) - strength.shape[-1])))  # (B, K)
        vocab = self.vocab
        with torch.autocast(codes.device.type, enabled=False):
            parts = self.embed(codes).split(self.sizes, 1)
            right = seen = self.empty(len(codes), parts[0])
            for k, numbers in enumerate(uniform.split(self.sizes, 1)):
                labels.append(self.nearest(parts[k] - self.shrink(seen - right, k)))
                share = numbers / rate[:, k, None]  # (B, n_k), in [0, 1) where it is wrong
                other = labels[-1] + 1 + (share.clamp(max=1) * (vocab - 1)).long()
                shown.append(torch.where(share < 1, other % vocab, labels[-1]))
                right = self.add(right, parts[k], k)
                seen = self.add(seen, self.embed(shown[-1]), k)
                if k + 1 < len(self.grids):
                    read.append(self.shrink(seen, k + 1))
        inputs = torch.cat([parts[0][:, :0], *read], 1)
        return Corrected(inputs, torch.cat(labels, 1), torch.cat(shown, 1))

    def forward(self, z: Tensor, entropy: bool = False) -> Quantized:
        """Quantize for training. Losses are means over the scales: of the latent so far against
        `z`, and, with `entropy`, of how a scale's codes are spread over the codebook."""
        with torch.autocast(z.device.type, enabled=False):
            z = z.float()
            rows, codes, latents = zip(*self.walk(z), strict=True)
            losses = {
                "codebook": mean([F.mse_loss(latent, z.detach()) for latent in latents]),
                "commitment": mean([F.mse_loss(latent.detach(), z) for latent in latents]),
            }
            if entropy:
                losses["entropy"] = mean(
                    [entropy_loss(-self.distances(part.flatten(0, 1))) for part in rows]
                )
        return Quantized(z + (latents[-1] - z).detach(), torch.cat(codes, 1), losses)


def mean(losses: list[Tensor]) -> Tensor:
    return torch.stack(losses).mean()


def check_scales(
    grids: tuple[Grid, ...], vocab: int, dim: int, phis: int, phi_ratio: float
) -> None:
    """Raise ValueError unless these make a `MultiScaleQuantizer`."""
    if vocab < 2 or dim < 1:
        raise ValueError(f"vocab must be at least 2 and dim at least 1, got {vocab}, {dim}")
    if phis < 0:
        raise ValueError(f"phis must be 0 (one for each scale) or more, got {phis}")
    if not 0 <= phi_ratio <= 1:
        raise ValueError(f"phi_ratio must be in [0, 1], got {phi_ratio}")
    check_grids(grids)


def check_grids(grids: tuple[Grid, ...]) -> None:
    """Raise ValueError unless these are scales, coarse to fine."""
    if not grids or min(min(g) for g in grids) < 1:
        raise ValueError(f"scales must be pairs of positive integers, got {grids}")
    for before, after in zip(grids, grids[1:], strict=False):
        if before == after or before[0] > after[0] or before[1] > after[1]:
            raise ValueError(f"scales must ascend, got {after} behind {before}")


def phi_choice(scales: int, phis: int) -> list[int]:
    """Which phi serves each scale: the one whose tick is nearest, the first on ties.

    The ticks lie closer to the ends for four of them than for any other number, as published. Of
    VAR's ten scales two lie halfway between ticks: this arithmetic rounds as the official one does.
    """
    edge = 1 / (3 if phis == 4 else 2) / phis
    ticks = np.linspace(edge, 1 - edge, phis)
    return [int(np.abs(ticks - k / max(scales - 1, 1)).argmin()) for k in range(scales)]


def pyramid(*sides: int, grid: Grid | None = None) -> tuple[Grid, ...]:
    """Grids of these sides, coarse to fine: squares, or of the proportions of the last one, `grid`,
    whose longer side is then the last of `sides`."""
    height, width = grid or (sides[-1], sides[-1])
    if max(height, width) != sides[-1]:
        raise ValueError(f"the longer side of {grid} must be the last of {sides}")
    return tuple(
        (max(1, round(s * height / sides[-1])), max(1, round(s * width / sides[-1]))) for s in sides
    )
