"""Open-MAGVIT2: a Llama in raster order whose codes are bits, drawn in groups.

Luo et al. 2024, "Open-MAGVIT2: An Open-Source Project Toward Democratizing Auto-regressive Visual
Generation" (arXiv:2409.04410).

Unusual: a vocabulary of 2^18 has neither a table nor a softmax of that size. A code is read as the
sum of a row for each group of its bits, and drawn group by group: the head is a transformer over
the groups (`heads/factorised.py`), behind one over the picture. Both have LlamaGen's layers, and
LlamaGen's rotary table with a row of ZEROS for the class, whose query and key so vanish. Codes may
also be numbers below a power of two, of which the bits are grouped.

Letters: B images, N positions, D width, H heads, K bits.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

from torch import Tensor, nn
from torch.nn import functional as F

from smalti.arguments import an
from smalti.codes import Cond, Reads, Span, TokenSpec
from smalti.config import check
from smalti.heads.factorised import FactorisedHead
from smalti.models.generator import GeneratorConfig, held
from smalti.models.raster_stack import Prepared, RasterLlama
from smalti.nn.attention import KVCache
from smalti.nn.groups import Groups, code_bits
from smalti.nn.llama import Block, feed_forward_width
from smalti.nn.residual import drop_path_rates
from smalti.sampling.orders import scan


@dataclass(frozen=True)
class OpenMAGVIT2Config(GeneratorConfig):
    grid: tuple[int, int] = (16, 16)
    """Height and width of the code grid."""
    vocab: int = 2
    """Codebook entries, a power of two; 2 with `channels`."""
    channels: int = 18
    """Bits K of a code; 0: a code is a number."""
    groups: tuple[int, ...] = (6, 12)
    """Bits of each group; where a tokenizer's codes have more or fewer, so many groups share them
    evenly."""
    classes: int = 1000
    """Class labels; the null class is one more row."""
    layers: int = 24
    """Transformer blocks over the picture."""
    intra_layers: int = 2
    """Transformer blocks over the groups of a code."""
    heads: int = 16
    """Attention heads of both."""
    dim: int = 1024
    """Width D of both, a multiple of 4 * heads."""
    multiple_of: int = 256
    """The feed-forward width is 8/3 D rounded up to a multiple of this."""
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
    guidance_ratios: tuple[float, ...] = ()
    """How many times as far guidance leads away from 1 for each group; () is once."""
    temperature_ratios: tuple[float, ...] = ()
    """How many times as high the temperature of each group is; () is once."""

    def __post_init__(self) -> None:
        sizes = ("classes", "layers", "intra_layers", "heads", "dim", "multiple_of")
        check(self, pairs=("grid",), positive=sizes, several=("vocab",), counts=("channels",))
        check(self, rates=("dropout", "drop_path"), above_zero=("norm_eps", "rope_base"))
        if self.dim % (4 * self.heads):
            raise ValueError(f"dim must be a multiple of 4 * heads, got {self.dim}, {self.heads}")
        scan(self.order, self.grid)
        Groups(self.spec, self.groups)
        for name, least in (("guidance_ratios", 0.0), ("temperature_ratios", 1e-9)):
            ratios: tuple[float, ...] = getattr(self, name)
            good = all(least <= ratio < float("inf") for ratio in ratios)
            if ratios and (len(ratios) != len(self.groups) or not good):
                allowed = "a positive number" if least else "0 or more"
                raise ValueError(
                    f"{name} must be {allowed} for each of the {len(self.groups)} groups, or (), "
                    f"got {ratios}"
                )

    @property
    def spec(self) -> TokenSpec:
        return TokenSpec((self.grid,), self.vocab, channels=self.channels)

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

    def fitted(self, tokenizer: Any, reads: Reads) -> Self:
        """The same with what the tokenizer's codes and the condition decide.

        Raises ValueError if the codes are not bits, or numbers below a power of two.
        """
        spec: TokenSpec = tokenizer.spec
        if len(spec.grids) > 1 or not spec.discrete:
            return super().fitted(tokenizer, reads)
        try:
            groups = shared(code_bits(spec), self.groups)
        except ValueError:
            raise ValueError(
                f"{self.name} predicts groups of bits, which needs codes of bits or numbers below "
                f"a power of two, but the tokenizer, {an(type(tokenizer).__name__)}, gives "
                f"{held(spec)}"
            ) from None
        ratios = {}
        if len(groups) != len(self.groups):
            ratios = {"guidance_ratios": (), "temperature_ratios": ()}
        codes = {"vocab": spec.vocab, "channels": spec.channels, "groups": groups}
        return super(type(self), replace(self, **codes, **ratios)).fitted(tokenizer, reads)


def shared(bits: int, groups: tuple[int, ...]) -> tuple[int, ...]:
    """The groups, or as many, but none of them empty, that share `bits` evenly, the last ones the
    odd bits."""
    if sum(groups) == bits:
        return groups
    count = min(len(groups), bits)
    return tuple((bits + i) // count for i in range(count))


class OpenMAGVIT2(RasterLlama):
    """Bits (B, N, K), or numbers (B, N), given a class. A `CausalModel`; one code a step."""

    config: OpenMAGVIT2Config

    def __init__(self, config: OpenMAGVIT2Config) -> None:
        super().__init__()
        self.config, self.spec = config, config.spec
        self.cls_embedding = nn.Embedding(config.classes + 1, config.dim)
        rates = drop_path_rates(config.drop_path, config.layers)
        self.layers = nn.ModuleList([Block(config, rate) for rate in rates])
        self.head = FactorisedHead(
            Groups(self.spec, config.groups),
            config,
            config.intra_layers,
            config.rope_base,
            config.guidance_ratios,
            config.temperature_ratios,
        )
        self.init_weights()

    @property
    def depths(self) -> int:
        return len(self.config.groups)

    def init_weights(self) -> None:
        """Normal(0, 0.02) everywhere; zero logits, so that the first loss is K ln 2."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
        self.head.init_weights()

    def prepare(
        self, cond: Cond, orders: Tensor | None = None, spec: TokenSpec | None = None
    ) -> Prepared:
        """Class embeddings and rotary rows of a batch of conditions, drawn in `orders`, (N,) or
        (B, N), on the grid of `spec`."""
        spec = self.draws(spec)
        label = self.cls_embedding(cond.class_ids(null=self.config.classes)).unsqueeze(1)
        return Prepared(label, self.turns(spec, orders, label.device), None)

    def read(self, codes: Tensor) -> Tensor:
        return self.head.embed(codes)

    def hidden(
        self, codes: Tensor, cond: Prepared, span: Span, cache: KVCache | None = None
    ) -> Tensor:
        """Hidden states (B, n, D) of a span; reads codes (B, N, *trailing), in the order in which
        they are drawn, of earlier slots only. Without a cache the span must be all slots."""
        x = self.rows(codes, cond.prefix, span)  # (B, n, D)
        x = F.dropout(x, self.config.dropout, self.training)
        place = self.place(cond, span)
        for i, layer in enumerate(self.layers):
            x = layer(x, place, i, cache)
        return x  # the head normalises


def tiny() -> OpenMAGVIT2Config:
    """A model of a few thousand parameters, for tests."""
    return OpenMAGVIT2Config(
        grid=(4, 4),
        channels=5,
        groups=(2, 3),
        classes=5,
        layers=2,
        intra_layers=1,
        heads=2,
        dim=32,
        multiple_of=32,
        dropout=0.0,
    )


def _sized(layers: int, intra_layers: int, heads: int, dim: int) -> dict[str, Any]:
    return {"layers": layers, "intra_layers": intra_layers, "heads": heads, "dim": dim}


SIZES: dict[str, dict[str, Any]] = {
    "B": _sized(24, 2, 16, 1024),
    "L": _sized(36, 3, 20, 1280),
    "XL": _sized(48, 4, 24, 1536),
}
"""Layers, heads and width of every published size."""
