"""What stands between features and a renderer: layers that bring features to what it reads.

MetaMorph (Tong et al. 2024, arXiv:2412.14164) has three, as facebookresearch/metamorph has them
(inference/adapter.py of commit 0b13deb): a plain stack of each feature alone, or learned tokens
that look at all features, with feed-forward layers between or without.

Unusual: norms stand behind layers, functions are ReLU, and the last layer of the plain stack has a
norm and no function.

B pictures, N features, C numbers of a feature, T tokens, W width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.config import check
from smalti.nn.cross import Context, CrossAttention
from smalti.nn.linear import Linear


@dataclass(frozen=True)
class AdapterConfig:
    kind: Literal["mlp", "xattn", "xattnffn"] = "mlp"
    """A stack of each feature alone, or learned tokens that look at all features, in layers without
    and with a feed-forward."""
    layers: int = 3
    """Layers; of the stack at least 2."""
    width: int = 768
    """W, of what the renderer reads."""
    hidden: int = 4096
    """Width inside the stack."""
    tokens: int = 77
    """T, how many learned tokens look; the stack has one for each feature."""
    heads: int = 8
    """Of the attention, by which W can be divided."""

    def __post_init__(self) -> None:
        check(self, positive=("layers", "width", "hidden", "tokens", "heads"))
        if self.kind == "mlp" and self.layers < 2:
            raise ValueError(f"layers of an mlp must be at least 2, got {self.layers}")
        if self.kind != "mlp":
            check(self, multiple=("width", "heads"))


class Stack(nn.Module):
    """Features (B, N, C) to tokens (B, N, W), each alone."""

    def __init__(self, channels: int, config: AdapterConfig) -> None:
        super().__init__()
        sizes = [channels, *[config.hidden] * (config.layers - 1), config.width]
        pairs = zip(sizes, sizes[1:], strict=False)
        self.layers = nn.ModuleList([Linear(a, b) for a, b in pairs])
        self.norms = nn.ModuleList([nn.LayerNorm(size) for size in sizes[1:]])

    def forward(self, x: Tensor) -> Tensor:
        for i, (layer, norm) in enumerate(zip(self.layers, self.norms, strict=True)):
            x = norm(layer(F.relu(x) if i else x))
        return x


class Look(nn.Module):
    """Tokens (B, T, W) look at features (B, N, W): norm(x + attention(x)), and where there is a
    feed-forward the same of that."""

    def __init__(self, config: AdapterConfig) -> None:
        super().__init__()
        width = config.width
        self.attention, self.norm1 = CrossAttention(width, config.heads), nn.LayerNorm(width)
        self.feed_forward = config.kind == "xattnffn"
        if self.feed_forward:
            self.w1, self.w2 = Linear(width, 4 * width), Linear(4 * width, width)
            self.norm2 = nn.LayerNorm(width)

    def forward(self, x: Tensor, features: Tensor) -> Tensor:
        x = self.norm1(x + self.attention(x, Context(features, None, keep=False)))
        return self.norm2(x + self.w2(F.relu(self.w1(x)))) if self.feed_forward else x


class Tokens(nn.Module):
    """Features (B, N, C) to learned tokens (B, T, W) that have looked at them."""

    def __init__(self, channels: int, config: AdapterConfig) -> None:
        super().__init__()
        self.tokens = nn.Parameter(torch.randn(config.tokens, config.width))
        self.proj, self.norm = Linear(channels, config.width), nn.LayerNorm(config.width)
        self.layers = nn.ModuleList([Look(config) for _ in range(config.layers)])

    def forward(self, x: Tensor) -> Tensor:
        features = self.norm(self.proj(x))
        tokens = self.tokens.expand(len(x), -1, -1)
        for layer in self.layers:
            tokens = layer(tokens, features)
        return tokens


def adapter(channels: int, config: AdapterConfig) -> Stack | Tokens:
    """A new adapter of features of so many numbers."""
    return (Stack if config.kind == "mlp" else Tokens)(channels, config)
