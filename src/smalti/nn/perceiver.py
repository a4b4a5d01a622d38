"""How text looks at pictures in Flamingo: a resampler, and cross-attention behind gates.

Alayrac et al. 2022, "Flamingo: a Visual Language Model for Few-Shot Learning" (arXiv:2204.14198);
the resampler is the Perceiver of Jaegle et al. 2021 (arXiv:2103.03206). Here as open_flamingo has
both, after lucidrains' flamingo-pytorch.

Unusual: nothing has a bias but the norms, and the width of all heads is not that of the rows. A
layer of text is multiplied by the tanh of a gate that is 0 at first, so a language model between
whose layers such ones are put writes at first what it wrote before.

B rows, n positions of one call, D width, P pictures of a row, F frames of a picture, N features of
a frame, C width of a feature, m latents of a picture, M = P m.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.config import check
from smalti.nn.attention import attend
from smalti.nn.cross import Context, split
from smalti.nn.linear import Linear

Sees = Literal["last", "all"]
"""Which pictures before it a position looks at."""


@dataclass(frozen=True)
class ResamplerConfig:
    """Sizes of a resampler; the defaults are those of OpenFlamingo with CLIP ViT-L/14."""

    dim: int = 1024
    """C, width of the features and of the latents."""
    layers: int = 6
    """Blocks of attention and feed-forward."""
    heads: int = 8
    """Attention heads."""
    head_dim: int = 64
    """Width of a head."""
    latents: int = 64
    """m, what becomes of a picture."""
    multiplier: int = 4
    """The feed-forward is so many times as wide as the latents."""
    pictures: int = 0
    """Pictures of a row that are told apart by a learned vector each; 0: they are not."""
    frames: int = 0
    """Frames of a picture that are told apart by a learned vector each; 0: they are not."""

    def __post_init__(self) -> None:
        sizes = ("dim", "layers", "heads", "head_dim", "latents", "multiplier")
        check(self, "resampler.", positive=sizes, counts=("pictures", "frames"))


class Gaze(NamedTuple):
    """What positions look at, of all latents of the pictures of their rows."""

    seen: Tensor
    """(B, n, M) bool. A position that sees none finds 0."""
    level: Tensor
    """(B, n) bool: positions that look at all which they see alike."""


def gaze(last: Tensor, own: Tensor, latents: int, sees: Sees) -> Gaze:
    """The last picture before each position, or all before it. Where all are seen, a position with
    none before it looks at all of its document alike, as upstream has it; else it sees none.

    Args: `last`, how many pictures begin in its row up to a position, (B, n) int64; `own`, which of
    its row's pictures are of its document, (B, n, P) bool; m.
    """
    numbers = torch.arange(1, own.shape[-1] + 1, device=own.device)
    before = last[..., None]
    seen = own & (before == numbers if sees == "last" else before >= numbers)
    level = torch.zeros_like(last, dtype=torch.bool) if sees == "last" else ~seen.any(-1)
    seen = torch.where(level[..., None], own, seen)
    return Gaze(seen.repeat_interleave(latents, -1), level)


class LookAttention(nn.Module):
    """Queries of rows D wide, keys and values of what is C wide, without biases."""

    def __init__(self, dim: int, seen: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.heads = heads
        self.wq = Linear(dim, heads * head_dim, bias=False)
        self.wkv = Linear(seen, 2 * heads * head_dim, bias=False)
        self.wo = Linear(heads * head_dim, dim, bias=False)

    def keys(self, words: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of (B, M, C), each (B, H, M, head_dim)."""
        k, v = self.wkv(words).chunk(2, -1)
        return split(k, self.heads), split(v, self.heads)

    def forward(self, x: Tensor, keys: tuple[Tensor, Tensor], gaze: Gaze | None = None) -> Tensor:
        """What rows (B, n, D) find in keys and values; without a `gaze` each sees all of them."""
        q, (k, v) = split(self.wq(x), self.heads), keys
        if gaze is None:
            y = attend(q, k, v)
        else:
            blind = ~gaze.seen.any(-1, keepdim=True).unsqueeze(1)  # (B, 1, n, 1)
            q = q.masked_fill(gaze.level[:, None, :, None], 0.0)
            y = attend(q, k, v, gaze.seen.unsqueeze(1) | blind).masked_fill(blind, 0.0)
        return self.wo(y.transpose(1, 2).flatten(2))  # (B, n, D)


class FeedForward(nn.Module):
    """w2(gelu(w1 norm(x))) of (..., D), without biases."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.w1 = Linear(dim, hidden, bias=False)
        self.w2 = Linear(hidden, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(F.gelu(self.w1(self.norm(x))))


class ResamplerLayer(nn.Module):
    """Latents look at features and at themselves, then a feed-forward."""

    def __init__(self, config: ResamplerConfig) -> None:
        super().__init__()
        dim = config.dim
        self.features_norm, self.norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = LookAttention(dim, dim, config.heads, config.head_dim)
        self.feed_forward = FeedForward(dim, config.multiplier * dim)

    def forward(self, latents: Tensor, features: Tensor) -> Tensor:
        """Latents (B, m, C) that look at features (B, N, C), to the same shape."""
        mine = self.norm(latents)
        keys = self.attention.keys(torch.cat((self.features_norm(features), mine), 1))
        latents = latents + self.attention(mine, keys)
        return latents + self.feed_forward(latents)


class Resampler(nn.Module):
    """Features of pictures, however many, to a fixed number of latents each."""

    def __init__(self, config: ResamplerConfig) -> None:
        super().__init__()
        dim = config.dim
        self.latents = nn.Parameter(torch.randn(config.latents, dim))
        self.frames = nn.Parameter(torch.randn(config.frames, dim)) if config.frames else None
        pictures = torch.randn(config.pictures, 1, dim) if config.pictures else None
        self.pictures = None if pictures is None else nn.Parameter(pictures)
        self.layers = nn.ModuleList([ResamplerLayer(config) for _ in range(config.layers)])
        self.norm = nn.LayerNorm(dim)

    def forward(self, features: Tensor) -> Tensor:
        """Features (B, P, F, N, C) to latents (B, P, m, C).

        Raises ValueError for more pictures or frames than have a vector.
        """
        batch, count, frames = features.shape[:3]
        tables = {"pictures": (self.pictures, count), "frames": (self.frames, frames)}
        for name, (table, given) in tables.items():
            if table is not None and given > len(table):
                raise ValueError(f"the resampler tells {len(table)} {name} apart, got {given}")
        if self.frames is not None:
            features = features + self.frames[:frames, None]
        x = features.flatten(2, 3)  # (B, P, F N, C)
        if self.pictures is not None:
            x = x + self.pictures[:count]
        x = x.flatten(0, 1)  # (B P, F N, C)
        latents = self.latents.expand(len(x), -1, -1)
        for layer in self.layers:
            latents = layer(latents, x)
        return self.norm(latents).unflatten(0, (batch, count))


class GatedLayer(nn.Module):
    """x + tanh(gate) attention(norm(x)), then x + tanh(gate) feed_forward(x)."""

    def __init__(
        self, dim: int, seen: int, heads: int = 8, head_dim: int = 64, multiplier: int = 4
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.attention = LookAttention(dim, seen, heads, head_dim)
        self.feed_forward = FeedForward(dim, multiplier * dim)
        self.attention_gate = nn.Parameter(torch.zeros(1))
        self.ffn_gate = nn.Parameter(torch.zeros(1))

    def look(self, x: Tensor, context: Context, gaze: Gaze) -> Tensor:
        """What positions (B, n, D) find in the latents (B, M, C) of a context."""
        return self.attention(self.norm(x), context.read(self.attention), gaze)

    def forward(self, x: Tensor, context: Context, gaze: Gaze) -> Tensor:
        """Hidden states (B, n, D) to the same shape."""
        x = x + self.attention_gate.tanh() * self.look(x, context, gaze)
        return x + self.ffn_gate.tanh() * self.feed_forward(x)
