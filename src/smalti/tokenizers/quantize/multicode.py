"""Several small codebooks, each for some of a latent's channels.

UniTok (Ma et al. 2025, arXiv:2502.20321).

Unusual: a latent is cut into K parts, and each has a code of its own, found in its own table by the
angle alone. So K tables of V rows tell V^K latents apart, none is a refinement of another, and
all parts can be looked up at once.

Letters: B images, K parts and tables, c channels of a part and of a table, h, w code grid, P = B *
h * w positions, V codes of a table.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.tokenizers.quantize.vq import Quantized, as_map, entropy_loss


class MulticodeQuantizer(nn.Module):
    """Latents (B, K * c, h, w) to codes (B, h, w, K): of each part the row of its table with the
    largest cosine, the first one on ties.

    Raises ValueError for numbers that make no such quantizer.
    The tables are one behind the other in `embedding`, (K * V, c); rows are normalised when used.
    """

    l2_norm = True

    def __init__(self, vocab: int, dim: int, depth: int) -> None:
        super().__init__()
        if vocab < 2 or depth < 1 or dim < depth or dim % depth:
            raise ValueError(
                "vocab must be at least 2 and depth at least 1, a divisor of dim, "
                f"got {vocab}, {depth}, {dim}"
            )
        self.vocab, self.depth, self.tables, self.parts = vocab, depth, depth, depth
        self.embedding = nn.Embedding(vocab * depth, dim // depth)
        self.init_weights()

    def init_weights(self) -> None:
        """As published: uniform, a 36th of what would give rows of about length 1."""
        bound = self.embedding.embedding_dim**-0.5 / 36
        nn.init.uniform_(self.embedding.weight, -bound, bound)

    def codebook(self) -> Tensor:
        """The vectors that codes stand for, (K, V, c)."""
        return F.normalize(self.embedding.weight, dim=-1).view(self.depth, self.vocab, -1)

    def book(self, level: int) -> Tensor:
        """Those of one table, (V, c)."""
        return self.codebook()[level]

    def rows(self, z: Tensor) -> Tensor:
        """Latents (B, K * c, h, w) as the vectors that are compared, (K, P, c), float32."""
        parts = z.permute(0, 2, 3, 1).flatten(0, 2).float().unflatten(1, (self.depth, -1))
        return F.normalize(parts, dim=-1).transpose(0, 1)

    def compared(self, z: Tensor) -> list[Tensor]:
        """The vectors (P, c) that each table is compared with."""
        return list(self.rows(z))

    def joined(self, parts: Tensor, like: Tensor) -> Tensor:
        """Vectors (K, P, c) as a map (B, K * c, h, w) of the size of `like`."""
        return as_map(parts.transpose(0, 1).flatten(1), like)

    def unquantized(self, z: Tensor) -> Tensor:
        """What stands for `z` (B, K * c, h, w) while there are no tables."""
        return self.joined(self.rows(z), z)

    def distances(self, rows: Tensor, level: int = 0) -> Tensor:
        """Squared distances of directions (n, c) to every code of a table, (n, V), float32."""
        return 2 - 2 * rows.float() @ self.book(level).float().T

    def find(self, rows: Tensor, book: Tensor) -> Tensor:
        """Codes (K, P) of vectors (K, P, c), by tables (K, V, c)."""
        return torch.stack([(r @ b.T).argmax(1) for r, b in zip(rows, book, strict=True)])

    def encode(self, z: Tensor) -> Tensor:
        """Codes (B, h, w, K) of latents (B, K * c, h, w)."""
        with torch.no_grad(), torch.autocast(z.device.type, enabled=False):
            codes = self.find(self.rows(z), self.codebook().float())
        return codes.T.reshape(len(z), *z.shape[2:], self.depth)

    def embed(self, codes: Tensor) -> Tensor:
        """The vectors (..., K, c) that codes (..., K) stand for."""
        places = self.vocab * torch.arange(self.depth, device=codes.device)
        return F.normalize(self.embedding(codes + places), dim=-1)

    def decode(self, codes: Tensor) -> Tensor:
        """Latents (B, K * c, h, w) of codes (B, h, w, K)."""
        return self.embed(codes).flatten(3).permute(0, 3, 1, 2).contiguous()

    def forward(self, z: Tensor, entropy: bool = False) -> Quantized:
        """Quantize for training; losses are means over the tables."""
        with torch.autocast(z.device.type, enabled=False):
            rows, book = self.rows(z), self.codebook().float()  # (K, P, c), (K, V, c)
            codes = self.find(rows.detach(), book.detach())
            chosen = torch.stack([F.embedding(c, b) for c, b in zip(codes, book, strict=True)])
            losses = {
                "codebook": F.mse_loss(chosen, rows.detach()),
                "commitment": F.mse_loss(rows, chosen.detach()),
            }
            if entropy:
                spread = [entropy_loss(-self.distances(r, k)) for k, r in enumerate(rows)]
                losses["entropy"] = torch.stack(spread).mean()
        latent = self.joined(rows + (chosen - rows).detach(), z)
        found = codes.T.reshape(len(z), *z.shape[2:], self.depth)
        return Quantized(latent, found, losses)
