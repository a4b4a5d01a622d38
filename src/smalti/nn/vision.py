"""The tower that sees, of CLIP and of SigLIP: a ViT (Dosovitskiy et al. 2020, arXiv:2010.11929).

`models/towers.py` has it beside a tower that reads; a tokenizer may have it alone, to code what it
sees.

B pictures, N patches (and CLIP's token before them), D width, H heads, E features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.config import check
from smalti.nn.attention import attend
from smalti.nn.linear import Linear
from smalti.nn.mlp import MLP, Gelu
from smalti.nn.rope import rotate_halves


@dataclass(frozen=True)
class TowerConfig:
    layers: int = 4
    """Transformer blocks."""
    heads: int = 4
    """Attention heads."""
    dim: int = 128
    """D, a multiple of `heads`."""
    ffn_dim: int = 512
    """Width inside the feed-forward layers."""
    gelu: Gelu = "tanh"
    """Which GELU: exact (none), or approximated by a tanh (SigLIP) or a sigmoid (OpenAI's CLIP)."""
    norm_eps: float = 1e-6
    """Added to the variance in a norm; CLIP: 1e-5."""

    def __post_init__(self) -> None:
        check(self, positive=("layers", "heads", "dim", "ffn_dim"), above_zero=("norm_eps",))
        check(self, multiple=("dim", "heads"))


class Seeing(Protocol):
    """What `VisionTower` reads of a configuration."""

    @property
    def kind(self) -> str: ...
    @property
    def patch(self) -> int: ...
    @property
    def patches(self) -> int: ...
    @property
    def features(self) -> int: ...
    @property
    def vision(self) -> TowerConfig: ...


class Block(nn.Module):
    """x + attention(norm(x)), then x + feed_forward(norm(x))."""

    def __init__(self, config: TowerConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.norm1 = nn.LayerNorm(config.dim, config.norm_eps)
        self.wqkv = Linear(config.dim, 3 * config.dim)
        self.wo = Linear(config.dim, config.dim)
        self.norm2 = nn.LayerNorm(config.dim, config.norm_eps)
        self.feed_forward = MLP(config.dim, config.ffn_dim, config.gelu)

    def forward(self, x: Tensor, causal: bool = False, turn: Tensor | None = None) -> Tensor:
        """Hidden states (B, N, D) to the same shape; `causal`: each sees those before it; `turn` is
        a table of `rope.rope_halves`, (1, N, 2, D / H), by which queries and keys are turned."""
        qkv = self.wqkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1))  # (B, N, 3, H, D / H)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, H, N, D / H)
        if turn is not None:
            q, k = rotate_halves(q, turn), rotate_halves(k, turn)
        y = attend(q, k, v, causal=causal)
        x = x + self.wo(y.transpose(1, 2).flatten(2))  # (B, N, D)
        return x + self.feed_forward(self.norm2(x))


class Probe(nn.Module):
    """A learned query that looks at all patches: (B, N, D) to (B, D)."""

    def __init__(self, config: TowerConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.query = nn.Parameter(torch.zeros(1, 1, config.dim))
        self.wqkv = Linear(config.dim, 3 * config.dim)
        self.wo = Linear(config.dim, config.dim)
        self.norm = nn.LayerNorm(config.dim, config.norm_eps)
        self.feed_forward = MLP(config.dim, config.ffn_dim, config.gelu)

    def forward(self, x: Tensor) -> Tensor:
        dim = x.shape[-1]
        weight, bias = self.wqkv.weight, self.wqkv.bias
        query = F.linear(self.query.expand(len(x), -1, -1), weight[:dim], bias[:dim])
        keys = F.linear(x, weight[dim:], bias[dim:])  # (B, N, 2 D)
        q = query.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, H, 1, D / H)
        k, v = keys.unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        y = self.wo(attend(q, k, v).transpose(1, 2).flatten(2))[:, 0]  # (B, D)
        return y + self.feed_forward(self.norm(y))


class VisionTower(nn.Module):
    """Pictures to hidden states of patches, and those to features of whole pictures."""

    def __init__(self, config: Seeing) -> None:
        super().__init__()
        mine, clip = config.vision, config.kind == "clip"
        self.clip = clip
        self.patches = nn.Conv2d(3, mine.dim, config.patch, config.patch, bias=not clip)
        self.token = nn.Parameter(torch.zeros(mine.dim)) if clip else None
        self.positions = nn.Parameter(torch.zeros(config.patches + clip, mine.dim))
        self.pre_norm = nn.LayerNorm(mine.dim, mine.norm_eps) if clip else nn.Identity()
        self.layers = nn.ModuleList([Block(mine) for _ in range(mine.layers)])
        self.norm: nn.Module = nn.LayerNorm(mine.dim, mine.norm_eps)
        self.head: nn.Module = Probe(mine)
        if clip:
            self.head = Linear(mine.dim, config.features, bias=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels (B, 3, H, W), normalised, to hidden states (B, N, D): of a CLIP those behind its
        last block, its token first; of a SigLIP the norm of those."""
        x = self.patches(pixels).flatten(2).transpose(1, 2)  # (B, N, D)
        if self.token is not None:
            x = torch.cat((self.token.expand(len(x), 1, -1), x), 1)  # (B, N, D) with the token
        x = self.pre_norm(x + self.positions)
        for layer in self.layers:
            x = layer(x)
        return x if self.clip else self.norm(x)

    def whole(self, hidden: Tensor) -> Tensor:
        """Hidden states (B, N, D) to features (B, E), of any length."""
        return self.head(self.norm(hidden[:, 0]) if self.clip else hidden)
