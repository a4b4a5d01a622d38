"""RAR: a transformer that learns to predict image codes in random orders, and settles on one.

Yu, He, Deng, Shen, Chen 2024, "Randomized Autoregressive Visual Generation" (arXiv:2411.00776).

Unusual: an embedding of the cell that comes NEXT is added to each input (target-aware positions),
so that one set of weights serves every order; and the condition modulates each layer (adaLN-zero)
anew at each step of the sequence, through an embedding of the step. That modulation depends on no
code, so decoding computes it for many steps at once.

Letters: B images, N positions, D width, H heads, V codebook entries, U different conditions.
The sequence has N + 1 rows: a learned start, the class, and all codes but the last. Slot i, which
predicts the i-th code of the order, is row i + 1.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.codes import Cond, Rowwise, Span, TokenSpec
from smalti.config import check
from smalti.heads.of_codes import head_of
from smalti.models.generator import GeneratorConfig
from smalti.models.raster_stack import Raster, causal, visible
from smalti.nn.adaln import LN_EPS, modulate, normed
from smalti.nn.attention import KVCache, attend
from smalti.nn.code_embedding import code_embedding
from smalti.nn.linear import Linear, Seldom
from smalti.nn.mlp import MLP
from smalti.nn.residual import dropped
from smalti.sampling.orders import arrange, scan

MODULATED = 32
"""Steps whose modulation is computed at once while drawing."""


@dataclass(frozen=True)
class RARConfig(GeneratorConfig):
    grid: tuple[int, int] = (16, 16)
    """Height and width of the code grid."""
    vocab: int = 1024
    """Codebook entries; 2 with `channels`."""
    channels: int = 0
    """Bits of a code; 0: a code is a number."""
    depth: int = 0
    """Codes at each position, drawn one after another; 0: one."""
    classes: int = 1000
    """Class labels; the null class is one more row."""
    layers: int = 24
    """Transformer blocks."""
    heads: int = 16
    """Attention heads."""
    dim: int = 768
    """Width D, a multiple of `heads`."""
    ffn_dim: int = 3072
    """Width of the feed-forward layers."""
    dropout: float = 0.1
    """Of attention probabilities and of the outputs of attention and feed-forward."""
    order: str = "row-major"
    """The scan in which codes are drawn, and learned where orders are not random."""

    def __post_init__(self) -> None:
        sizes = ("vocab", "classes", "layers", "heads", "dim", "ffn_dim")
        check(self, pairs=("grid",), multiple=("dim", "heads"), positive=sizes)
        check(self, rates=("dropout",), counts=("channels", "depth"))
        scan(self.order, self.grid)

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
    """(B, 2, D): the learned start and the class, without positions."""
    places: Tensor
    """(1, N + 1, D) or, with an order for each row, (B, N + 1, D): the own cell and the next."""
    ids: Tensor
    """(B,): classes, the null class among them."""
    different: tuple[Tensor, Tensor] | None
    """The different classes (U,), and which of them is each row's (B,); None: not looked up."""

    def rows(self, index: Tensor) -> Self:
        return replace(super().rows(index), different=None)

    def put(self, index: Tensor, other: Rowwise) -> None:
        super().put(index, other)
        self.different = None


class Place(NamedTuple):
    """Where the rows of one call stand in the sequence, shared by all layers."""

    positions: Tensor
    """(n,) or (B, n) sequence rows."""
    reach: int
    """Keys below this row are read."""
    mask: Tensor | None
    causal: bool
    keep: bool
    """Whether keys and values are written to the cache."""
    modulation: Modulation


class Modulation:
    """What the condition and the step make of each layer's adaLN weights, for some rows.

    Args: cond (U, m, D), the conditions of sequence rows begin ... begin + m - 1; row (B,), which
    of the U is each image's, None if there are as many; keep makes each layer's table once, for the
    calls to come.
    """

    def __init__(
        self, cond: Tensor, row: Tensor | None, begin: int = 0, keep: bool = False
    ) -> None:
        self.cond, self.row, self.begin = F.silu(cond), row, begin
        self.end = begin + cond.shape[1]
        self.tables: dict[nn.Linear, Tensor] | None = {} if keep else None

    def __call__(self, adaln: nn.Linear, positions: Tensor) -> Tensor:
        """The output of a layer's `adaln` at sequence rows (n,): (B, n, parts * D)."""
        if self.tables is None:  # the rows of this call, as in training
            return self._each(adaln(self.cond))
        if adaln not in self.tables:
            self.tables[adaln] = adaln(self.cond)  # (U, m, parts * D)
        return self._each(self.tables[adaln].index_select(1, positions - self.begin))

    def _each(self, table: Tensor) -> Tensor:
        return table if self.row is None else table.index_select(0, self.row)


class Cache(KVCache):
    """Keys and values, and the modulation of the next rows."""

    modulation: Modulation | None = None

    def rows(self, index: Tensor) -> Self:
        other = super().rows(index)
        other.modulation = None
        return other

    def put(self, index: Tensor, other: KVCache) -> None:
        super().put(index, other)
        self.modulation = None


class Attention(nn.Module):
    def __init__(self, config: RARConfig) -> None:
        super().__init__()
        self.heads, self.dropout = config.heads, config.dropout
        self.wqkv = Linear(config.dim, 3 * config.dim)
        self.wo = Linear(config.dim, config.dim)
        self.q_norm = nn.LayerNorm(config.head_dim, LN_EPS)
        self.k_norm = nn.LayerNorm(config.head_dim, LN_EPS)

    def forward(self, x: Tensor, place: Place, layer: int, cache: Cache | None) -> Tensor:
        qkv = self.wqkv(x).unflatten(-1, (3, self.heads, -1))  # (B, n, 3, H, hd)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, H, n, hd)
        q, k = self.q_norm(q), self.k_norm(k)
        if cache is not None:
            k, v = cache.update(layer, place.positions, place.reach, k, v, place.keep)
        dropout = self.dropout if self.training else 0.0
        y = attend(q, k, v, place.mask, place.causal, dropout=dropout)
        return self.wo(y.transpose(1, 2).flatten(2))  # (B, n, D)


class Block(nn.Module):
    """Attention and feed-forward, each shifted, scaled and gated by the condition of its row."""

    def __init__(self, config: RARConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.dim, LN_EPS)
        self.attention = Attention(config)
        self.norm2 = nn.LayerNorm(config.dim, LN_EPS)
        self.feed_forward = MLP(config.dim, config.ffn_dim)
        self.adaln = Seldom(config.dim, 6 * config.dim)
        self.dropout = config.dropout

    def residual(self, x: Tensor, gate: Tensor, y: Tensor) -> Tensor:
        return torch.addcmul(x, gate, dropped(y, self.dropout, 0.0) if self.training else y)

    def forward(self, x: Tensor, place: Place, layer: int, cache: Cache | None) -> Tensor:
        parts = place.modulation(self.adaln, place.positions).chunk(6, -1)
        shift1, scale1, gate1, shift2, scale2, gate2 = parts  # each (B, n, D)
        h = self.attention(modulate(self.norm1(x), shift1, scale1), place, layer, cache)
        x = self.residual(x, gate1, h)
        h = self.feed_forward(modulate(self.norm2(x), shift2, scale2))
        return self.residual(x, gate2, h)


class RAR(Raster):
    """Codes (B, N) given a class. A `CausalModel`; one code per step, in any order."""

    NO_DECAY = ("*_embeddings.*", "*_embedding.*", "*_pos*", "steps.*", "adaln.*")
    """What has no weight decay, as published: tables, and the last adaLN."""
    any_order = True
    config: RARConfig

    def __init__(self, config: RARConfig) -> None:
        super().__init__()
        self.config, self.spec = config, config.spec
        positions, dim = self.spec.positions, config.dim
        self.tok_embeddings = code_embedding(self.spec, dim)
        self.cls_embedding = nn.Embedding(config.classes + 1, dim)
        self.start = nn.Parameter(torch.empty(dim))
        self.start_pos = nn.Parameter(torch.empty(2, dim))
        self.cell_pos = nn.Embedding(positions, dim)
        self.target_pos = nn.Embedding(positions, dim)
        self.steps = nn.Embedding(positions + 1, dim)
        self.layers = nn.ModuleList([Block(config) for _ in range(config.layers)])
        self.adaln = Seldom(dim, 2 * dim)
        self.head = head_of(self.spec, dim, bias=True)
        self.init_weights()

    def init_weights(self) -> None:
        """Normal(0, 0.02); zero biases, start and adaLN, so that a new layer does nothing."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.trunc_normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
            if isinstance(module, nn.LayerNorm):
                nn.init.ones_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.trunc_normal_(self.start_pos, std=0.02)
        nn.init.zeros_(self.start)
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear) and name.endswith("adaln"):
                nn.init.zeros_(module.weight)

    def order(self, spec: TokenSpec | None = None) -> Tensor | None:
        return scan(self.config.order, self.config.grid)

    def prepare(
        self, cond: Cond, orders: Tensor | None = None, spec: TokenSpec | None = None
    ) -> Prepared:
        """Start, positions and conditions of a batch, drawn in `orders`, (N,) or (B, N)."""
        positions, ids = self.draws(spec).positions, cond.class_ids(null=self.config.classes)
        unique, row = ids.unique(return_inverse=True)  # (U,), (B,)
        label = self.cls_embedding(ids).unsqueeze(1)  # (B, 1, D)
        start = torch.cat((self.start.expand_as(label), label), 1)  # (B, 2, D)
        orders = self.order() if orders is None else orders
        orders = torch.arange(positions) if orders is None else orders
        orders = orders.to(label.device).view(-1, positions)  # (1 or B, N)
        own = self.cell_pos(orders[:, :-1])  # (1 or B, N - 1, D)
        places = torch.cat((self.start_pos.expand(len(own), 2, -1), own), 1)  # (..., N + 1, D)
        places = places + F.pad(self.target_pos(orders), (0, 0, 1, 0))
        return Prepared(start, places, ids, (unique, row))

    def cache(self, batch: int, spec: TokenSpec | None = None) -> Cache:
        """An empty cache for `batch` rows (all branches), in the dtype of the weights."""
        c, weight, length = self.config, self.tok_embeddings.weight, self.draws(spec).positions + 1
        return Cache(c.layers, batch, c.heads, length, c.head_dim, weight.dtype, weight.device)

    def place(self, prepared: Prepared, span: Span, cache: Cache | None) -> Place:
        positions = span.slots + 1
        if span.first:
            positions = torch.cat((positions.new_zeros(1), positions))
        modulation = self.modulation(prepared, positions, span, cache)
        reach = span.reach + 1
        if causal(span):
            return Place(positions, reach, None, span.first, span.keep, modulation)
        mask = visible(span, 1)  # (1 or B, 1, n, reach)
        return Place(positions, reach, mask, False, span.keep, modulation)

    def modulation(
        self, prepared: Prepared, positions: Tensor, span: Span, cache: Cache | None
    ) -> Modulation:
        """The modulation of sequence rows (n,) or (B, n); with a cache, and all images at the same
        rows, of enough of them for many calls."""
        unique, row = prepared.different or (prepared.ids, None)
        if span.start is None:
            label = self.cls_embedding(prepared.ids)[:, None]  # (B, 1, D)
            return Modulation(label + self.steps(positions), None)
        label = self.cls_embedding(unique)[:, None]  # (U, 1, D)
        if cache is None:
            return Modulation(label + self.steps.weight, row)
        begin, found = 0 if span.first else span.start + 1, cache.modulation
        if found is None or not found.begin <= begin <= found.end - len(positions):
            steps = self.steps.weight[begin : begin + max(len(positions), MODULATED)]
            found = cache.modulation = Modulation(label + steps, row, begin, keep=True)
        return found

    def hidden(
        self, codes: Tensor, cond: Prepared, span: Span, cache: Cache | None = None
    ) -> Tensor:
        """Hidden states (B, n, D) of a span; reads codes (B, N), in the order in which they are
        drawn, of earlier slots only. Without a cache the span must be all slots."""
        x = self.rows(codes, cond.start, span)  # (B, n, D), at first (B, 1 + n, D)
        place = self.place(cond, span, cache)
        x = x + arrange(cond.places, place.positions)
        for i, layer in enumerate(self.layers):
            x = layer(x, place, i, cache)
        scale, shift = place.modulation(self.adaln, place.positions).chunk(2, -1)
        return modulate(normed(x), shift, scale)[:, -span.slots.shape[-1] :]  # (B, n, D)


def tiny() -> RARConfig:
    """A model of a few thousand parameters, for tests."""
    return RARConfig(
        grid=(4, 4), vocab=32, classes=5, layers=2, heads=2, dim=32, ffn_dim=64, dropout=0.0
    )


def _sized(layers: int, dim: int, ffn_dim: int) -> dict[str, Any]:
    return {"layers": layers, "dim": dim, "ffn_dim": ffn_dim}


SIZES: dict[str, dict[str, Any]] = {
    "B": _sized(24, 768, 3072),
    "L": _sized(24, 1024, 4096),
    "XL": _sized(32, 1280, 5120),
    "XXL": _sized(40, 1408, 6144),
}
"""Layers and widths of every published size; all have 16 heads."""
