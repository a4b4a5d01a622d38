"""Residual quantization: a stack of codes at each position, each of what those before it left over.

Lee, Kim, Kim, Cho, Han 2022, "Autoregressive Image Generation using Residual Quantization"
(arXiv:2203.01941).

Unusual: the codes of a position are a coarse vector and its refinements, which are added up. So D
codes out of V say as much as one out of V^D, and the first few of them are a coarser picture.

Letters: B images, C codebook dimensions, h, w code grid, n codes of a batch's positions, P = B * h
* w positions, D depths, V codes of a table, T tables: 1 that all depths share, or D.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.sampling.filters import draw
from smalti.tokenizers.quantize.vq import Quantized, as_map, entropy_loss


class ResidualQuantizer(nn.Module):
    """Latents (B, C, h, w) to codes (B, h, w, D), the coarsest first: at each depth the nearest row
    of a table to what is left, the first one on ties.

    The tables of several depths are one behind the other in `embedding`, (T * V, C). With `shared`
    there is one for all depths. Raises ValueError for numbers that make no such quantizer.
    """

    l2_norm = False
    parts = 1

    def __init__(self, vocab: int, dim: int, depth: int, shared: bool = True) -> None:
        super().__init__()
        if vocab < 2 or dim < 1 or depth < 1:
            raise ValueError(
                f"vocab must be at least 2, dim and depth at least 1, got {vocab}, {dim}, {depth}"
            )
        self.vocab, self.depth, self.tables = vocab, depth, 1 if shared else depth
        self.embedding = nn.Embedding(vocab * self.tables, dim)
        self.init_weights()

    def init_weights(self) -> None:
        nn.init.uniform_(self.embedding.weight, -1 / self.vocab, 1 / self.vocab)

    # -- vectors

    def book(self, level: int) -> Tensor:
        """The vectors that codes of a depth stand for, (V, C)."""
        return self.embedding.weight.view(self.tables, self.vocab, -1)[min(level, self.tables - 1)]

    def rows(self, z: Tensor) -> Tensor:
        """Latents (B, C, h, w) as vectors (P, C), float32."""
        return z.permute(0, 2, 3, 1).flatten(0, 2).float().contiguous()

    def embed(self, codes: Tensor) -> Tensor:
        """The vectors (..., D, C) that codes (..., D) stand for, at each depth."""
        if self.tables > 1:
            codes = codes + self.vocab * torch.arange(self.depth, device=codes.device)
        return self.embedding(codes)

    def sums(self, codes: Tensor) -> Tensor:
        """What the codes (..., D) of the first 1, 2, ..., D depths stand for, (..., D, C)."""
        return self.embed(codes).cumsum(-2)

    def partial(self, codes: Tensor, depth: int) -> Tensor:
        """Latents (B, C, h, w) of the first `depth` depths of codes (B, h, w, D).

        Raises ValueError unless there are so many.
        """
        if not 1 <= depth <= self.depth:
            raise ValueError(f"depth must be from 1 to {self.depth}, got {depth}")
        vectors = self.embed(codes)[..., :depth, :].sum(-2)  # (B, h, w, C)
        return vectors.permute(0, 3, 1, 2).contiguous()

    def decode(self, codes: Tensor) -> Tensor:
        """Latents (B, C, h, w) of codes (B, h, w, D)."""
        return self.partial(codes, self.depth)

    # -- codes

    def distances(self, rows: Tensor, level: int = 0) -> Tensor:
        """Squared distances of vectors (n, C) to every code of a depth, (n, V), float32."""
        rows, book = rows.float(), self.book(level).float()
        return torch.addmm(
            rows.square().sum(1, keepdim=True) + book.square().sum(1), rows, book.T, alpha=-2
        )

    def walk(self, rows: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Depth by depth: what is left of vectors (P, C), its codes (P,) and what these stand for,
        (P, C)."""
        for level in range(self.depth):
            codes = self.distances(rows.detach(), level).argmin(1)
            chosen = F.embedding(codes, self.book(level).float())
            yield rows, codes, chosen
            rows = rows - chosen.detach()

    def compared(self, z: Tensor) -> list[Tensor]:
        """What each depth finds codes for, of latents (B, C, h, w): (P, C) float32 each."""
        with torch.autocast(z.device.type, enabled=False):
            return [rows for rows, _, _ in self.walk(self.rows(z))]

    def unquantized(self, z: Tensor) -> Tensor:
        """What stands for `z` (B, C, h, w) while there are no tables."""
        return z

    def encode(self, z: Tensor) -> Tensor:
        """Codes (B, h, w, D) of latents (B, C, h, w)."""
        with torch.no_grad(), torch.autocast(z.device.type, enabled=False):
            codes = torch.stack([codes for _, codes, _ in self.walk(self.rows(z))], 1)
        return codes.view(len(z), *z.shape[2:], self.depth)

    @torch.no_grad()
    def soft(
        self, z: Tensor, temperature: float, uniform: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Soft codes (B, h, w, D, V) of latents (B, C, h, w), and the codes (B, h, w, D) of which
        the next depth has the rest.

        A soft code is a softmax of distances by -1 / `temperature`. Codes are the nearest ones;
        with `uniform` numbers in [0, 1), (B, h, w, D), they are drawn from the soft codes. Raises
        ValueError unless the temperature is above 0.
        """
        if not 0 < temperature < float("inf"):
            raise ValueError(f"temperature must be a positive number, got {temperature}")
        rows, softs, found = self.rows(z), list[Tensor](), list[Tensor]()
        for level in range(self.depth):
            distances = self.distances(rows, level)
            codes, logits = distances.argmin(1), -distances / temperature
            if uniform is not None:
                codes, _ = draw(logits, uniform[..., level].flatten())
            rows = rows - F.embedding(codes, self.book(level).float())
            softs.append(logits.softmax(-1))
            found.append(codes)
        shape = (len(z), *z.shape[2:], self.depth)
        return torch.stack(softs, 1).view(*shape, self.vocab), torch.stack(found, 1).view(shape)

    def forward(self, z: Tensor, entropy: bool = False) -> Quantized:
        """Quantize for training. Losses are means over the depths: of the latent so far against
        `z`, which moves a depth's own codes alone, and, with `entropy`, of how its codes are
        spread over the table."""
        with torch.autocast(z.device.type, enabled=False):
            rows = self.rows(z)  # (P, C)
            left, codes, chosen = (list(part) for part in zip(*self.walk(rows), strict=True))
            pairs = list(zip(left, chosen, strict=True))
            losses = {
                "codebook": mean([F.mse_loss(vector, rest.detach()) for rest, vector in pairs]),
                "commitment": mean([F.mse_loss(rest, vector.detach()) for rest, vector in pairs]),
            }
            if entropy:
                spread = [entropy_loss(-self.distances(rest, i)) for i, rest in enumerate(left)]
                losses["entropy"] = mean(spread)
            total = torch.stack([vector.detach() for vector in chosen]).sum(0)
        latent = as_map(rows + (total - rows).detach(), z)
        found = torch.stack(codes, 1).view(len(z), *z.shape[2:], self.depth)
        return Quantized(latent, found, losses)


def mean(losses: list[Tensor]) -> Tensor:
    return torch.stack(losses).mean()
