"""ImageGPT: a GPT-2 that writes a picture pixel by pixel.

Chen, Radford, Child, Wu, Jun, Luan, Sutskever 2020, "Generative Pretraining from Pixels" (ICML
2020).

Unusual: a code is a pixel's colour, out of a palette. Norms do not take the mean away and have no
bias. GELU is approximated by x * sigmoid(1.702 x). Positions are learned, and the position of a
slot is that of the code predicted there. A picture begins with a learned vector; that of published
models is always the same one, here each class has its own.

Letters: B images, N positions, D width, H heads, V colours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.codes import Cond, Rowwise, Span, TokenSpec
from smalti.config import check
from smalti.heads.of_codes import head_of
from smalti.models.generator import GeneratorConfig
from smalti.models.raster_stack import Raster, causal, visible
from smalti.nn.attention import KVCache, attend
from smalti.nn.code_embedding import code_embedding
from smalti.nn.linear import Linear
from smalti.nn.mlp import MLP, Gelu
from smalti.nn.norms import RMSNorm
from smalti.sampling.orders import arrange


@dataclass(frozen=True)
class ImageGPTConfig(GeneratorConfig):
    grid: tuple[int, int] = (32, 32)
    """Height and width in pixels."""
    vocab: int = 512
    """Colours V; 2 with `channels`."""
    channels: int = 0
    """Bits of a code; 0: a code is a number, as published."""
    depth: int = 0
    """Codes at each position, drawn one after another; 0: one."""
    classes: int = 1
    """Class labels; the null class is one more row. 1: pictures of one kind, as published."""
    layers: int = 24
    """Transformer blocks."""
    heads: int = 8
    """Attention heads."""
    dim: int = 512
    """Width D, a multiple of `heads`."""
    ffn_dim: int = 0
    """Width of the feed-forward layers; 0: 4 D, as published."""
    gelu: Gelu = "sigmoid"
    """The nonlinearity, GELU or one of its approximations; as published by a sigmoid."""
    norm_eps: float = 1e-5
    """Added to the mean square in normalisation layers."""
    dropout: float = 0.1
    """On embeddings and on the outputs of attention and feed-forward."""

    def __post_init__(self) -> None:
        check(
            self,
            pairs=("grid",),
            several=("vocab",),
            counts=("channels", "depth", "ffn_dim"),
            positive=("classes", "layers", "heads", "dim"),
            above_zero=("norm_eps",),
            rates=("dropout",),
            multiple=("dim", "heads"),
        )

    @property
    def spec(self) -> TokenSpec:
        return TokenSpec((self.grid,), self.vocab, self.depth, self.channels)

    @property
    def head_dim(self) -> int:
        return self.dim // self.heads


@dataclass
class Prepared(Rowwise):
    """All that no drawn code changes."""

    start: Tensor
    """(B, 1, D), what slot 0 holds."""
    positions: Tensor
    """(1, N, D) embedding of the position that each slot predicts; (B, N, D) with orders."""


class Attention(nn.Module):
    def __init__(self, config: ImageGPTConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.wqkv = Linear(config.dim, 3 * config.dim)
        self.wo = Linear(config.dim, config.dim)

    def forward(self, x: Tensor, span: Span, layer: int, cache: KVCache | None) -> Tensor:
        qkv = self.wqkv(x).unflatten(-1, (3, self.heads, -1)).transpose(1, 3)  # (B, H, 3, n, hd)
        q, k, v = qkv.unbind(2)  # (B, H, n, hd)
        if cache is not None:
            k, v = cache.update(layer, span.slots, span.reach, k, v, span.keep)
        mask = None if causal(span) else visible(span)
        y = attend(q, k, v, mask, span.first)
        return self.wo(y.transpose(1, 2).flatten(2))  # (B, n, D)


class Block(nn.Module):
    """x + attention(norm(x)), then x + feed_forward(norm(x))."""

    def __init__(self, config: ImageGPTConfig) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.dim, config.norm_eps)
        self.attention = Attention(config)
        self.ffn_norm = RMSNorm(config.dim, config.norm_eps)
        self.feed_forward = MLP(config.dim, config.ffn_dim or 4 * config.dim, config.gelu)
        self.dropout = config.dropout

    def forward(self, x: Tensor, span: Span, layer: int, cache: KVCache | None) -> Tensor:
        y = self.attention(self.attention_norm(x), span, layer, cache)
        x = x + F.dropout(y, self.dropout, self.training)
        y = self.feed_forward(self.ffn_norm(x))
        return x + F.dropout(y, self.dropout, self.training)


class ImageGPT(Raster):
    """Codes (B, N) given a class. A `CausalModel`; one code per step."""

    NO_DECAY = ("positions",)
    config: ImageGPTConfig

    def __init__(self, config: ImageGPTConfig) -> None:
        super().__init__()
        self.config, self.spec = config, config.spec
        self.tok_embeddings = code_embedding(self.spec, config.dim)
        self.cls_embedding = nn.Embedding(config.classes + 1, config.dim)
        self.positions = nn.Parameter(torch.empty(config.spec.positions, config.dim))
        self.layers = nn.ModuleList([Block(config) for _ in range(config.layers)])
        self.norm = RMSNorm(config.dim, config.norm_eps)
        self.head = head_of(self.spec, config.dim)
        self.init_weights()

    def init_weights(self) -> None:
        """Normal(0, 0.02), less by the root of their number in the last layers of the branches, as
        in GPT-2; a zero head, so that the first loss is ln V."""
        nn.init.normal_(self.positions, std=0.02)
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                last = name.endswith((".wo", ".w2"))
                nn.init.normal_(module.weight, std=0.02 / math.sqrt(2 * len(self.layers)) ** last)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        self.head.init_weights()

    def prepare(
        self, cond: Cond, orders: Tensor | None = None, spec: TokenSpec | None = None
    ) -> Prepared:
        """Starts and positions of a batch of conditions, drawn in `orders`, (N,) or (B, N)."""
        self.draws(spec)
        ids = cond.class_ids(null=self.config.classes)
        start = self.cls_embedding(ids).unsqueeze(1)  # (B, 1, D)
        table = self.positions if orders is None else self.positions[orders]
        return Prepared(start, table if table.dim() == 3 else table.unsqueeze(0))

    def cache(self, batch: int, spec: TokenSpec | None = None) -> KVCache:
        """An empty cache for `batch` rows (all branches), in the dtype of the weights."""
        c, weight = self.config, self.tok_embeddings.weight
        length = self.draws(spec).positions
        return KVCache(c.layers, batch, c.heads, length, c.head_dim, weight.dtype, weight.device)

    def hidden(
        self, codes: Tensor, cond: Prepared, span: Span, cache: KVCache | None = None
    ) -> Tensor:
        """Hidden states (B, n, D) of a span; reads codes (B, N), in the order in which they are
        drawn, of earlier slots only. Without a cache the span must be all slots."""
        x = self.rows(codes, cond.start, span)  # (B, n, D)
        x = x + arrange(cond.positions, span.slots)
        x = F.dropout(x, self.config.dropout, self.training)
        for i, layer in enumerate(self.layers):
            x = layer(x, span, i, cache)
        return self.norm(x)  # (B, n, D)


def tiny() -> ImageGPTConfig:
    """A model of a few thousand parameters, for tests."""
    return ImageGPTConfig(grid=(4, 4), vocab=32, classes=5, layers=2, heads=2, dim=32, dropout=0.0)


SIZES: dict[str, dict[str, Any]] = {
    "S": {"layers": 24, "heads": 8, "dim": 512},
    "M": {"layers": 36, "heads": 8, "dim": 1024},
    "L": {"layers": 48, "heads": 16, "dim": 1536},
}
"""Layers, heads and width of the published sizes, as they are remembered."""
