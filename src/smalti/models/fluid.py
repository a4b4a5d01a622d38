"""Fluid: one transformer that draws continuous or discrete codes, in random or in raster order.

Fan, Li, Qin, Li, Sun, Rubinstein, Sun, He, Tian 2024, "Fluid: Scaling Autoregressive Text-to-image
Generative Models with Continuous Tokens" (arXiv:2410.13863).

Unusual: the paper varies two things and nothing else, so one block serves all four models. A random
order is a BERT: attention in both directions over the whole grid, a learned token where nothing is
known yet. Raster order is a GPT: causal attention with a cache. Codes are continuous with a
diffusion head, or ids with a softmax. The text is read by cross-attention in every block, after a
few layers that are trained upon a frozen T5 (the paper's text aligner). A class is a text of
`class_length` learned words, so that cross-attention has something to choose from.

There is no official code. In the abstract or in public notes on the paper: random order and
continuous codes as the best of the four, cross-attention to T5-XXL, continuous codes of Stable
Diffusion's 32 x 32 x 4 latents, a head of six layers, 10.5 B parameters at most. [M], remembered
only: 2 x 2 latents in one code of 16 channels, 128 text tokens, an aligner of six layers, widths
and depths. Not known and decided here: learned positions, layer norm, GELU.

Letters: B images, N positions, D width, H heads, T text tokens, V codebook entries, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from smalti.codes import Cond, Draw, Guide, Span, TokenSpec, Turn
from smalti.heads.categorical import CategoricalHead
from smalti.heads.diffusion import DiffusionConfig, DiffusionHead
from smalti.nn.adaln import LN_EPS
from smalti.nn.attention import KVCache, attend
from smalti.nn.linear import Linear
from smalti.nn.mlp import MLP
from smalti.nn.residual import dropped
from smalti.sampling.filters import Filters
from smalti.sampling.noise import Noise, SlotNoise
from smalti.sampling.orders import arrange, restore


@dataclass(frozen=True)
class FluidConfig:
    grid: tuple[int, int] = (16, 16)
    """Height and width of the code grid."""
    vocab: int = 0
    """Codebook entries; 0 for continuous codes."""
    channels: int = 16
    """Width C of a continuous code; 0 for discrete codes."""
    classes: int = 0
    """Class labels; the null class is one more row. 0 for a text-conditional model."""
    class_length: int = 4
    """Learned words that a class is made of."""
    text_length: int = 128
    """T, tokens of a text. 0 for a class-conditional model."""
    text_dim: int = 4096
    """Width of the text features (T5-XXL: 4096)."""
    aligner_layers: int = 6
    """Layers upon the text features; 0: a projection alone."""
    order: Literal["random", "raster"] = "random"
    """Random order, drawn many at a time with attention in both directions, or row by row."""
    layers: int = 16
    """Transformer blocks."""
    heads: int = 16
    """Attention heads."""
    dim: int = 1024
    """Width D, a multiple of `heads`."""
    ffn_dim: int = 4096
    """Width of the feed-forward layers."""
    dropout: float = 0.1
    """Of attention probabilities and of the outputs of attention and feed-forward."""
    head: DiffusionConfig = field(default_factory=DiffusionConfig)
    """Of continuous codes."""

    def __post_init__(self) -> None:
        for name in ("class_length", "layers", "heads", "dim", "ffn_dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if len(self.grid) != 2 or min(self.grid) < 1:
            raise ValueError(f"grid must be two positive integers, got {self.grid}")
        if self.order not in ("random", "raster"):
            raise ValueError(f"order must be random or raster, got {self.order!r}")
        if self.aligner_layers < 0:
            raise ValueError(f"aligner_layers must be 0 or more, got {self.aligner_layers}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}")
        if self.dim % self.heads:
            raise ValueError(f"dim must be a multiple of heads, got {self.dim}, {self.heads}")
        if (self.vocab > 0) == (self.channels > 0):
            raise ValueError(
                "codes have either a vocab or channels, "
                f"got vocab {self.vocab}, channels {self.channels}"
            )
        if (self.classes > 0) == (self.text_length > 0):
            raise ValueError(
                "a model has either classes or a text, "
                f"got classes {self.classes}, text_length {self.text_length}"
            )

    @property
    def spec(self) -> TokenSpec:
        return TokenSpec((self.grid,), self.vocab, channels=self.channels)


class Context:
    """What cross-attention reads: words (B, T, D) and where they are, mask (B, 1, 1, T) or None.

    With `keep` every layer's keys and values are computed once, for all steps of a generation.
    """

    def __init__(self, words: Tensor, mask: Tensor | None, keep: bool) -> None:
        self.words, self.mask = words, mask
        self.kept: dict[nn.Module, tuple[Tensor, Tensor]] | None = {} if keep else None

    def read(self, attention: CrossAttention) -> tuple[Tensor, Tensor]:
        """Keys and values of a layer, each (B, H, T, head_dim)."""
        if self.kept is None:
            return attention.keys(self.words)
        if attention not in self.kept:
            self.kept[attention] = attention.keys(self.words)
        return self.kept[attention]


class Prepared(NamedTuple):
    """All that no drawn code changes."""

    context: Context
    places: Tensor
    """(N, D) or, with an order for each row, (B, N, D): positions in the order of drawing."""


class View(NamedTuple):
    """What the rows of one call see, shared by all layers."""

    mask: Tensor | None = None
    causal: bool = False
    positions: Tensor | None = None
    """(n,) sequence rows, for the cache."""
    reach: int = 0
    """Cached keys below this row are read."""
    context: Context | None = None


def pick(x: Tensor, rows: Tensor) -> Tensor:
    """Rows (B, m) of x (B, n, D): (B, m, D)."""
    return x.gather(1, rows[..., None].expand(-1, -1, x.shape[-1]))


def split(x: Tensor, heads: int) -> Tensor:
    """The heads of (B, n, D): (B, H, n, head_dim)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


class SelfAttention(nn.Module):
    def __init__(self, config: FluidConfig) -> None:
        super().__init__()
        self.heads, self.dropout = config.heads, config.dropout
        self.wqkv = Linear(config.dim, 3 * config.dim)
        self.wo = Linear(config.dim, config.dim)

    def forward(
        self, x: Tensor, view: View, layer: int, cache: KVCache | None, wanted: Tensor | None
    ) -> Tensor:
        q, k, v = self.wqkv(x).chunk(3, -1)  # each (B, n, D)
        q = q if wanted is None else pick(q, wanted)  # (B, m, D)
        q, k, v = (split(t, self.heads) for t in (q, k, v))
        if cache is not None and view.positions is not None:
            k, v = cache.update(layer, view.positions, view.reach, k, v)
        dropout = self.dropout if self.training else 0.0
        y = attend(q, k, v, view.mask, view.causal, dropout=dropout)
        return self.wo(y.transpose(1, 2).flatten(2))  # (B, n, D) or (B, m, D)


class CrossAttention(nn.Module):
    def __init__(self, config: FluidConfig) -> None:
        super().__init__()
        self.heads, self.dropout = config.heads, config.dropout
        self.wq = Linear(config.dim, config.dim)
        self.wkv = Linear(config.dim, 2 * config.dim)
        self.wo = Linear(config.dim, config.dim)

    def keys(self, words: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of words (B, T, D), each (B, H, T, head_dim)."""
        k, v = self.wkv(words).chunk(2, -1)
        return split(k, self.heads), split(v, self.heads)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        dropout = self.dropout if self.training else 0.0
        q = split(self.wq(x), self.heads)
        y = attend(q, *context.read(self), context.mask, dropout=dropout)
        return self.wo(y.transpose(1, 2).flatten(2))  # (B, n, D)


class Block(nn.Module):
    """Attention, then attention to the condition unless this is a layer of the aligner, then
    feed-forward, each on a norm of its input and added to it."""

    def __init__(self, config: FluidConfig, cross: bool = True) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.dim, LN_EPS)
        self.attention = SelfAttention(config)
        if cross:
            self.cross_norm = nn.LayerNorm(config.dim, LN_EPS)
            self.cross = CrossAttention(config)
        self.ffn_norm = nn.LayerNorm(config.dim, LN_EPS)
        self.feed_forward = MLP(config.dim, config.ffn_dim)
        self.dropout = config.dropout

    def residual(self, x: Tensor, y: Tensor) -> Tensor:
        return x + (dropped(y, self.dropout, 0.0) if self.training else y)

    def forward(
        self,
        x: Tensor,
        view: View,
        layer: int = 0,
        cache: KVCache | None = None,
        wanted: Tensor | None = None,
    ) -> Tensor:
        """Rows (B, n, D) to rows; to those of `wanted` (B, m) alone where it is given."""
        h = self.attention(self.attention_norm(x), view, layer, cache, wanted)
        x = self.residual(x if wanted is None else pick(x, wanted), h)
        if view.context is not None:
            x = self.residual(x, self.cross(self.cross_norm(x), view.context))
        return self.residual(x, self.feed_forward(self.ffn_norm(x)))


class Aligner(nn.Module):
    """Text features (B, T, text_dim) to what the layers read, (B, T, D)."""

    def __init__(self, config: FluidConfig) -> None:
        super().__init__()
        self.null = nn.Parameter(torch.empty(config.text_length, config.text_dim))
        self.proj = Linear(config.text_dim, config.dim)
        layers = [Block(config, cross=False) for _ in range(config.aligner_layers)]
        self.layers = nn.ModuleList(layers)
        self.norm = nn.LayerNorm(config.dim, LN_EPS)

    def forward(self, text: Tensor, mask: Tensor, drop: Tensor | None) -> tuple[Tensor, Tensor]:
        """Words, and the mask (B, 1, 1, T) of those that are no padding; the null text has none."""
        text = text.to(self.null.dtype)
        if drop is not None:
            text = torch.where(drop[:, None, None], self.null, text)
            mask = mask | drop[:, None]
        x, mask = self.proj(text), mask[:, None, None]  # (B, T, D), (B, 1, 1, T)
        for layer in self.layers:
            x = layer(x, View(mask))
        return self.norm(x), mask


class Fluid(nn.Module):
    """Codes (B, N) or (B, N, C) given a class or a text.

    In random order a `MaskedModel`; in raster order a `CausalModel`, one code per step.
    """

    NO_DECAY = ("cell_pos.*", "cls_embedding.*", "aligner.null")
    order = None
    """A raster is row by row."""

    def __init__(self, config: FluidConfig) -> None:
        super().__init__()
        self.config, self.spec = config, config.spec
        self.masked = config.order == "random"
        positions, dim = self.spec.positions, config.dim
        discrete = self.spec.discrete
        if not self.masked:
            self.blocks: Sequence[int] = [1] * positions
        self.code_embeddings = (
            nn.Embedding(config.vocab, dim) if discrete else Linear(config.channels, dim)
        )
        self.blank = nn.Parameter(torch.empty(dim))  # the mask token, or what a raster begins with
        self.cell_pos = nn.Embedding(positions, dim)
        if config.classes:
            self.cls_embedding = nn.Embedding(config.classes + 1, config.class_length * dim)
        else:
            self.aligner = Aligner(config)
        self.layers = nn.ModuleList([Block(config) for _ in range(config.layers)])
        self.norm = nn.LayerNorm(dim, LN_EPS)
        self.head = (
            CategoricalHead(dim, config.vocab, bias=True)
            if discrete
            else DiffusionHead(dim, config.channels, config.head)
        )
        self.init_weights()

    def init_weights(self) -> None:
        """Xavier for products, normal(0, 0.02) for tables, words of a class of variance 1 as those
        of a text are; a softmax begins at zero."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            elif isinstance(module, nn.LayerNorm) and module.elementwise_affine:
                nn.init.ones_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.blank, std=0.02)
        if self.config.classes:
            nn.init.normal_(self.cls_embedding.weight)
        else:
            nn.init.normal_(self.aligner.null, std=self.config.text_dim**-0.5)
        if isinstance(self.head, CategoricalHead):
            nn.init.zeros_(self.head.proj.weight)
        else:
            self.head.init_weights()

    def prepare(self, cond: Cond, orders: Tensor | None = None, keep: bool = True) -> Prepared:
        """Condition and positions of a batch; a raster may be drawn in `orders`, (N,) or (B, N).
        Without `keep`, for training, layers do not store what they make of the condition."""
        places = self.cell_pos.weight
        if orders is not None:
            places = self.cell_pos(orders.to(places.device))
        return Prepared(self._context(cond, keep), places)

    def _context(self, cond: Cond, keep: bool) -> Context:
        if self.config.classes:
            if cond.labels is None:
                raise ValueError("this model is class-conditional: give labels")
            ids = cond.labels
            if cond.drop is not None:
                ids = ids.masked_fill(cond.drop, self.config.classes)
            words = self.cls_embedding(ids).unflatten(-1, (self.config.class_length, -1))
            return Context(words, None, keep)
        if cond.text is None or cond.text_mask is None:
            raise ValueError("this model is text-conditional: give text and text_mask")
        words, mask = self.aligner(cond.text, cond.text_mask.bool(), cond.drop)
        return Context(words, mask, keep)

    def cache(self, batch: int) -> KVCache | None:
        """An empty cache for `batch` rows (all branches) of a raster; random orders keep none."""
        if self.masked:
            return None
        c, weight, length = self.config, self.cell_pos.weight, self.spec.positions
        size = c.dim // c.heads
        return KVCache(c.layers, batch, c.heads, length, size, weight.dtype, weight.device)

    def hidden(
        self, codes: Tensor, cond: Prepared, step: Span | Turn, cache: KVCache | None = None
    ) -> Tensor:
        """Hidden states: (B, m, D) at the wanted positions of a turn, or (B, n, D) of a span, whose
        codes are in the order in which they are drawn. Without a cache a span must be all slots."""
        if isinstance(step, Turn):
            x = torch.where(step.known[..., None], self.embedded(codes), self.blank)
            x, view = x + cond.places, View(context=cond.context)  # (B, N, D)
        else:
            x, view = self._row(codes, cond, step), self._view(cond, step)
        last = len(self.layers) - 1
        for i, layer in enumerate(self.layers):
            wanted = step.wanted if isinstance(step, Turn) and i == last else None
            x = layer(x, view, i, cache, wanted)
        return self.norm(x)

    def embedded(self, codes: Tensor) -> Tensor:
        """Codes as the layers read them, (B, n, D)."""
        return self.code_embeddings(codes if self.spec.discrete else codes.to(self.blank.dtype))

    def _row(self, codes: Tensor, cond: Prepared, span: Span) -> Tensor:
        """The rows of a span, (B, n, D): each holds the code before, the first `blank`."""
        before = (span.slots[1:] if span.first else span.slots) - 1
        x = self.embedded(codes[:, before]) + cond.places.index_select(-2, before)
        if span.first:
            x = torch.cat((self.blank.expand(len(x), 1, -1), x), 1)
        return x

    def _view(self, cond: Prepared, span: Span) -> View:
        slots, reach = span.slots, span.reach
        if not span.padded and (span.first or len(slots) == 1):
            return View(None, span.first, slots, reach, cond.context)
        keys = torch.arange(reach, device=slots.device)
        return View(keys <= slots[:, None], False, slots, reach, cond.context)

    def draw(
        self,
        codes: Tensor,
        cond: Prepared,
        step: Span | Turn,
        cache: KVCache | None,
        guide: Guide,
        noise: SlotNoise,
        filters: Filters,
    ) -> Draw:
        """Draw the codes of a span or of a turn's wanted positions."""
        if isinstance(step, Turn):
            wanted = None if step.wanted is None else guide.tile(step.wanted)
            step = step._replace(known=guide.tile(step.known), wanted=wanted)
        h = self.hidden(guide.tile(codes), cond, step, cache)
        if isinstance(self.head, CategoricalHead):
            return self.head.sample(h, guide, noise.uniform, filters)
        return self.head.sample(h, guide, noise, filters)

    def loss(
        self,
        codes: Tensor,
        cond: Cond,
        read: Tensor | None = None,
        orders: Tensor | None = None,
        known: Tensor | None = None,
        noise: Noise | None = None,
        smoothing: float = 0.0,
    ) -> Tensor:
        """Negative log-likelihood in nats, or the diffusion loss, of each position: (B, N).

        In random order given `known` (B, N) bool (default: nothing), where the loss is 0; in raster
        order given the codes before, in `orders`. `noise` is that of the diffusion loss, by default
        the same at every call; `smoothing` of the labels is for training on discrete codes. Codes
        and loss are row by row.
        """
        if self.masked and orders is not None:
            raise ValueError("a model of random order takes no other")
        if not self.masked and known is not None:
            raise ValueError("a model of raster order predicts all positions; none may be known")
        predicted = arrange(codes, orders)
        read = predicted if read is None else arrange(read, orders)
        cells = torch.arange(self.spec.positions, device=codes.device)
        step = Span(cells, first=True, reach=len(cells), padded=False)
        if self.masked:
            known = codes.new_zeros(codes.shape[:2], dtype=torch.bool) if known is None else known
            step = Turn(known, None, reach=len(cells))
        h = self.hidden(read, self.prepare(cond, orders, keep=False), step)
        if isinstance(self.head, CategoricalHead):
            loss = self.head.loss(h, predicted, smoothing)
        else:
            noise = noise or Noise.request(0, len(codes), device=codes.device)
            loss = self.head.loss(h, predicted, noise, cells)
        return restore(loss if known is None else loss.masked_fill(known, 0.0), orders)


def tiny() -> FluidConfig:
    """A model of a few thousand parameters, for tests."""
    return FluidConfig(
        grid=(4, 4),
        channels=4,
        classes=5,
        class_length=3,
        text_length=0,
        layers=2,
        heads=2,
        dim=32,
        ffn_dim=64,
        dropout=0.0,
        head=DiffusionConfig(depth=1, width=32),
    )


def _sized(layers: int, heads: int, dim: int) -> dict[str, Any]:
    return {"layers": layers, "heads": heads, "dim": dim, "ffn_dim": 4 * dim}


SIZES: dict[str, dict[str, Any]] = {
    "150M": _sized(12, 10, 640),
    "369M": _sized(16, 16, 1024),
    "665M": _sized(20, 16, 1280),
    "1.1B": _sized(24, 16, 1536),
    "3.1B": _sized(32, 24, 2304),
    "10.5B": _sized(34, 32, 4096),
}
"""Layers, heads and width by name. The names are the paper's numbers of parameters [M]; layers and
widths are chosen to come within 5 % of them, with aligner and head."""
