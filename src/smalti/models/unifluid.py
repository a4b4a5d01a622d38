"""UniFluid: a language model that reads pictures by an eye and draws them as vectors, one by one.

Fan et al. 2025, "Unified Autoregressive Visual Generation and Understanding with Continuous Tokens"
(arXiv:2503.13436). There is no official code. Of the paper's summary: a decoder of the Gemma
series, text that is written id by id beside latents that a small diffusion head draws one after
another, in raster or in random order, an eye of its own for what is read, and a weight that
balances both losses. [M], remembered only: Gemma 2 of 2 B parameters, the latents and the head of
Fluid, SigLIP so400m at 448 pixels behind an MLP. Not known and decided here: the ids around a
picture, and where the positions of latents are added.

Unusual: causal attention in any order. What stands in a row says where it belongs, and also which
position comes next, so that the same trunk draws in raster order, in another order for each
picture, or what is missing behind all that is known.

Unusual, of training: a picture that is learned stands in its row in an order of its own; what is
only read is seen whole before, by the eye.

Letters: B rows, L positions, n of one call, D width, V ids, C numbers of a vector, N vectors of a
picture, P pictures of all rows, E numbers that the eye sees.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.codes import Cond, Draw, Span, TokenSpec
from smalti.config import check
from smalti.heads.diffusion import DiffusionConfig, DiffusionHead
from smalti.models.eye import Sight
from smalti.models.janus import Aligner
from smalti.models.language import Language, LanguageConfig
from smalti.models.language import tiny as tiny_language
from smalti.models.on_language import OnLanguage
from smalti.models.one_vocabulary import place_of
from smalti.models.unified import Context, InTurn, Marks, Term, UnifiedConfig, behind, places
from smalti.nn.attention import KVCache
from smalti.nn.linear import Linear
from smalti.sampling.chance import Chance
from smalti.sampling.noise import Noise, SlotNoise
from smalti.sampling.orders import arrange
from smalti.sampling.solvers import Solver
from smalti.text.sequence import Between, Rows

GEMMA_2B = LanguageConfig(
    256_000, 26, 8, 2304, 9216, kv_heads=4, head_dim=256, norm_eps=1e-6, feed_forward="gelu",
    tied=True, embedding_scale=2304**0.5,
)  # fmt: skip
"""Sizes of Gemma 2 of 2 B parameters, in the layers of the first Gemma: without a second pair of
norms in each, limits of logits, and windows."""
ORDER = 1
"""A step of the noise of rows: the orders of their pictures."""


@dataclass(frozen=True)
class UniFluidConfig(UnifiedConfig):
    """A language model, and what pictures are on the way in and on the way out."""

    language: LanguageConfig = field(default_factory=lambda: GEMMA_2B)
    grid: tuple[int, int] = (16, 16)
    """Height and width of a picture in vectors."""
    channels: int = 16
    """C, numbers of a vector."""
    order: Literal["random", "raster"] = "random"
    """Whether each picture is learned in an order of its own, or all of them row by row."""
    head: DiffusionConfig = field(default_factory=DiffusionConfig)
    """What draws a vector."""
    seen_grid: tuple[int, int] = (32, 32)
    """Height and width of what the eye gives."""
    seen_dim: int = 1152
    """E, numbers that it gives at each position."""
    seen_layers: int = 2
    """Layers of the MLP behind the eye."""
    begin: int = 7
    """The id before a picture."""
    end: int = 8
    """The id after a picture."""
    marks: Marks = field(default_factory=lambda: Marks(2, (1,), 0))
    """Ids that stand for no text."""
    length: int = 4096
    """Positions of a document, at most."""

    def __post_init__(self) -> None:
        sizes = ("channels", "seen_dim", "seen_layers", "length")
        check(self, pairs=("grid", "seen_grid"), positive=sizes, counts=("begin", "end"))
        if max(self.begin, self.end) >= self.language.vocab:
            raise ValueError(
                f"begin and end must be below the {self.language.vocab} ids of the vocabulary, "
                f"got {self.begin} and {self.end}"
            )

    @property
    def spec(self) -> TokenSpec:
        """The numbers of a picture."""
        return TokenSpec((self.grid,), channels=self.channels)

    @property
    def sight(self) -> Sight:
        """What the eye gives, as it is."""
        return Sight(TokenSpec((self.seen_grid,), channels=self.seen_dim))

    def fitted(self, spec: TokenSpec, words: int, marks: Marks) -> Self:
        """The ids that begin and end a picture follow the words."""
        return replace(
            self,
            language=replace(self.language, vocab=words + 2),
            grid=self.check_spec(spec),
            channels=spec.channels,
            begin=words,
            end=words + 1,
            marks=marks,
        )

    def seeing(self, sight: Sight) -> Self:
        grid, *_ = sight.spec.grids
        found = replace(self, seen_grid=grid, seen_dim=sight.spec.channels)
        found.sight.require(sight)
        return found

    @property
    def wrapping(self) -> Between:
        """How pictures are written: as vectors, whether they are drawn or seen."""
        around = (self.begin, self.end)
        return Between(around=around, seen=Between(around=around))


class UniFluid(OnLanguage):
    """Rows of ids, of vectors and of what an eye sees to the ids and the vectors that come next."""

    NO_DECAY = ("*tok_embeddings.*", "cell_pos.*", "next_pos.*")
    kinds = ("text", "diffusion")
    config: UniFluidConfig

    def __init__(self, config: UniFluidConfig) -> None:
        super().__init__()
        self.config, self.spec, self.wrapping = config, config.spec, config.wrapping
        self.marks, self.sight = config.marks, config.sight
        self.any_order = config.order == "random"
        dim, positions = config.language.dim, config.spec.positions
        self.language = Language(config.language)
        self.aligner = Aligner(config.seen_dim, dim, config.seen_layers, "none")
        self.vector_proj = Linear(config.channels, dim)
        self.cell_pos = nn.Embedding(positions, dim)
        self.next_pos = nn.Embedding(positions, dim)
        self.head = DiffusionHead(dim, config.channels, config.head)
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        """The language model and the head as always. What stands for pictures, and their positions,
        are as large as the vectors of ids where numbers have variance 1."""
        self.language.init_weights()
        self.head.init_weights()
        size = 0.02 * self.config.language.embedding_scale
        for layer in (*self.aligner.layers, self.vector_proj):
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5)  # type: ignore[arg-type]
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        for last in (*self.aligner.layers[-1:], self.vector_proj):
            last.get_parameter("weight").mul_(size)
        for table in (self.cell_pos, self.next_pos):
            nn.init.normal_(table.weight, std=size)

    def check_solver(self, solver: Solver) -> None:
        self.head.way(solver)

    def embed(self, rows: Rows, begin: int, end: int) -> Tensor:
        """What stands at the positions from `begin` to `end`, (B, n, D): an id, a vector with its
        place, or what is seen, and the place of the vector that comes next."""
        here, after = slice(begin, end), slice(begin + 1, end + 1)
        ids, seen = rows.ids[:, here], rows.seen[:, here]
        x = self.language.embed(ids.clamp(min=0))
        features = x.new_zeros(0, self.config.seen_dim)  # every layer has a gradient, if it is zero
        if rows.features is not None:
            features = rows.features[:, here][seen].to(x.dtype)
        x = x.masked_scatter(seen.unsqueeze(-1), self.aligner(features).to(x.dtype))
        vectors = x.new_zeros(*ids.shape, self.config.channels)
        if rows.vectors is not None:
            vectors = rows.vectors[:, here].to(x.dtype)
        drawn = F.pad(rows.drawn, (0, 1))
        cells = rows.cells[..., 0] * self.config.grid[1] + rows.cells[..., 1]
        cells = F.pad(cells, (0, 1)).where(drawn, 0)
        vectors = self.vector_proj(vectors) + self.cell_pos(cells[:, here])  # (B, n, D)
        x = vectors.to(x.dtype).where(drawn[:, here].unsqueeze(-1), x)
        return x + self.next_pos(cells[:, after]).to(x.dtype) * drawn[:, after].unsqueeze(-1)

    def read(self, rows: Rows, begin: int, end: int, cache: KVCache | None) -> Tensor:
        place = place_of(self.language, rows, begin, end)
        return self.language(self.embed(rows, begin, end), place, cache)

    def reordered(self, rows: Rows, noise: Noise) -> Rows:
        """Rows whose pictures that are drawn stand each in an order of its own."""
        if rows.vectors is None or not self.any_order:
            return rows
        drawn, count = rows.drawn, self.spec.positions
        slots = torch.arange(rows.ids.shape[1], device=rows.ids.device)
        orders = noise.uniform(slots, step=ORDER)[drawn].view(-1, count).argsort(-1)  # (P, N)

        def put(values: Tensor) -> Tensor:
            each = values[drawn].unflatten(0, (-1, count))  # (P, N, ...)
            return values.masked_scatter(drawn.unsqueeze(-1), arrange(each, orders))

        return rows._replace(vectors=put(rows.vectors), cells=put(rows.cells))

    def terms(self, rows: Rows, noise: Noise) -> dict[str, Term]:
        """Nats of text, and the diffusion loss of vectors that are learned, each given all before
        it."""
        rows = self.reordered(rows, noise)
        h = self.read(rows, 0, rows.ids.shape[1], None)[:, :-1]
        labels, learned = rows.targets[:, 1:], (rows.drawn & rows.learned)[:, 1:]
        vectors = h.new_zeros(0, self.config.channels)
        if rows.vectors is not None:
            vectors = rows.vectors[:, 1:][learned]
        row, slot = learned.nonzero(as_tuple=True)
        numbers = SlotNoise(noise.turn(0, row), slot.unsqueeze(-1))
        errors = self.head.loss(h[learned].unsqueeze(1), vectors.unsqueeze(1), numbers)[:, 0]
        return {"text": behind(self.logits, h, labels), "diffusion": _term(errors, learned)}

    def picture(self, rows: Rows) -> VectorsInTurn:
        return VectorsInTurn(self, rows)


def _term(losses: Tensor, where: Tensor) -> Term:
    """Losses of the positions behind `where`, (B, L - 1) bool."""
    values = losses.new_zeros(where.shape).masked_scatter(where, losses)
    return Term(F.pad(values, (1, 0)), F.pad(where, (1, 0)))


class VectorsInTurn(InTurn):
    """Draws the vectors of a picture one after another, in any order, by the diffusion head."""

    model: UniFluid

    def __init__(self, model: UniFluid, rows: Rows) -> None:
        spec = model.spec
        super().__init__(model, rows, spec, places(model.wrapping, spec, rows.ids.shape[1]))

    def prepare(
        self, cond: Cond, orders: Tensor | None = None, spec: TokenSpec | None = None
    ) -> Context:
        """The rows with these numbers, whose vectors will stand in the order of drawing."""
        context = super().prepare(cond, orders, spec)
        if orders is not None:
            here = slice(self.slots[0], self.slots[-1] + 1)
            context.rows.cells[:, here] = arrange(context.rows.cells[:, here], orders)
        return context

    def write(self, rows: Rows, slot: int, codes: Tensor) -> None:
        assert rows.vectors is not None
        rows.vectors[:, slot] = codes

    def draw(
        self, codes: Tensor, context: Context, span: Span, cache: None, chance: Chance
    ) -> Draw:
        return self.model.head.sample(self.hidden(chance.guide.tile(codes), context, span), chance)


def tiny(**changes: Any) -> UniFluidConfig:
    """A model of a few thousand parameters, for tests."""
    sizes: dict[str, Any] = {"language": tiny_language(), "grid": (2, 3), "channels": 4}
    sizes |= {"head": DiffusionConfig(depth=1, width=16), "seen_grid": (2, 2), "seen_dim": 12}
    ids: dict[str, Any] = {"begin": 20, "end": 21, "marks": Marks()}
    return UniFluidConfig(**sizes | ids | changes)
