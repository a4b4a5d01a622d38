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

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from smalti.codes import Cond, Draw, Reads, Rowwise, Span, TokenSpec, Turn
from smalti.config import check
from smalti.heads.diffusion import DiffusionConfig, DiffusionHead
from smalti.heads.of_codes import head_of
from smalti.models.generator import Generator, GeneratorConfig, either
from smalti.models.raster_stack import Raster, causal, visible
from smalti.nn.adaln import LN_EPS
from smalti.nn.attention import KVCache, attend
from smalti.nn.code_embedding import code_embedding
from smalti.nn.cross import Context, CrossAttention, nulled, split
from smalti.nn.linear import Linear
from smalti.nn.mlp import MLP
from smalti.nn.residual import dropped
from smalti.sampling.chance import Chance
from smalti.sampling.noise import Noise, SlotNoise
from smalti.sampling.orders import arrange


@dataclass(frozen=True)
class FluidConfig(GeneratorConfig):
    grid: tuple[int, int] = (16, 16)
    """Height and width of the code grid."""
    vocab: int = 0
    """Codebook entries; 0 for continuous codes."""
    channels: int = 16
    """Width C of a continuous code, or bits of a code with vocab 2; 0 for codes of one number."""
    depth: int = 0
    """Discrete codes at each position, drawn one after another; 0: one."""
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
        check(
            self,
            pairs=("grid",),
            multiple=("dim", "heads"),
            positive=("class_length", "layers", "heads", "dim", "ffn_dim"),
            counts=("aligner_layers", "depth"),
            rates=("dropout",),
        )
        if self.vocab != 2 and (self.vocab > 0) == (self.channels > 0):
            raise ValueError(
                "codes have a vocab, channels, or bits as channels with vocab 2, "
                f"got vocab {self.vocab}, channels {self.channels}"
            )
        if self.depth and self.channels:
            raise ValueError(
                "several codes at a position are numbers, "
                f"got depth {self.depth}, channels {self.channels}"
            )
        either(self)

    @property
    def spec(self) -> TokenSpec:
        return TokenSpec((self.grid,), self.vocab, self.depth, self.channels)

    def fitted(self, tokenizer: Any, reads: Reads) -> FluidConfig:
        """As of any model; it takes discrete and continuous codes alike."""
        codes = self.codes_of(tokenizer)
        return self.with_known(grid=self.one_grid(tokenizer), **codes, **self.condition_of(reads))


@dataclass
class Prepared(Rowwise):
    """All that no drawn code changes."""

    context: Context
    places: Tensor
    """(1, N, D) or, with an order for each row, (B, N, D): positions in the order of drawing."""


class View(NamedTuple):
    """What the rows of one call see, shared by all layers."""

    mask: Tensor | None = None
    causal: bool = False
    span: Span | None = None
    """Where the rows stand, for the cache."""
    context: Context | None = None


def pick(x: Tensor, rows: Tensor) -> Tensor:
    """Rows (B, m) of x (B, n, D): (B, m, D)."""
    return x.gather(1, rows[..., None].expand(-1, -1, x.shape[-1]))


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
        if cache is not None and view.span is not None:
            k, v = cache.update(layer, view.span.slots, view.span.reach, k, v, view.span.keep)
        dropout = self.dropout if self.training else 0.0
        y = attend(q, k, v, view.mask, view.causal, dropout=dropout)
        return self.wo(y.transpose(1, 2).flatten(2))  # (B, n, D) or (B, m, D)


class Block(nn.Module):
    """Attention, then attention to the condition unless this is a layer of the aligner, then
    feed-forward, each on a norm of its input and added to it."""

    def __init__(self, config: FluidConfig, cross: bool = True) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.dim, LN_EPS)
        self.attention = SelfAttention(config)
        if cross:
            self.cross_norm = nn.LayerNorm(config.dim, LN_EPS)
            self.cross = CrossAttention(config.dim, config.heads, config.dropout)
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
        text, mask = nulled(text, mask, drop, self.null)  # (B, T, C), (B, 1, 1, T)
        x = self.proj(text)  # (B, T, D)
        for layer in self.layers:
            x = layer(x, View(mask))
        return self.norm(x), mask


class Fluid(Generator):
    """Codes (B, N) or (B, N, C) given a class or a text: what both orders share."""

    NO_DECAY = ("cell_pos.*", "cls_embedding.*", "aligner.null")
    config: FluidConfig

    def __init__(self, config: FluidConfig) -> None:
        super().__init__()
        self.config, self.spec = config, config.spec
        positions, dim = self.spec.positions, config.dim
        discrete = self.spec.discrete
        self.code_embeddings = (
            code_embedding(self.spec, dim) if discrete else Linear(config.channels, dim)
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
            head_of(self.spec, dim, bias=True)
            if discrete
            else DiffusionHead(dim, config.channels, config.head)
        )
        self.init_weights()

    def init_weights(self) -> None:
        """Xavier for products, normal(0, 0.02) for tables, words of a class of variance 1 as those
        of a text are; the head its own."""
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
        self.head.init_weights()

    @property
    def reads(self) -> Reads:
        return either(self.config)

    @property
    def reader(self) -> nn.Module:
        return self.cls_embedding if self.config.classes else self.aligner.proj

    def context(self, cond: Cond, keep: bool) -> Context:
        """What cross-attention reads. Without `keep`, for training, layers store nothing of it."""
        if self.config.classes:
            ids = cond.class_ids(null=self.config.classes)
            words = self.cls_embedding(ids).unflatten(-1, (self.config.class_length, -1))
            return Context(words, None, keep)
        if cond.text is None or cond.text_mask is None:
            raise ValueError("this model is text-conditional: give text and text_mask")
        words, mask = self.aligner(cond.text, cond.text_mask.bool(), cond.drop)
        return Context(words, mask, keep)

    def embedded(self, codes: Tensor) -> Tensor:
        """Codes as the layers read them, (B, n, D)."""
        return self.code_embeddings(codes if self.spec.discrete else codes.to(self.blank.dtype))

    def transform(
        self, x: Tensor, view: View, cache: KVCache | None = None, wanted: Tensor | None = None
    ) -> Tensor:
        """Rows (B, n, D) through all layers; of the last, those of `wanted` (B, m) alone."""
        last = len(self.layers) - 1
        for i, layer in enumerate(self.layers):
            x = layer(x, view, i, cache, wanted if i == last else None)
        return self.norm(x)


class RandomFluid(Fluid):
    """In random order, many positions at a time, with attention in both directions. A
    `MaskedModel`."""

    loop = "masked"

    def prepare(self, cond: Cond, spec: TokenSpec | None = None, keep: bool = True) -> Prepared:
        """Condition and positions of a batch."""
        self.draws(spec)
        return Prepared(self.context(cond, keep), self.cell_pos.weight.unsqueeze(0))

    def cache(self, batch: int, spec: TokenSpec | None = None) -> None:
        """None: every pass reads everything."""

    def hidden(self, codes: Tensor, cond: Prepared, turn: Turn, cache: None = None) -> Tensor:
        """Hidden states (B, m, D) at the wanted positions of a turn; reads codes of known ones."""
        x = torch.where(turn.known[..., None], self.embedded(codes), self.blank)
        return self.transform(x + cond.places, View(context=cond.context), wanted=turn.wanted)

    def draw(self, codes: Tensor, cond: Prepared, turn: Turn, cache: None, chance: Chance) -> Draw:
        """Draw the codes of a turn's wanted positions."""
        guide = chance.guide
        h = self.hidden(guide.tile(codes), cond, turn.tile(guide), cache)
        return self.head.sample(h, chance)

    def loss(
        self, codes: Tensor, cond: Cond, known: Tensor | None = None, noise: Noise | None = None
    ) -> Tensor:
        """Negative log-likelihood in nats, or the diffusion loss, of each position given `known`
        ones (B, N) bool (default: nothing), where the loss is 0: (B, N)."""
        known = codes.new_zeros(codes.shape[:2], dtype=torch.bool) if known is None else known
        cells = torch.arange(self.spec.positions, device=codes.device)
        h = self.hidden(codes, self.prepare(cond, keep=False), Turn(known, None, len(cells)))
        return self.head.loss(h, codes, SlotNoise.of(noise, codes, cells)).masked_fill(known, 0.0)


class RasterFluid(Fluid, Raster):
    """Row by row, one code per step, with causal attention. A `CausalModel`."""

    def prepare(
        self,
        cond: Cond,
        orders: Tensor | None = None,
        spec: TokenSpec | None = None,
        keep: bool = True,
    ) -> Prepared:
        """Condition and positions of a batch, drawn in `orders`, (N,) or (B, N)."""
        self.draws(spec)
        places = self.cell_pos.weight.unsqueeze(0)
        if orders is not None:
            places = self.cell_pos(orders.to(places.device).view(-1, self.spec.positions))
        return Prepared(self.context(cond, keep), places)

    def once(self, cond: Cond, orders: Tensor | None) -> Prepared:
        return self.prepare(cond, orders, keep=False)

    def cache(self, batch: int, spec: TokenSpec | None = None) -> KVCache:
        """An empty cache for `batch` rows (all branches), in the dtype of the weights."""
        c, weight, length = self.config, self.cell_pos.weight, self.draws(spec).positions
        size = c.dim // c.heads
        return KVCache(c.layers, batch, c.heads, length, size, weight.dtype, weight.device)

    def hidden(
        self, codes: Tensor, cond: Prepared, span: Span, cache: KVCache | None = None
    ) -> Tensor:
        """Hidden states (B, n, D) of a span; reads codes, in the order in which they are drawn, of
        earlier slots only. Without a cache the span must be all slots."""
        before = (span.slots[1:] if span.first else span.slots) - 1
        x = self.embedded(arrange(codes, before)) + arrange(cond.places, before)
        if span.first:
            x = torch.cat((self.blank.expand(len(x), 1, -1), x), 1)
        return self.transform(x, self.view(cond, span), cache)

    def view(self, cond: Prepared, span: Span) -> View:
        if causal(span):
            return View(None, span.first, span, cond.context)
        mask = visible(span)  # (1 or B, 1, n, reach)
        return View(mask, False, span, cond.context)


def fluid(config: FluidConfig) -> Fluid:
    """The model of a configuration, by its order."""
    return RandomFluid(config) if config.order == "random" else RasterFluid(config)


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
