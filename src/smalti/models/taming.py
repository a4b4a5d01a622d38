"""The GPT of taming-transformers: codes of a picture behind codes of its condition.

Esser, Rombach and Ommer 2020, "Taming Transformers for High-Resolution Image Synthesis"
(arXiv:2012.09841).

Unusual: one table for all: class 207 is the row of code 207, and so are codes of a map, a picture
that another tokenizer made codes of. Positions are learned and count the sequence, not the grid, so
that a larger picture can be drawn by a window that is moved over it: each code from the part of the
picture around it, of which what is above and to the left is drawn.

Letters: B images, T codes of the condition, N positions, D width, H heads, V codes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.codes import Cond, Reads, Rowwise, Span, TokenSpec
from smalti.config import check
from smalti.heads.categorical import CategoricalHead
from smalti.models.generator import GeneratorConfig
from smalti.models.raster_stack import Raster, place_of, visible
from smalti.nn.attention import KVCache
from smalti.nn.code_embedding import NumberEmbedding
from smalti.nn.gpt import LN_EPS, Block
from smalti.nn.llama import Place
from smalti.sampling.noise import Noise
from smalti.sampling.orders import scan


@dataclass(frozen=True)
class TamingConfig(GeneratorConfig):
    grid: tuple[int, int] = (16, 16)
    """Height and width in codes; of larger pictures, of the window."""
    vocab: int = 16384
    """Codebook entries V."""
    classes: int = 1000
    """Class labels; 1: pictures of one kind; 0: the condition is a map."""
    map_grid: tuple[int, ...] = ()
    """Height and width in codes of a map that is the condition; (): none is."""
    map_vocab: int = 0
    """Codebook entries of the map's tokenizer."""
    places: int = 0
    """Where the condition is the place of each code in its picture (`classes` is 1 then): into so
    many numbers the picture is divided, 1024 as published; 0: it is not."""
    cell: int = 16
    """Pixels of a code along one side; with `places`."""
    first: int = 0
    """The code whose row class 0 has; the next class has the next one."""
    unmasked: int = 0
    """So many codes of the condition, from the first on, see each other in both directions, or all
    if it has fewer."""
    keep: float = 1.0
    """Share of the codes of a picture that training reads as they are; the others are random."""
    order: str = "row-major"
    """In which codes are drawn, one of `sampling.orders`."""
    layers: int = 48
    """Transformer blocks."""
    heads: int = 24
    """Attention heads."""
    dim: int = 1536
    """Width D, a multiple of `heads`; the feed-forward is four times as wide."""
    dropout: float = 0.0
    """On embeddings and on the outputs of attention and feed-forward."""
    attention_dropout: float = 0.0
    """On the probabilities of attention."""

    def __post_init__(self) -> None:
        check(
            self,
            pairs=("grid", "map_grid") if self.map_grid else ("grid",),
            several=("vocab",),
            positive=("cell", "layers", "heads", "dim"),
            counts=("classes", "map_vocab", "places", "first", "unmasked"),
            shares=("keep",),
            rates=("dropout", "attention_dropout"),
            multiple=("dim", "heads"),
        )
        if not self.keep:
            raise ValueError(f"keep must be above 0, got {self.keep}")
        if bool(self.classes) == bool(self.map_grid) or (self.places and self.classes != 1):
            raise ValueError(
                "the condition must be a class, a map, or with one class the places of codes, got "
                f"classes {self.classes}, map_grid {self.map_grid}, places {self.places}"
            )
        if self.map_grid and self.map_vocab < 2:
            raise ValueError(f"map_vocab must be at least 2, got {self.map_vocab}")
        scan(self.order, self.grid)

    @property
    def spec(self) -> TokenSpec:
        return TokenSpec((self.grid,), self.vocab)

    @property
    def map(self) -> TokenSpec | None:
        """The codes of a map that is the condition."""
        if not self.map_grid:
            return None
        height, width = self.map_grid
        return TokenSpec(((height, width),), self.map_vocab)

    @property
    def prefix(self) -> int:
        """T."""
        return self.spec.positions if self.places else self.map.positions if self.map else 1

    @property
    def rows(self) -> int:
        """Rows of the table: as many as there are codes, or more if the condition has more."""
        return max(self.vocab, self.map_vocab, self.first + self.classes, self.places)

    @property
    def head_dim(self) -> int:
        return self.dim // self.heads

    def fitted(self, tokenizer: Any, reads: Reads) -> Self:
        """The same with what the tokenizer's codes and the condition decide.

        Raises ValueError if the model cannot predict such codes, or has another condition.
        """
        return super().fitted(tokenizer, reads).with_known(cell=tokenizer.factor)


@dataclass
class Prepared(Rowwise):
    """All that no drawn code changes."""

    prefix: Tensor
    """(B, T, D); of a larger picture the condition of all of it."""
    grid: tuple[int, int] | None = None
    """Height and width of a larger picture."""


class Taming(Raster):
    """Codes (B, N) given a class, a map or the places of codes. A `CausalModel`; one code per
    step."""

    NO_DECAY = ("positions", "tok_embeddings.*")
    config: TamingConfig

    def __init__(self, config: TamingConfig) -> None:
        super().__init__()
        self.config, self.spec = config, config.spec
        self.windows = self.order() is None and config.map_grid in ((), config.grid)
        self.tok_embeddings = NumberEmbedding(config.rows, config.dim, hidden=True)
        length = config.prefix + config.spec.positions - 1
        self.positions = nn.Parameter(torch.empty(length, config.dim))
        width, heads, rate = config.dim, config.heads, config.dropout
        self.layers = nn.ModuleList(
            [
                Block(width, heads, rate, attention_dropout=config.attention_dropout)
                for _ in range(config.layers)
            ]
        )
        self.norm = nn.LayerNorm(config.dim, LN_EPS)
        self.head = CategoricalHead(config.dim, config.vocab)
        self.init_weights()

    def init_weights(self) -> None:
        """Normal(0, 0.02), zeros for positions and biases; zeros for the logits too, so that any
        code is as likely at first."""
        nn.init.zeros_(self.positions)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        self.head.init_weights()

    @property
    def reads(self) -> Reads:
        return Reads(self.config.classes, map=self.config.map)

    @property
    def reader(self) -> nn.Module:
        return self.tok_embeddings

    @property
    def random_loss(self) -> bool:
        return self.config.keep < 1

    def order(self, spec: TokenSpec | None = None) -> Tensor | None:
        return scan(self.config.order, (spec or self.spec).grids[0])

    def prepare(
        self, cond: Cond, orders: Tensor | None = None, spec: TokenSpec | None = None
    ) -> Prepared:
        """What stands before the codes on the grid of `spec`; `orders` change nothing of it."""
        spec = self.draws(spec)
        ids = self.condition(cond, spec.grids[0])  # (B, T)
        known = None if cond.drop is None else ~cond.drop[:, None].expand_as(ids)
        prefix = self.tok_embeddings(ids, known)  # (B, T, D)
        return Prepared(prefix, spec.grids[0] if self.by_windows(spec) else None)

    def condition(self, cond: Cond, grid: tuple[int, int]) -> Tensor:
        """The rows of the table that a condition is, for a picture of such a grid: (B, T)."""
        config = self.config
        if config.places:
            ids = places(grid, config.cell, config.places).to(cond.device)
            return ids.expand(cond.batch, -1)
        if not config.map_grid:
            return config.first + cond.class_ids(null=0).unsqueeze(1)
        if cond.map is None:
            raise ValueError("this model draws from a map: give map")
        height, width = grid if self.windows else config.map_grid
        if cond.map.shape[1] != height * width:
            raise ValueError(f"map must be {height * width} codes, got {cond.map.shape[1]}")
        return cond.map

    def cache(self, batch: int, spec: TokenSpec | None = None) -> KVCache:
        """An empty cache for `batch` rows (all branches), in the dtype of the weights. Windows that
        move find nothing in it: positions are those of the window."""
        c, weight = self.config, self.positions
        layers = 0 if self.by_windows(spec) else c.layers
        length = len(weight)
        return KVCache(layers, batch, c.heads, length, c.head_dim, weight.dtype, weight.device)

    def shown(self, codes: Tensor, noise: Noise | None) -> Tensor:
        """Codes (B, N), in training some of them random ones."""
        if not self.training or not self.random_loss or noise is None:
            return codes
        numbers = noise.uniform(torch.arange(codes.shape[1], device=codes.device), 2, step=1)
        kept, other = numbers.unbind(-1)  # (B, N)
        return torch.where(kept < self.config.keep, codes, (other * self.config.vocab).long())

    def hidden(
        self, codes: Tensor, cond: Prepared, span: Span, cache: KVCache | None = None
    ) -> Tensor:
        """Hidden states (B, n, D) of a span; reads codes (B, N), in the order in which they are
        drawn, of earlier slots only. Without a cache the span must be all slots."""
        if cond.grid is not None:
            return self.in_windows(codes, cond, span.slots)
        return self.through(self.rows(codes, cond.prefix, span), span, cache)

    def through(self, x: Tensor, span: Span, cache: KVCache | None) -> Tensor:
        """Rows (B, n, D), of a first span (B, T - 1 + n, D), through all layers: (B, n, D)."""
        place = self.place(span)
        x = x + self.positions[place.positions]
        x = F.dropout(x, self.config.dropout, self.training)
        for i, layer in enumerate(self.layers):
            x = layer(x, place, i, cache)
        return self.norm(x[:, -span.slots.shape[-1] :])

    def place(self, span: Span) -> Place:
        """Where the rows of a span stand in the sequence, and what they see."""
        place = place_of(span, self.config.prefix, None)
        whole = min(self.config.unmasked, self.config.prefix)
        if not span.first or whole < 2:
            return place
        keys = torch.arange(place.reach, device=place.positions.device)
        both = (place.positions[:, None] < whole) & (keys < whole)  # (n, reach)
        return place._replace(mask=visible(span, self.config.prefix - 1) | both, causal=False)

    def in_windows(self, codes: Tensor, cond: Prepared, slots: Tensor) -> Tensor:
        """Hidden states (B, n, D) of slots, (n,) or (B, n), of a larger picture."""
        if slots.dim() == 1:
            each = [self.in_window(codes, cond, slot) for slot in slots.tolist()]
            return torch.cat(each, 1)
        h = cond.prefix.new_empty(*slots.shape, self.config.dim)
        for slot in slots.unique().tolist():
            rows, columns = (slots == slot).nonzero(as_tuple=True)
            h[rows, columns] = self.in_window(codes[rows], cond.rows(rows), slot)[:, 0]
        return h

    def in_window(self, codes: Tensor, cond: Prepared, slot: int) -> Tensor:
        """The hidden state (B, 1, D) of a slot of a larger picture. Of its window only the
        condition and the codes before the slot are computed."""
        assert cond.grid is not None
        cells, local = (t.to(codes.device) for t in window(cond.grid, self.config.grid, slot))
        prefix = cond.prefix if self.config.prefix == 1 else cond.prefix[:, cells]
        span = Span.whole(int(local) + 1, codes.device)
        return self.through(self.rows(codes[:, cells], prefix, span), span, None)[:, -1:]


def places(grid: tuple[int, int], cell: int, numbers: int) -> Tensor:
    """The place of each code of a picture, (1, h * w) int64 below `numbers`: the share of the
    picture's pixels that come before those of the code, in the mean, row by row."""
    height, width = (torch.arange(n, dtype=torch.float64) * cell + (cell - 1) / 2 for n in grid)
    before = height[:, None] * (grid[1] * cell) + width  # (h, w)
    share = before / (grid[0] * grid[1] * cell**2)
    return (share * numbers).round().long().clamp(max=numbers - 1).view(1, -1)


def window(grid: tuple[int, int], own: tuple[int, int], slot: int) -> tuple[Tensor, Tensor]:
    """The cells of a grid that are in the window of a slot, row by row, (N,), and which of them the
    slot is. The window has the slot in its middle, or as near to that as the picture's edges
    allow."""
    starts, locals = list[int](), list[int]()
    for at, size, sees in zip(divmod(slot, grid[1]), grid, own, strict=True):
        start = min(max(at - sees // 2, 0), size - sees)
        starts.append(start)
        locals.append(at - start)
    rows, columns = (torch.arange(n) + start for n, start in zip(own, starts, strict=True))
    cells = rows[:, None] * grid[1] + columns
    return cells.flatten(), torch.tensor(locals[0] * own[1] + locals[1])


def tiny() -> TamingConfig:
    """A model of a few thousand parameters, for tests."""
    return TamingConfig(grid=(4, 4), vocab=32, classes=5, layers=2, heads=2, dim=32)


SIZES: dict[str, dict[str, Any]] = {
    "faces": {"layers": 24, "heads": 16, "dim": 1024},
    "imagenet": {"layers": 48, "heads": 24, "dim": 1536},
}
"""Layers, heads and width of the published sizes."""
