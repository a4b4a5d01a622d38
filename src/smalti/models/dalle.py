"""DALL-E: one stream of a text and a picture, whose codes look at few of those before them.

Ramesh, Pavlov, Goh, Gray, Voss, Radford, Chen, Sutskever 2021, "Zero-Shot Text-to-Image Generation"
(arXiv:2102.12092). Neither code nor weights of the transformer were published, so some of it is as
remembered.

Unusual: a code sees all of the text, and of the codes before it those of the last row's length, or
those of its column, by turns of the layers; in the last layer those in a square around it. The text
is learned too, a little. A place of the text that holds no token holds a padding of its own, which
is learned and is seen; a dropped text is paddings alone. One vocabulary holds ids of tokens,
paddings and codes; as it is known which of them a position holds, each has a table of its own, and
a code is drawn, and learned, among codes.

Letters: B images, T places of the text, N positions, D width, h, w code grid, V codes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.codes import Cond, Reads, Rowwise, Span, TokenSpec
from smalti.config import check
from smalti.heads.categorical import CategoricalHead
from smalti.heads.of_codes import head_of
from smalti.models.generator import GeneratorConfig
from smalti.models.raster_stack import TextLearner, place_of, visible
from smalti.nn.attention import KVCache
from smalti.nn.code_embedding import code_embedding
from smalti.nn.gpt import LN_EPS, Block
from smalti.nn.llama import Place
from smalti.sampling.orders import arrange

Sight = Literal["row", "column", "square"]
"""Which codes a layer looks at."""


@dataclass(frozen=True)
class DALLEConfig(GeneratorConfig):
    grid: tuple[int, int] = (32, 32)
    """Height and width of the code grid."""
    vocab: int = 8192
    """Codes V; 2 with `channels`."""
    channels: int = 0
    """Bits of a code; 0: a code is a number, as published."""
    depth: int = 0
    """Codes at each position, drawn one after another; 0: one."""
    text_length: int = 256
    """Places of the text, T."""
    text_vocab: int = 16384
    """Ids of tokens."""
    text_weight: float = 0.125
    """Share of the text's own loss in training."""
    layers: int = 64
    """Transformer blocks."""
    heads: int = 62
    """Attention heads."""
    dim: int = 3968
    """Width D, a multiple of `heads`; the feed-forward is four times as wide."""
    square: int = 11
    """Side of the square of codes that the last layer looks at, an odd number."""
    dropout: float = 0.0
    """On embeddings and on the outputs of attention and feed-forward."""

    def __post_init__(self) -> None:
        check(
            self,
            pairs=("grid",),
            several=("vocab",),
            counts=("channels", "depth"),
            positive=("text_length", "text_vocab", "layers", "heads", "dim", "square"),
            rates=("text_weight", "dropout"),
            multiple=("dim", "heads"),
        )
        if self.square % 2 == 0:
            raise ValueError(f"square must be an odd number, got {self.square}")

    @property
    def spec(self) -> TokenSpec:
        return TokenSpec((self.grid,), self.vocab, self.depth, self.channels)

    @property
    def sights(self) -> list[Sight]:
        """Which codes each layer looks at: rows, but columns in the second of every four layers,
        and a square in the last."""
        columns: list[Sight] = ["column" if i % 4 == 1 else "row" for i in range(self.layers - 1)]
        return [*columns, "square"]

    def fitted(self, tokenizer: Any, reads: Reads) -> Self:
        """The same with the tokenizer's codes, and the text. Raises ValueError if there is no text
        of ids, or if the model cannot predict such codes."""
        if not reads.text_vocab:
            raise ValueError(
                "DALL-E draws from texts as ids of tokens: take a recipe with such a text encoder, "
                "as emoji_dalle is"
            )
        return super().fitted(tokenizer, reads)


@dataclass
class Prepared(Rowwise):
    """All that no drawn code changes."""

    prefix: Tensor
    """(B, T, D)."""
    cells: Tensor
    """(1, N) the cell, row by row, of the code in each place of the order; (B, N) with an order for
    each row."""


class DALLE(TextLearner):
    """Codes (B, N) given a text. A `CausalModel`; one code per step."""

    NO_DECAY = ("*positions", "paddings")
    config: DALLEConfig

    def __init__(self, config: DALLEConfig) -> None:
        super().__init__()
        self.config, self.spec, dim = config, config.spec, config.dim
        height, width = config.grid
        self.text = nn.Embedding(config.text_vocab, dim)
        self.paddings = nn.Parameter(torch.empty(config.text_length, dim))
        self.text_positions = nn.Parameter(torch.empty(config.text_length, dim))
        self.tok_embeddings = code_embedding(self.spec, dim)
        self.row_positions = nn.Parameter(torch.empty(height, dim))
        self.column_positions = nn.Parameter(torch.empty(width, dim))
        self.layers = nn.ModuleList(
            [Block(dim, config.heads, config.dropout) for _ in range(config.layers)]
        )
        self.norm = nn.LayerNorm(dim, LN_EPS)
        self.head = head_of(self.spec, dim, bias=True)
        if config.text_weight:
            self.text_head = CategoricalHead(dim, config.text_vocab, bias=True)
        self.init_weights()

    def init_weights(self) -> None:
        """Normal(0, 0.02); zeros for biases and for logits, so that any code is as likely."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        self.head.init_weights()
        if self.config.text_weight:
            self.text_head.init_weights()
        for table in (
            self.paddings,
            self.text_positions,
            self.row_positions,
            self.column_positions,
        ):
            nn.init.normal_(table, std=0.02)

    @property
    def reads(self) -> Reads:
        return Reads(0, self.config.text_length, 1, self.config.text_vocab)

    @property
    def reader(self) -> nn.Module:
        return self.text

    # -- reading

    def tokens(self, cond: Cond) -> tuple[Tensor, Tensor]:
        """Ids (B, T) of a batch of texts, and which places hold one, (B, T) bool.

        Raises ValueError if there is no text.
        """
        if cond.text is None or cond.text_mask is None:
            raise ValueError("this model is text-conditional: give text and text_mask")
        known = cond.text_mask.bool()
        if cond.drop is not None:
            known = known & ~cond.drop[:, None]
        return cond.text.squeeze(-1).long().where(known, 0), known

    def prepare(
        self, cond: Cond, orders: Tensor | None = None, spec: TokenSpec | None = None
    ) -> Prepared:
        """What stands in the places of texts, and the cells of codes that are drawn in `orders`,
        (N,) or (B, N)."""
        count = self.draws(spec).positions
        ids, known = self.tokens(cond)
        prefix = torch.where(known[..., None], self.text(ids), self.paddings)  # (B, T, D)
        cells = torch.arange(count, device=ids.device) if orders is None else orders
        return Prepared(prefix + self.text_positions, cells.view(-1, count))

    def cache(self, batch: int, spec: TokenSpec | None = None) -> KVCache:
        """An empty cache for `batch` rows (all branches), in the dtype of the weights."""
        c, weight = self.config, self.paddings
        length = c.text_length + self.draws(spec).positions
        size = (c.layers, batch, c.heads, length, c.dim // c.heads)
        return KVCache(*size, weight.dtype, weight.device)

    def seen(self, span: Span, place: Place, cells: Tensor) -> dict[Sight, Tensor]:
        """What the rows of a span see, in each kind of layer: (1 or B, 1, n, reach) bool. All see
        the text before them; a code sees itself."""
        words, width = self.config.text_length, self.config.grid[1]
        where = F.pad(cells, (words, 0))  # (1 or B, T + N)
        keys = torch.arange(place.reach, device=cells.device)
        mine = arrange(where, place.positions).unsqueeze(2)  # (1 or B, n, 1)
        theirs = where[:, None, : place.reach]  # (1 or B, 1, reach)
        past = visible(span, words - 1).squeeze(1)  # (1 or B, n, reach)
        text, most = keys < words, self.config.square // 2
        back, up = mine - theirs, mine // width - theirs // width
        near: dict[Sight, Tensor] = {
            "row": (back >= 0) & (back < width),
            "column": back % width == 0,
            "square": (up.abs() <= most) & ((mine % width - theirs % width).abs() <= most),
        }
        return {kind: (past & (text | close)).unsqueeze(1) for kind, close in near.items()}

    def sequence(
        self, codes: Tensor, cond: Prepared, span: Span, cache: KVCache | None = None
    ) -> Tensor:
        """Hidden states of a span, and of the text before slot 0 if it is the first."""
        width = self.config.grid[1]
        before = (span.slots[1:] if span.first else span.slots) - 1
        cells = arrange(cond.cells, before)  # (1 or B, n)
        x = self.tok_embeddings(arrange(codes, before))  # (B, n, D)
        x = x + self.row_positions[cells // width] + self.column_positions[cells % width]
        if span.first:
            x = torch.cat((cond.prefix.to(x.dtype), x), 1)  # (B, T - 1 + n, D)
        x = F.dropout(x, self.config.dropout, self.training)
        place = place_of(span, self.config.text_length, None)
        seen = self.seen(span, place, cond.cells)
        for i, (layer, sight) in enumerate(zip(self.layers, self.config.sights, strict=True)):
            x = layer(x, place._replace(mask=seen[sight], causal=False), i, cache)
        return self.norm(x)

    # -- learning

    def text_share(self, x: Tensor, cond: Cond) -> Tensor:
        """Negative log-likelihood of a token behind those before it, the mean of all that the batch
        has, of the states of whole sequences; paddings and dropped texts do not count."""
        ids, known = self.tokens(cond)
        states = x[:, : self.config.text_length - 1]
        nats = self.text_head.loss(states, ids[:, 1:])
        counted = known[:, :-1] & known[:, 1:]
        return (nats * counted).sum() / counted.sum().clamp(min=1)


def tiny() -> DALLEConfig:
    """A model of a few thousand parameters, for tests."""
    return DALLEConfig(
        grid=(4, 4),
        vocab=32,
        text_length=6,
        text_vocab=264,
        text_weight=0.03,
        layers=3,
        heads=2,
        dim=32,
        square=3,
    )


SIZES: dict[str, dict[str, Any]] = {"12B": {"layers": 64, "heads": 62, "dim": 3968}}
"""Layers, heads and width of the published model."""
