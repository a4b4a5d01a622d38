"""Hybrid head: a softmax over a codebook, and at the last scale a diffusion of what is left.

HART (Tang et al. 2024, arXiv:2410.10812). Unusual: the rest is learned against codes that are drawn
anew from the prediction, not against those of the picture, so that it also mends codes. A code and
its rest together are one vector.

Letters: B images, n positions, D width, V codebook entries, C dimensions of vectors.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.codes import Draw
from smalti.heads.categorical import Softmax
from smalti.heads.diffusion import DiffusionConfig, DiffusionHead
from smalti.nn.cross_entropy import cross_entropy
from smalti.nn.linear import Linear
from smalti.nn.norms import RMSNorm
from smalti.sampling.chance import Chance
from smalti.sampling.filters import Filters, draw, mixture
from smalti.sampling.noise import SlotNoise
from smalti.sampling.solvers import Path, Solver

SAMPLED = Filters(top_k=600, top_p=0.96)
"""How codes are drawn in training, beside which the rest is learned."""


class Codebook(Protocol):
    """What the head asks of the quantizer."""

    @property
    def vocab(self) -> int: ...
    @property
    def rest_std(self) -> Tensor:
        """The standard deviation of the rest."""
        ...

    def embed(self, codes: Tensor) -> Tensor:
        """The vectors (B, n, C) of codes (B, n)."""
        ...

    def codes(self, vectors: Tensor) -> Tensor:
        """The nearest codes (B, n) of vectors (B, n, C)."""
        ...


class HybridHead(Softmax):
    """Hidden states (B, n, 2 D) to vectors (B, n, C): of each the first D, modulated, are for the
    softmax, the others, as they are, for the diffusion.

    `sizes` are the positions of each scale, by which slots are told apart. `word_embed` reads
    vectors, as the model does; it and the codebook are the model's, and no weights of the head. A
    rest is learned divided by `scale`, or if that is 0 by what the codebook says.
    """

    kind = "cross-entropy and diffusion"

    def __init__(
        self,
        dim: int,
        channels: int,
        sizes: list[int],
        shared: tuple[Codebook, nn.Module],
        diffusion: DiffusionConfig,
        scale: float,
        eps: float,
    ) -> None:
        super().__init__()
        self.proj = Linear(dim, shared[0].vocab)
        self.norm = RMSNorm(dim, eps)
        self.diffusion = DiffusionHead(dim, channels, diffusion)
        self.dim, self.sizes, self.fixed = dim, sizes, scale
        self._shared = shared  # a tuple registers nothing twice
        self.begin = sum(sizes[:-1])

    def logits(self, h: Tensor) -> Tensor:
        """(B, n, V) in float32."""
        return self.proj(h[..., : self.dim]).float()

    @property
    def scale(self) -> float | Tensor:
        """By which a rest is divided."""
        return self.fixed or self._shared[0].rest_std.clamp(min=1e-6)

    def condition(self, h: Tensor, vectors: Tensor) -> Tensor:
        """What the rest depends on, (B, n, D): hidden states and the vectors of drawn codes."""
        _, word_embed = self._shared
        x = h[..., self.dim :]
        return self.norm(x + word_embed(vectors.to(x.dtype)))

    def last(self, slots: Tensor, end: int | None = None) -> int:
        """How many of ascending slots (n,) or (B, n) are of the last scale. Where the `end` of
        slots that follow each other is not told, they are read, which waits for their device."""
        if end is not None:
            return max(0, min(end - self.begin, slots.shape[-1]))
        row = slots if slots.dim() == 1 else slots[0]
        return int((row >= self.begin).sum())

    def way(self, solver: Solver) -> Path:
        """How a solver gets from noise to the rest. Raises ValueError if it cannot."""
        return self.diffusion.way(solver)

    # -- training

    def losses(self, h: Tensor, vectors: Tensor, noise: SlotNoise) -> tuple[Tensor, Tensor]:
        """Nats of the code of each position, (B, n), and the loss of the rest of those of the last
        scale, (B, m), which are the last ones."""
        book, _ = self._shared
        logits, codes = self.logits(h), book.codes(vectors)
        nats = cross_entropy(logits.flatten(0, 1), codes.flatten()).view_as(codes)
        count = self.last(noise.slots)
        if not count:
            return nats, nats[:, :0]
        h, vectors = h[:, -count:], vectors[:, -count:].float()
        there = SlotNoise(noise.source, noise.slots[..., -count:])
        sampled, _ = draw(SAMPLED(logits[:, -count:].detach()), there.uniform())
        rows = book.embed(sampled).float()
        rest = (vectors - rows) / self.scale
        return nats, self.diffusion.loss(self.condition(h, rows), rest, there)

    def loss(self, h: Tensor, codes: Tensor, noise: SlotNoise | None = None) -> Tensor:
        """The loss of vectors `codes` (B, n, C) at each position, (B, n). Over all positions its
        mean is that of the nats and, added, that of the rest over the last scale."""
        if noise is None:
            noise = SlotNoise.of(None, codes, torch.arange(codes.shape[1], device=codes.device))
        nats, rest = self.losses(h, codes, noise)
        weight = sum(self.sizes) / self.sizes[-1]
        return nats + weight * F.pad(rest, (nats.shape[1] - rest.shape[1], 0))

    # -- drawing

    def ramp(self, first: int) -> float:
        """How fine the scale of the slots from `first` on is, 0 to 1; the last is drawn as the one
        before."""
        finest = max(len(self.sizes) - 1, 1)
        scale = sum(sum(self.sizes[: k + 1]) <= first for k in range(len(self.sizes)))
        return min(scale, max(finest - 1, 0)) / finest

    def sample(self, h: Tensor, chance: Chance, end: int | None = None) -> Draw:
        """Draw vectors (B, n, C) of one scale from hidden states of all branches. With
        `filters.smooth` a code's row is a mixture of rows. They have no log-probability. `end` is
        the slot behind the scale, which is read where it is not told."""
        guide, noise, filters = chance.guide, chance.noise, chance.filters
        book, _ = self._shared
        logits = filters(self.merged(h, guide))  # (B, n, V)
        codes, logp = draw(logits, noise.uniform())
        # a vector is no number where the logits are none
        rows = vectors = book.embed(codes).float() + 0 * logp.unsqueeze(-1)  # (B, n, C)
        if filters.smooth:
            every = torch.arange(book.vocab, device=h.device)
            first = int(noise.slots.flatten()[0]) if end is None else end - noise.slots.shape[-1]
            weights = mixture(logits, noise.gumbel(logits.shape[-1]), self.ramp(first))
            vectors = weights @ book.embed(every).float()
        if self.last(noise.slots, end):
            seen = self.condition(h, guide.tile(rows))
            drawn = self.diffusion.sample(seen, chance._replace(filters=Filters()))
            vectors = vectors + self.scale * drawn.codes
        return Draw(vectors, torch.full_like(vectors[..., 0], math.nan), h)
