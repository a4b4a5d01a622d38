"""Index back-propagation: a table of codes of which every row learns from every latent.

Shi, Luo, Ge, Yang, Shan, Wang 2024, "Taming Scalable Visual Tokenizer for Autoregressive Image
Generation" (arXiv:2412.02692).

Unusual: a latent takes the code with the largest PRODUCT, not the nearest one. That code is
rendered, and gets the gradient of the picture; the latent gets none of it straight, but what goes
to the weights of a softmax over all codes, and so does every code. So codes do not die.

The softmax over a table of 2^18 codes is never stored: it is attention of latents to codes, of
which torch keeps one number for each latent. The largest product, and the entropy loss, are taken
of so many latents at a time that `ENTRIES` numbers are enough. The slow way is in
`tests/tokenizers/test_index_propagation.py`.

Letters: B images, C codebook dimensions, h, w code grid, P = B * h * w positions, V codes.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from smalti.tokenizers.quantize.vq import Quantized, VectorQuantizer, as_map

ENTRIES = 2**24
"""Products of latents and codes that are in memory at once, 64 MB."""
TINY = 1e-5
"""Added to the mean probability of a code before its logarithm, as upstream."""


class IndexPropagation(VectorQuantizer):
    """Latents (B, C, h, w) to the codebook rows with the largest products; the first one on ties.

    The entropy loss is the mean entropy of each position's soft code, a softmax of products by
    `temperature`, less the entropy of their mean, in nats.
    """

    def __init__(self, vocab: int, dim: int, temperature: float = 0.01) -> None:
        super().__init__(vocab, dim, l2_norm=True)  # what care makes codes of has one length
        if not 0 < temperature < float("inf"):
            raise ValueError(f"temperature must be a positive number, got {temperature}")
        self.temperature = temperature

    def init_weights(self) -> None:
        """Normal(0, 1), as upstream: the start decides how sharp the first softmax is."""
        nn.init.normal_(self.embedding.weight)

    def codebook(self) -> Tensor:
        """The vectors that codes stand for, (V, C), of any length."""
        return self.embedding.weight

    def rows(self, z: Tensor) -> Tensor:
        """Latents (B, C, h, w) as the vectors that are multiplied, (P, C), float32."""
        return z.permute(0, 2, 3, 1).flatten(0, 2).float().contiguous()

    def compared(self, z: Tensor) -> list[Tensor]:
        """What k-means and restarts make codes of: directions of latents, as long as codes are on
        average. Among codes of one length the largest product is that of the nearest direction."""
        length = self.codebook().detach().float().norm(dim=1).mean()
        return [F.normalize(self.rows(z), dim=-1) * length]

    def unquantized(self, z: Tensor) -> Tensor:
        """What stands for `z` (B, C, h, w) while there is no codebook: its direction, as long as
        the codes that k-means makes."""
        return as_map(F.normalize(self.rows(z), dim=-1), z)

    def blocks(self, rows: Tensor) -> tuple[Tensor, ...]:
        """Latents (P, C) in blocks that are compared with the table at once."""
        return rows.split(max(1, ENTRIES // self.vocab))

    def largest(self, rows: Tensor) -> Tensor:
        """The codes (P,) with the largest products with latents (P, C)."""
        book = self.codebook().detach().float()
        return torch.cat([(part @ book.T).argmax(1) for part in self.blocks(rows.detach())])

    def encode(self, z: Tensor) -> Tensor:
        """Codes (B, h, w) of latents (B, C, h, w)."""
        with torch.autocast(z.device.type, enabled=False):
            return self.largest(self.rows(z)).view(len(z), *z.shape[2:])

    def entropies(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The mean entropy of the soft codes of latents (P, C), and the entropy of their mean."""
        book, parts = self.codebook().float(), self.blocks(rows)
        run = soft_code
        if len(parts) > 1:  # the softmax of a block is computed again for its gradient
            run = partial(checkpoint, soft_code, use_reentrant=False)
        found = [run(part, book, self.temperature) for part in parts]
        each = torch.stack([entropy for entropy, _ in found]).sum() / len(rows)
        share = torch.stack([shares for _, shares in found]).sum(0) / len(rows)  # (V,)
        return each, -(share * (share + TINY).log()).sum()

    def forward(self, z: Tensor, entropy: bool = False) -> Quantized:
        """Quantize for training; `entropy` computes that loss too."""
        with torch.autocast(z.device.type, enabled=False):
            rows, book = self.rows(z), self.codebook().float()
            codes = self.largest(rows)
            hard = F.embedding(codes, book)  # (P, C)
            soft = soft_choice(rows, book)  # (P, C)
            chosen = hard + (soft - soft.detach())
            losses = {
                "joint": F.mse_loss(chosen, rows),
                "codebook": F.mse_loss(hard, rows.detach()),
                "commitment": F.mse_loss(rows, hard.detach()),
            }
            if entropy:
                each, mean = self.entropies(rows)
                losses["entropy"] = each - mean
        return Quantized(as_map(chosen, z), codes.view(len(z), *z.shape[2:]), losses)


def soft_choice(rows: Tensor, book: Tensor) -> Tensor:
    """The mean (P, C) of codes (V, C) by a softmax of their products with latents (P, C), whose
    gradient goes to latents and codes by their products alone. Rows must be contiguous: attention
    that never holds all products is for such alone."""
    latents, codes = rows[None, None], book[None, None]  # one image, one head
    found = F.scaled_dot_product_attention(latents, codes, codes.detach(), scale=1.0)
    return found[0, 0]


def soft_code(rows: Tensor, book: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """The entropies of the soft codes of latents (n, C), and these codes (V,), summed over them."""
    logs = (rows @ book.T / temperature).log_softmax(-1)  # (n, V)
    shares = logs.exp()
    return -(shares * logs).sum(), shares.sum(0)
