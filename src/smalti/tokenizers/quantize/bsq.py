"""Binary spherical quantization over scales: each scale codes, in bits, what the ones before left.

BSQ is of Zhao et al. 2024 (arXiv:2406.07548), its scales are of Infinity (Han et al. 2024,
arXiv:2412.04431).

Unusual: there is nothing to learn. A bit is the sign of a channel of what is left, and stands for
+-1 / sqrt(K), so that the vector of a code lies on the unit sphere whatever the length of what it
codes. What is left is shrunk to the grid of a scale by the mean of each cell's area, codes are
spread bilinearly over the last grid, and what predicts a scale is the picture so far, resized
bilinearly as well. One position of codes may cover several cells of the latent (`cells`), whose
bits it holds side by side.

Letters: B images, K bits of a cell, c x c cells of a position, C = K c^2 bits of a position,
S scales of h_k x w_k = n_k positions, N = n_0 + ... + n_(S-1), h, w the last and largest grid,
H = c h, W = c w.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.tokenizers.quantize.lfq import bit_entropy
from smalti.tokenizers.quantize.multiscale import Corrected, Grid, check_grids, mean
from smalti.tokenizers.quantize.vq import Quantized

Grids = tuple[Grid, ...]


class MultiScaleBSQ(nn.Module):
    """Latents (B, K, H, W) to bits (B, N, C), scale by scale and row by row inside a scale.

    `grids` are its own; each method takes others, of another aspect ratio or number of scales. The
    entropy loss is that of each bit by itself, at a softmax temperature of 0.01 on the unit sphere.
    """

    def __init__(self, grids: Grids, bits: int, cells: int = 1) -> None:
        super().__init__()
        check_grids(grids)
        if bits < 1 or cells < 1:
            raise ValueError(f"bits and cells must be at least 1, got {bits}, {cells}")
        self.grids, self.bits, self.cells = grids, bits, cells
        self.sizes = sizes_of(grids)

    # -- vectors, and maps of them

    def embed(self, codes: Tensor) -> Tensor:
        """The vectors (B, n, C), float32, that codes (B, n, C) stand for."""
        return (2.0 * codes - 1) / math.sqrt(self.bits)

    def cell_grid(self, grid: Grid) -> Grid:
        """Height and width of the latent of a grid of positions."""
        return grid[0] * self.cells, grid[1] * self.cells

    def as_map(self, rows: Tensor, grid: Grid) -> Tensor:
        """Rows (B, n_k, C) as a map of cells, (B, K, c h_k, c w_k)."""
        x = rows.transpose(1, 2).contiguous().unflatten(2, grid)  # (B, C, h_k, w_k)
        return F.pixel_shuffle(x, self.cells)

    def as_rows(self, x: Tensor) -> Tensor:
        """A map of cells (B, K, c h_k, c w_k) as rows (B, n_k, C)."""
        return F.pixel_unshuffle(x, self.cells).flatten(2).transpose(1, 2)

    def spread(self, x: Tensor, grids: Grids) -> Tensor:
        """A map of a scale over the last of `grids`, (B, K, H, W), bilinearly."""
        return resized(x, self.cell_grid(grids[-1]))

    def add(self, latent: Tensor, vectors: Tensor, k: int, grids: Grids | None = None) -> Tensor:
        """`latent` (B, K, H, W) and what vectors (B, n_k, C) of scale k add to it."""
        grids = grids or self.grids
        return latent + self.spread(self.as_map(vectors, grids[k]), grids)

    def shrink(self, latent: Tensor, k: int, grids: Grids | None = None) -> Tensor:
        """What predicts scale k: `latent` (B, K, H, W) at the points of its grid, (B, n_k, C)."""
        return self.as_rows(resized(latent, self.cell_grid((grids or self.grids)[k])))

    def remains(self, left: Tensor, k: int, grids: Grids | None = None) -> Tensor:
        """What scale k codes of what is `left` (B, K, H, W), the mean of each cell's area:
        (B, K, c h_k, c w_k)."""
        size = self.cell_grid((grids or self.grids)[k])
        return left if left.shape[2:] == size else F.interpolate(left, size, mode="area")

    def empty(self, batch: int, like: Tensor, grids: Grids | None = None) -> Tensor:
        """The latent (B, K, H, W) of no codes, in the dtype and on the device of `like`."""
        return like.new_zeros(batch, self.bits, *self.cell_grid((grids or self.grids)[-1]))

    def settings(self) -> dict[str, int | float]:
        """What a model of these codes has to know of it beside them."""
        return {"latent": self.bits}

    # -- codes

    def code(self, cells: Tensor) -> Tensor:
        """Bits (B, n_k, C) of a map of cells (B, K, c h_k, c w_k)."""
        return self.as_rows((cells.detach() > 0).float()).long()

    def walk(
        self, z: Tensor, grids: Grids | None = None
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Scale by scale: what is left of `z` (B, n_k, C), its codes (B, n_k, C), and the latent
        (B, K, H, W) of all codes so far."""
        grids, latent = self.fitting(z, grids), torch.zeros_like(z)
        for k in range(len(grids)):
            cells = self.remains(z - latent, k, grids)
            codes = self.code(cells)
            latent = self.add(latent, self.embed(codes), k, grids)
            yield self.as_rows(cells), codes, latent

    def fitting(self, z: Tensor, grids: Grids | None) -> Grids:
        """`grids`, or its own. Raises ValueError if a latent (B, K, H, W) is not of the last."""
        grids = grids or self.grids
        wanted = (self.bits, *self.cell_grid(grids[-1]))
        if z.shape[1:] != wanted:
            words = ", ".join(map(str, wanted))
            raise ValueError(f"latents must be (B, {words}), got {tuple(z.shape)}")
        return grids

    def encode(self, z: Tensor, grids: Grids | None = None) -> Tensor:
        """Codes (B, N, C) of latents (B, K, H, W)."""
        with torch.no_grad(), torch.autocast(z.device.type, enabled=False):
            return torch.cat([codes for _, codes, _ in self.walk(z.float(), grids)], 1)

    def decode(
        self, codes: Tensor, scales: int | None = None, grids: Grids | None = None
    ) -> Tensor:
        """Latents (B, K, H, W) of the first `scales` scales (all, if None) of codes (B, N, C), or
        of vectors (B, N, C) in their place."""
        grids = grids or self.grids
        if scales is not None and not 0 <= scales <= len(grids):
            raise ValueError(f"scales must be from 0 to {len(grids)}, got {scales}")
        parts = self.vectors(codes).split(sizes_of(grids), 1)
        latent = self.empty(len(codes), parts[0], grids)
        for k in range(len(grids) if scales is None else scales):
            latent = self.add(latent, parts[k], k, grids)
        return latent

    def vectors(self, codes: Tensor) -> Tensor:
        """What codes (B, n, C) stand for; vectors stay what they are."""
        return codes if codes.is_floating_point() else self.embed(codes)

    def inputs(self, codes: Tensor, grids: Grids | None = None) -> Tensor:
        """What predicts scales 1 ... S-1, (B, N - n_0, C): at each scale the latent of those before
        it, shrunk."""
        grids = grids or self.grids
        parts, read = self.vectors(codes).split(sizes_of(grids), 1), list[Tensor]()
        latent = self.empty(len(codes), parts[0], grids)
        for k in range(len(grids) - 1):
            latent = self.add(latent, parts[k], k, grids)
            read.append(self.shrink(latent, k + 1, grids))
        return torch.cat([parts[0][:, :0], *read], 1)

    @torch.no_grad()
    def correct(
        self, latent: Tensor, uniform: Tensor, strength: Tensor, grids: Grids | None = None
    ) -> Corrected:
        """Bitwise self-correction: what a model reads has wrong bits, and what it is to predict
        makes them good.

        Args: latents (B, K, H, W); numbers (B, N, C) in [0, 1), where those below the strength of
        their scale flip a bit; strengths (S,) or (B, S), the first scales' if there are fewer.
        """
        grids, labels, shown, read = self.fitting(latent, grids), [], [], []
        sizes = sizes_of(grids)
        rate = F.pad(strength, (0, max(0, len(grids) - strength.shape[-1])))  # (B or 1, S)
        with torch.autocast(latent.device.type, enabled=False):
            latent = latent.float()
            sofar = torch.zeros_like(latent)
            for k, numbers in enumerate(uniform.split(sizes, 1)):
                labels.append(self.code(self.remains(latent - sofar, k, grids)))
                flip = numbers < rate[..., k, None, None]
                shown.append(labels[-1] ^ flip)
                sofar = self.add(sofar, self.embed(shown[-1]), k, grids)
                if k + 1 < len(grids):
                    read.append(self.shrink(sofar, k + 1, grids))
        inputs = torch.cat([latent.new_zeros(len(latent), 0, labels[0].shape[2]), *read], 1)
        return Corrected(inputs, torch.cat(labels, 1), torch.cat(shown, 1))

    @torch.no_grad()
    def correct_codes(
        self, codes: Tensor, uniform: Tensor, strength: Tensor, grids: Grids | None = None
    ) -> Corrected:
        """`correct` of the latent that codes (B, N, C) were made of, of which no more is known than
        that: at each scale what it leaves is as long as what the codes from there on add up to, and
        has the sign of its code. So labels are the codes until a bit is wrong."""
        grids, labels, shown, read = grids or self.grids, [], [], []
        sizes = sizes_of(grids)
        rate = F.pad(strength, (0, max(0, len(grids) - strength.shape[-1])))  # (B or 1, S)
        with torch.autocast(codes.device.type, enabled=False):
            parts = self.embed(codes).split(sizes, 1)
            added = [
                self.spread(self.as_map(part, grid), grids)
                for part, grid in zip(parts, grids, strict=True)
            ]
            left = torch.stack(added).sum(0)  # (B, K, H, W)
            error = sofar = torch.zeros_like(left)
            for k, numbers in enumerate(uniform.split(sizes, 1)):
                signs = self.as_map(parts[k], grids[k])
                true = (self.remains(left, k, grids).abs() + 1e-6) * signs.sign()
                labels.append(self.code(true - self.remains(error, k, grids)))
                shown.append(labels[-1] ^ (numbers < rate[..., k, None, None]))
                wrong = self.embed(shown[-1]) - parts[k]
                error = error + self.spread(self.as_map(wrong, grids[k]), grids)
                sofar, left = sofar + added[k], left - added[k]
                if k + 1 < len(grids):
                    read.append(self.shrink(sofar + error, k + 1, grids))
        inputs = torch.cat([left.new_zeros(len(left), 0, codes.shape[2]), *read], 1)
        return Corrected(inputs, torch.cat(labels, 1), torch.cat(shown, 1))

    def forward(self, z: Tensor, entropy: bool = False) -> Quantized:
        """Quantize for training. Gradients of the latent pass through the directions of what each
        scale codes. Losses are means over scales, of directions: their distance from their codes,
        and, with `entropy`, how sure bits are and how evenly they are used."""
        with torch.autocast(z.device.type, enabled=False):
            z = z.float()
            grids, latent = self.fitting(z, None), torch.zeros_like(z)
            codes, losses = list[Tensor](), list[dict[str, Tensor]]()
            for k in range(len(grids)):
                unit = F.normalize(self.remains(z - latent.detach(), k), dim=1)
                codes.append(self.code(unit))
                signs = self.as_map(self.embed(codes[-1]), grids[k])
                latent = latent + self.spread(unit + (signs - unit).detach(), grids)
                losses.append({"commitment": F.mse_loss(unit, signs)})
                if entropy:
                    losses[-1]["entropy"] = entropy_loss(unit)
        means = {name: mean([one[name] for one in losses]) for name in losses[0]}
        return Quantized(latent, torch.cat(codes, 1), means)


def entropy_loss(unit: Tensor) -> Tensor:
    """How unsure each bit of directions (B, K, h, w) is, less how evenly it is used, summed over
    the bits, in nats. Bits are drawn by a softmax of 2 z.c / 0.01 over their two vectors c; the
    small constant is upstream's."""
    logits = (4 / 0.01 / math.sqrt(unit.shape[1])) * unit.movedim(1, -1).flatten(0, -2)  # (P, K)
    ones = logits.sigmoid().mean(0)  # (K,)
    shares = torch.stack((ones, 1 - ones))
    even = -(shares * (shares + 1e-8).log()).sum()
    return bit_entropy(logits).sum(1).mean() - even


def sizes_of(grids: Grids) -> list[int]:
    """Positions of each scale."""
    return [h * w for h, w in grids]


def resized(x: Tensor, size: Grid) -> Tensor:
    """A map (B, K, h, w) of this size, bilinearly: when it shrinks, most of it is not looked at."""
    return x if x.shape[2:] == size else F.interpolate(x, size, mode="bilinear")
