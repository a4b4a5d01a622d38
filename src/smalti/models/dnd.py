"""DnD-Transformer: the codes of a stack are drawn between the layers of one Llama, coarse to fine.

Chen, Tan, Wu, Wang, Cai, Bai, Chang, Huang 2024, "A Spark of Vision-Language Intelligence:
2-Dimensional Autoregressive Transformer for Efficient Finegrained Image Generation"
(arXiv:2410.01912).

Unusual: depth costs no steps and no layers. A position passes through the layers once; on the way,
behind each layer of `at`, its next code is predicted, drawn, and added to what the layers above
read. So the cache of a layer holds what was computed with the codes drawn below it, and codes that
are given must be told to the draw itself (`Chance.known`). Layers, prefixes and the rotary table
with rows of ZEROS are LlamaGen's. One table of vectors serves all depths, though each of the
tokenizer's depths has codes of its own.

Letters: B images, T prefix length, N positions, n of one call, D width, V codes of a depth, G
depths.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Self, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.codes import Cond, Draw, Reads, Span, TokenSpec
from smalti.config import check
from smalti.heads.categorical import CategoricalHead
from smalti.models.generator import GeneratorConfig, either
from smalti.models.raster_stack import PrefixedLlama, Prepared
from smalti.nn.attention import KVCache
from smalti.nn.code_embedding import DepthTable
from smalti.nn.llama import Block, feed_forward_width
from smalti.nn.norms import RMSNorm
from smalti.nn.residual import drop_path_rates
from smalti.sampling.chance import Chance
from smalti.sampling.noise import Noise
from smalti.sampling.orders import arrange, restore, scan


@dataclass(frozen=True)
class DnDConfig(GeneratorConfig):
    grid: tuple[int, int] = (16, 16)
    """Height and width of the code grid."""
    vocab: int = 16384
    """Codes of a depth V."""
    depth: int = 2
    """Codes at each position, G."""
    at: tuple[int, ...] = ()
    """The layer, counted from 0, behind which each code is predicted, in ascending order, the last
    layer for the last code; () spreads them over the upper half of the layers."""
    shared_heads: bool = False
    """One classifier for all depths; if not, each has its own."""
    classes: int = 1000
    """Class labels; the null class is one more row. 0 for a text-conditional model."""
    text_length: int = 0
    """Length of the text prefix. 0 for a class-conditional model."""
    text_dim: int = 2048
    """Width of the text features."""
    layers: int = 48
    """Transformer blocks."""
    heads: int = 24
    """Attention heads."""
    kv_heads: int = 0
    """Heads of keys and values, a divisor of `heads`; 0 = as many as `heads`."""
    dim: int = 1536
    """Width D, a multiple of 4 * heads."""
    multiple_of: int = 256
    """The feed-forward width is 8/3 D rounded up to a multiple of this."""
    ffn_multiplier: float = 1.0
    """Factor on the feed-forward width before rounding."""
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
        check(
            self,
            pairs=("grid",),
            several=("vocab",),
            positive=("depth", "layers", "heads", "dim", "multiple_of", "text_dim"),
            counts=("classes", "text_length", "kv_heads"),
            rates=("dropout", "drop_path"),
            above_zero=("norm_eps", "rope_base", "ffn_multiplier"),
        )
        either(self)
        if self.dim % (4 * self.heads):
            raise ValueError(f"dim must be a multiple of 4 * heads, got {self.dim}, {self.heads}")
        if self.heads % (self.kv_heads or self.heads):
            raise ValueError(f"kv_heads must divide heads {self.heads}, got {self.kv_heads}")
        if self.depth > self.layers:
            raise ValueError(f"depth must be at most layers {self.layers}, got {self.depth}")
        places = self.places
        rising = sorted({*places}) == list(places) and places[0] >= 0
        if len(places) != self.depth or not rising or places[-1] != self.layers - 1:
            raise ValueError(
                f"at must be () or {self.depth} layers in ascending order, the last of them "
                f"{self.layers - 1}, got {self.at}"
            )
        scan(self.order, self.grid)

    @property
    def spec(self) -> TokenSpec:
        return TokenSpec((self.grid,), self.vocab, self.depth)

    @property
    def places(self) -> tuple[int, ...]:
        """The layer behind which each code is predicted."""
        step, last = max(self.layers // (2 * self.depth), 1), self.layers - 1
        return self.at or tuple(last - step * d for d in reversed(range(self.depth)))

    @property
    def head_dim(self) -> int:
        return self.dim // self.heads

    @property
    def prefix(self) -> int:
        """T: one class token or the text."""
        return self.text_length or 1

    @property
    def ffn_dim(self) -> int:
        return feed_forward_width(self.dim, self.multiple_of, self.ffn_multiplier)

    def fitted(self, tokenizer: Any, reads: Reads) -> Self:
        """As of any model; for another depth than its own the codes are spread anew over the
        layers."""
        self.check_stack(tokenizer)
        at = self.at if tokenizer.spec.depth == self.depth else ()
        return super(type(self), replace(self, depth=tokenizer.spec.depth, at=at)).fitted(
            tokenizer, reads
        )


class Classifiers(nn.Module):
    """What codes are predicted with: for each depth a norm, and a classifier of its own or the one
    that all share."""

    def __init__(self, config: DnDConfig) -> None:
        super().__init__()
        norms = [RMSNorm(config.dim, config.norm_eps) for _ in range(config.depth)]
        count = 1 if config.shared_heads else config.depth
        parts = [CategoricalHead(config.dim, config.vocab) for _ in range(count)]
        self.norms, self.parts = nn.ModuleList(norms), nn.ModuleList(parts)

    def init_weights(self) -> None:
        """Zeros: any code is as likely as any other."""
        for part in self.parts:
            cast(CategoricalHead, part).init_weights()

    def at(self, depth: int) -> CategoricalHead:
        """The classifier of a depth."""
        return cast(CategoricalHead, self.parts[min(depth, len(self.parts) - 1)])


class DnD(PrefixedLlama):
    """Stacks of codes (B, N, G), given a class or a text. A `CausalModel`; one stack a step."""

    between = True
    config: DnDConfig
    head: Classifiers

    def __init__(self, config: DnDConfig) -> None:
        super().__init__()
        self.config, self.spec, self.prefix = config, config.spec, config.prefix
        dim = config.dim
        self.tok_embeddings = DepthTable((config.vocab,) * config.depth, dim, shared=True)
        self.make_prefix()
        rates = drop_path_rates(config.drop_path, config.layers)
        self.layers = nn.ModuleList([Block(config, rate) for rate in rates])
        self.head = Classifiers(config)
        ends = [place + 1 for place in config.places]
        self.stages = [range(*pair) for pair in zip([0, *ends], ends, strict=False)]
        self.init_weights()

    def passed(
        self,
        codes: Tensor,
        cond: Prepared,
        span: Span,
        cache: KVCache | None,
        choose: Callable[[int, Tensor], Tensor],
        depth: int = 0,
    ) -> Tensor:
        """The way of a span through the layers: `choose` gives the codes of each depth,
        (branches * B, n), of what they are predicted from, (branches * B, n, D), which is returned
        of the last one. With `depth` only that many codes are chosen."""
        count, last = span.slots.shape[-1], depth or self.config.depth
        x = self.rows(codes, cond.prefix, span)  # (B, n, D), at first (B, T - 1 + n, D)
        x = F.dropout(x, self.config.dropout, self.training)
        place, h = self.place(cond, span), x
        for d in range(last):
            for i in self.stages[d]:
                x = self.layers[i](x, place, i, cache)
            h = self.head.norms[d](x[:, -count:])  # (B, n, D)
            ids = choose(d, h)
            if d + 1 < last:
                seen = self.tok_embeddings.each(ids.unsqueeze(-1), d).squeeze(-2)  # (B, n, D)
                before = x.shape[1] - count  # rows of a text, which hold no code
                x = x + (F.pad(seen, (0, 0, before, 0)) if before else seen)
        return h

    def hidden(
        self, codes: Tensor, cond: Prepared, span: Span, cache: KVCache | None = None
    ) -> Tensor:
        """Hidden states (B, n, D) of a span, from which the first code of each position is
        predicted; reads codes (B, N, G), in the order in which they are drawn, of earlier slots
        only. Without a cache the span must be all slots."""
        return self.passed(codes, cond, span, cache, lambda d, h: codes[:, :1, d], depth=1)

    def logits(self, codes: Tensor, cond: Prepared, span: Span) -> list[Tensor]:
        """Of each depth, given the codes (B, N, G) before it, (B, n, V) float32."""
        found, given = list[Tensor](), arrange(codes, span.slots)

        def told(d: int, h: Tensor) -> Tensor:
            found.append(self.head.at(d).logits(h))
            return given[..., d]

        self.passed(codes, cond, span, None, told)
        return found

    def draw(
        self, codes: Tensor, cond: Prepared, span: Span, cache: KVCache | None, chance: Chance
    ) -> Draw:
        """Draw the codes of a span, (B, n, G)."""
        guide, depth, known = chance.guide, self.config.depth, chance.known
        parts, logps = list[Tensor](), list[Tensor]()

        def chosen(d: int, h: Tensor) -> Tensor:
            logits = chance.filters.at(d, depth)(self.head.at(d).merged(h, guide))
            ids, logp = chance.noise.draw(logits, d, depth, d * logits.shape[-1])
            if known is not None:
                ids = torch.where(known.mask, known.codes[..., d], ids)
            parts.append(ids)
            logps.append(logp)
            return guide.tile(ids)

        h = self.passed(guide.tile(codes), cond, span.tile(guide), cache, chosen)
        return Draw(torch.stack(parts, -1), torch.stack(logps).sum(0), h)

    def loss(
        self, codes: Tensor, cond: Cond, orders: Tensor | None = None, noise: Noise | None = None
    ) -> Tensor:
        """Negative log-likelihood of codes (B, N, G), predicted in `orders`, at each position, the
        sum over its depths: (B, N) in nats. Codes and loss are row by row."""
        orders = self.order() if orders is None else orders
        codes, nats = arrange(codes, orders), list[Tensor]()

        def told(d: int, h: Tensor) -> Tensor:
            nats.append(self.head.at(d).loss(h, codes[..., d]))
            return codes[..., d]

        span = Span.whole(self.spec.positions, codes.device)
        self.passed(codes, self.once(cond, orders), span, None, told)
        return restore(torch.stack(nats).sum(0), orders)


def tiny() -> DnDConfig:
    """A model of a few thousand parameters, for tests."""
    return DnDConfig(
        grid=(4, 4), vocab=32, classes=5, layers=3, heads=2, dim=32, multiple_of=32, dropout=0.0
    )


def _sized(layers: int, heads: int, dim: int, *at: int) -> dict[str, Any]:
    return {"layers": layers, "heads": heads, "dim": dim, "depth": len(at), "at": at}


SIZES: dict[str, dict[str, Any]] = {
    "XXL": _sized(48, 24, 1536, 39, 47),
    "XXXL": _sized(48, 32, 2048, 39, 47),
    "XXL-64": _sized(64, 28, 1792, 55, 63),
}
"""Layers, heads, width and the layers of two depths of every published size."""
