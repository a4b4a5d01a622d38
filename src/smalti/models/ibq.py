"""IBQ's generator: a Llama in raster order whose layers are modulated by the class, as VAR's are.

Shi, Luo, Ge, Yang, Shan, Wang 2024, "Taming Scalable Visual Tokenizer for Autoregressive Image
Generation" (arXiv:2412.02692).

Unusual: the class is both the first position of the sequence, as in LlamaGen, and what scales,
shifts and gates every layer, as in VAR. Attention, feed-forward, norms and the rotary table with a
row of ZEROS for the class are LlamaGen's. Gates begin near 0, so a new model is nearly its
embeddings. What modulates the layers depends on the class alone, and is computed once.

Letters: B images, N positions, D width, H heads, L layers, V codebook entries.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.codes import Cond, Span, TokenSpec
from smalti.config import check
from smalti.heads.of_codes import head_of
from smalti.models.generator import GeneratorConfig
from smalti.models.raster_stack import Prepared, RasterLlama
from smalti.nn.adaln import modulate
from smalti.nn.attention import KVCache
from smalti.nn.code_embedding import code_embedding
from smalti.nn.llama import Attention, Place, feed_forward_width
from smalti.nn.mlp import Gated
from smalti.nn.norms import RMSNorm
from smalti.nn.residual import drop_path_rates, dropped
from smalti.sampling.orders import scan


@dataclass(frozen=True)
class IBQConfig(GeneratorConfig):
    grid: tuple[int, int] = (16, 16)
    """Height and width of the code grid."""
    vocab: int = 16384
    """Codebook entries; 2 with `channels`."""
    channels: int = 0
    """Bits of a code; 0: a code is a number."""
    depth: int = 0
    """Codes at each position, drawn one after another; 0: one."""
    classes: int = 1000
    """Class labels; the null class is one more row."""
    layers: int = 16
    """Transformer blocks L."""
    heads: int = 16
    """Attention heads."""
    dim: int = 1024
    """Width D, a multiple of 4 * heads."""
    multiple_of: int = 256
    """The feed-forward width is 8/3 D rounded up to a multiple of this."""
    shared_adaln: bool = False
    """One modulation for all layers, to which each adds its own constants."""
    gate: float = 1e-3
    """How far gates are open in a new model, as a factor of their weights."""
    norm_eps: float = 1e-5
    """Added to the mean square in normalisation layers."""
    rope_base: float = 10000.0
    """Base of the frequencies of rotary positions."""
    dropout: float = 0.1
    """On embeddings and on the outputs of attention and feed-forward."""
    drop_path: float = 0.0
    """Rate of the last layer's dropped residual branches; earlier layers have less."""
    order: str = "row-major"
    """The scan in which codes are learned and drawn: see `smalti.sampling.orders`."""

    def __post_init__(self) -> None:
        sizes = ("classes", "layers", "heads", "dim", "multiple_of")
        check(
            self, pairs=("grid",), positive=sizes, several=("vocab",), counts=("channels", "depth")
        )
        check(self, rates=("dropout", "drop_path"), above_zero=("norm_eps", "rope_base", "gate"))
        if self.dim % (4 * self.heads):
            raise ValueError(f"dim must be a multiple of 4 * heads, got {self.dim}, {self.heads}")
        scan(self.order, self.grid)

    @property
    def spec(self) -> TokenSpec:
        return TokenSpec((self.grid,), self.vocab, self.depth, self.channels)

    @property
    def kv_heads(self) -> int:
        """Heads of keys and values."""
        return self.heads

    @property
    def head_dim(self) -> int:
        return self.dim // self.heads

    @property
    def ffn_dim(self) -> int:
        return feed_forward_width(self.dim, self.multiple_of)


class Block(nn.Module):
    """LlamaGen's layer with branches scaled, shifted and gated."""

    CALLED = ("modulation",)

    def __init__(self, config: IBQConfig, drop_path: float) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.feed_forward = Gated(config.dim, config.ffn_dim)
        self.attention_norm = RMSNorm(config.dim, config.norm_eps)
        self.ffn_norm = RMSNorm(config.dim, config.norm_eps)
        if config.shared_adaln:
            self.constants = nn.Parameter(torch.empty(6, config.dim))
        else:
            self.adaln = nn.Linear(config.dim, 6 * config.dim)
        self.dropout, self.drop_path = config.dropout, drop_path

    def soften(self, config: IBQConfig) -> None:
        """Make gates nearly off, scales and shifts small, in initialised weights."""
        if config.shared_adaln:
            rows = nn.init.normal_(self.constants, std=config.dim**-0.5)
        else:
            rows = self.adaln.weight.unflatten(0, (6, -1))
        rows[:2].mul_(config.gate)
        rows[2:].mul_(0.5)

    def modulation(self, label: Tensor, shared: Tensor | None) -> Tensor:
        """Gates, scales and shifts of attention and feed-forward, (B, 6, D), of the class (B, D)
        or of what all layers share, (B, 6, D)."""
        if shared is not None:
            return shared + self.constants
        return self.adaln(F.silu(label)).unflatten(-1, (6, -1))

    def residual(self, x: Tensor, gate: Tensor, y: Tensor) -> Tensor:
        y = dropped(y, self.dropout, self.drop_path) if self.training else y
        return torch.addcmul(x, gate, y)

    def forward(
        self, x: Tensor, parts: Tensor, place: Place, layer: int, cache: KVCache | None
    ) -> Tensor:
        gate1, gate2, scale1, scale2, shift1, shift2 = parts.split(1, 1)  # each (B, 1, D)
        h = modulate(self.attention_norm(x), shift1, scale1)
        x = self.residual(x, gate1, self.attention(h, place, layer, cache))
        h = modulate(self.ffn_norm(x), shift2, scale2)
        return self.residual(x, gate2, self.feed_forward(h))


@dataclass
class Modulated(Prepared):
    """All that no drawn code changes: the class, as prefix and as modulation."""

    layers: Tensor
    """(B, L, 6, D): what modulates each layer."""
    last: Tensor
    """(B, 2, D): the scale and shift before the head."""


class IBQ(RasterLlama):
    """Codes (B, N), or bits (B, N, K), given a class. A `CausalModel`; one code a step."""

    config: IBQConfig

    def __init__(self, config: IBQConfig) -> None:
        super().__init__()
        self.config, self.spec = config, config.spec
        dim = config.dim
        self.tok_embeddings = code_embedding(self.spec, dim)
        self.cls_embedding = nn.Embedding(config.classes + 1, dim)
        if config.shared_adaln:
            self.shared_adaln = nn.Linear(dim, 6 * dim)
        rates = drop_path_rates(config.drop_path, config.layers)
        self.layers = nn.ModuleList([Block(config, rate) for rate in rates])
        self.norm = RMSNorm(dim, config.norm_eps)
        self.adaln = nn.Linear(dim, 2 * dim)
        self.head = head_of(self.spec, dim)
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        """Normal(0, 0.02) with zero biases; gates nearly off; a zero head, so that the first loss
        is ln V."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        for layer in self.modules():
            if isinstance(layer, Block):
                layer.soften(self.config)
        self.adaln.weight.mul_(0.5)
        self.head.init_weights()

    def prepare(
        self, cond: Cond, orders: Tensor | None = None, spec: TokenSpec | None = None
    ) -> Modulated:
        """Class embeddings, what they modulate, and rotary rows of a batch of conditions, drawn in
        `orders`, (N,) or (B, N), on the grid of `spec`."""
        spec, shared = self.draws(spec), None
        label = self.cls_embedding(cond.class_ids(null=self.config.classes))  # (B, D)
        if self.config.shared_adaln:
            shared = self.shared_adaln(F.silu(label)).unflatten(-1, (6, -1))
        blocks = [layer for layer in self.layers if isinstance(layer, Block)]
        layers = torch.stack([layer.modulation(label, shared) for layer in blocks], 1)
        last = self.adaln(F.silu(label)).unflatten(-1, (2, -1))  # (B, 2, D)
        turns = self.turns(spec, orders, label.device)
        return Modulated(label.unsqueeze(1), turns, None, layers, last)

    def hidden(
        self, codes: Tensor, cond: Modulated, span: Span, cache: KVCache | None = None
    ) -> Tensor:
        """Hidden states (B, n, D) of a span; reads codes (B, N, *trailing), in the order in which
        they are drawn, of earlier slots only. Without a cache the span must be all slots."""
        x = self.rows(codes, cond.prefix, span)  # (B, n, D)
        x = F.dropout(x, self.config.dropout, self.training)
        place = self.place(cond, span)
        for i, layer in enumerate(self.layers):
            x = layer(x, cond.layers[:, i], place, i, cache)
        scale, shift = cond.last.split(1, 1)  # each (B, 1, D)
        return modulate(self.norm(x), shift, scale)


def tiny() -> IBQConfig:
    """A model of a few thousand parameters, for tests."""
    return IBQConfig(
        grid=(4, 4), vocab=32, classes=5, layers=2, heads=2, dim=32, multiple_of=32, dropout=0.0
    )


def _sized(layers: int, dim: int) -> dict[str, Any]:
    return {"layers": layers, "heads": layers, "dim": dim}


SIZES: dict[str, dict[str, Any]] = {
    "B": _sized(16, 1024),
    "L": _sized(20, 1280),
    "XL": _sized(24, 1536),
    "XXL": _sized(30, 1920),
}
"""Layers, heads and width of every published size."""
