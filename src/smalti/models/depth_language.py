"""A language model whose pictures are stacks of codes, drawn by a small transformer over depth.

Wu et al. 2024, "VILA-U: a Unified Foundation Model Integrating Visual Understanding and Generation"
(arXiv:2409.04429); Ma et al. 2025, "UniTok: A Unified Tokenizer for Visual Generation and
Understanding" (arXiv:2502.20321).

Unusual: a position of a picture holds several codes, so its vector is no row of the table of ids.
It is made of the vectors that the tokenizer has for the codes, which say what is to be seen, not
only how it is drawn: of their sum by a perceptron (VILA-U), or of all side by side by attention
over the picture so far and a perceptron (UniTok). What stands there next is not one id either: the
hidden state is the first token of a head over depth (`heads/depth.py`), with guidance and filters
at each code. Text goes on through the usual head.

Letters: B rows, L positions, n of one call, D width, V ids, K codes of a depth, G depths, C width
of a code's vector, N positions of a picture, P pictures of all rows, W width of attention.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.codes import Draw, Span, TokenSpec
from smalti.config import check
from smalti.heads.depth import DepthConfig, DepthHead
from smalti.models.language import Language, LanguageConfig
from smalti.models.language import tiny as tiny_language
from smalti.models.on_language import OnLanguage
from smalti.models.one_vocabulary import place_of
from smalti.models.unified import (
    Context,
    InTurn,
    Marks,
    Term,
    UnifiedConfig,
    places,
)
from smalti.nn.attention import KVCache
from smalti.nn.code_embedding import CodeVectors, DepthTable, vectors_of
from smalti.nn.cross_entropy import cross_entropy
from smalti.nn.linear import Linear
from smalti.nn.projection import AttentionProjection
from smalti.sampling.chance import Chance
from smalti.sampling.noise import Noise
from smalti.text.sequence import IGNORED, Between, Document, Part, Rows

LLAMA_2 = LanguageConfig(32_004, 32, 32, 4096, 11_008)
"""The language model of VILA-U, Llama-2-7B with ids around pictures and videos."""


def _vila_u() -> DepthConfig:
    """VILA-U's head."""
    return DepthConfig(6, 40, 2560, "gpt", positions=True, bias=True, sums=True)


@dataclass(frozen=True)
class DepthLanguageConfig(UnifiedConfig):
    """A language model, and how it reads and writes stacks of codes; the defaults are VILA-U's."""

    language: LanguageConfig = field(default_factory=lambda: LLAMA_2)
    grid: tuple[int, int] = (16, 16)
    """Height and width of a picture in positions."""
    codes: int = 16_384
    """K, codes of a depth."""
    depth: int = 4
    """G, codes of a position."""
    code_dim: int = 1024
    """C, numbers of a code's vector; the tokenizer decides it."""
    shared: bool = True
    """Whether all depths have the same vectors; the tokenizer decides it."""
    reads: Literal["sum", "joined"] = "sum"
    """A position is read as the sum of its codes' vectors (VILA-U), or as all of them side by side,
    through attention over the picture so far (UniTok)."""
    width: int = 1024
    """W of that attention, a multiple of `heads`."""
    heads: int = 16
    """Of that attention."""
    head: DepthConfig = field(default_factory=_vila_u)
    """What draws the codes of a position."""
    head_reads: Literal["vectors", "table"] = "vectors"
    """Whether the head reads the tokenizer's vectors of codes (VILA-U), or tables of its own, one
    for each depth but the last (UniTok)."""
    begin: int = 32_000
    """The id before a picture."""
    end: int = 32_001
    """The id after a picture."""
    nothing: tuple[int, ...] = ()
    """Ids in the place of a text that guidance leaves out."""
    marks: Marks = field(default_factory=lambda: Marks(1, (2,), 0))
    """Ids that stand for no text."""
    length: int = 4096
    """Positions of a document, at most."""
    z_loss: float = 0.0
    """Training adds this times the squared logarithm of what logits of codes are divided by;
    UniTok: 5e-5."""

    def __post_init__(self) -> None:
        sizes = ("codes", "depth", "code_dim", "width", "heads", "length")
        check(self, pairs=("grid",), positive=sizes, amounts=("z_loss",))
        ids = {"begin": (self.begin,), "end": (self.end,), "nothing": self.nothing}
        for name, given in ids.items():
            if bad := [i for i in given if not 0 <= i < self.language.vocab]:
                raise ValueError(
                    f"{name} must be below the {self.language.vocab} ids of the vocabulary, "
                    f"got {bad[0]}"
                )
        wide = max(self.width, self.depth * self.code_dim)
        if self.reads == "joined" and wide % self.heads:
            raise ValueError(f"heads must divide the wider side, {wide}, got {self.heads}")

    @property
    def spec(self) -> TokenSpec:
        """The stacks of a picture."""
        return TokenSpec((self.grid,), self.codes, self.depth)

    def fitted(self, spec: TokenSpec, words: int, marks: Marks) -> Self:
        """The ids that begin and end a picture follow the words."""
        return replace(
            self,
            language=replace(self.language, vocab=words + 2),
            grid=self.check_spec(spec),
            codes=spec.vocab,
            depth=spec.depth,
            begin=words,
            end=words + 1,
            nothing=(),
            marks=marks,
        )

    def with_codebook(self, codebook: Any) -> Self:
        vectors = vectors_of(codebook, self.depth, self.codes)  # (G, K, C)
        alike = all(torch.equal(rows, vectors[0]) for rows in vectors)
        return replace(self, code_dim=vectors.shape[-1], shared=alike)

    @property
    def wrapping(self) -> Between:
        """How pictures are written."""
        return Between(around=(self.begin, self.end))


class DepthLanguage(OnLanguage):
    """Rows of words and stacks of codes to the words, and to the stacks, that come next."""

    NO_DECAY = ("*tok_embeddings.*", "*positions")
    config: DepthLanguageConfig

    def __init__(self, config: DepthLanguageConfig) -> None:
        super().__init__()
        self.config, self.spec, self.wrapping = config, config.spec, config.wrapping
        self.marks, self.depths = config.marks, config.depth
        dim, joined = config.language.dim, config.reads == "joined"
        self.language = Language(config.language)
        seen = CodeVectors(config.depth, config.codes, config.code_dim, config.shared)
        if config.head_reads == "table":
            self.seen = seen
            seen = DepthTable((config.codes,) * max(config.depth - 1, 1), config.head.dim)
        self.head = DepthHead((config.codes,) * config.depth, config.head, seen, dim)
        wide = config.code_dim
        if joined:
            wide, before = config.width, config.depth * config.code_dim
            self.projection = AttentionProjection(before, wide, config.heads, causal=True)
        norm = [nn.LayerNorm(wide, 1e-6)] if joined else []
        self.into = nn.Sequential(*norm, Linear(wide, dim), nn.GELU(), Linear(dim, dim))
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        """Normal(0, 0.02) with zero biases; of codes any is as likely as any other."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        self.book.init_weights()
        self.head.init_weights()

    def learn_from(self, codebook: Any) -> None:
        self.book.learn_from(codebook)

    @property
    def book(self) -> CodeVectors:
        """The vectors of codes, which are the head's where it reads them."""
        vectors = self.seen if self.config.head_reads == "table" else self.head.seen
        assert isinstance(vectors, CodeVectors)
        return vectors

    # -- reading

    def stacks(self, rows: Rows, begin: int, end: int) -> Tensor:
        """The vectors (m, D) of the stacks that stand at the positions from `begin` to `end`, row
        by row. With attention a stack is read behind all that are before it in its picture."""
        assert rows.codes is not None
        if self.config.reads == "sum":
            codes = rows.codes[:, begin:end][rows.drawn[:, begin:end]]  # (m, G)
            return self.into(self.book(codes))
        count, depth = self.spec.positions, self.config.depth
        places = rows.drawn.nonzero()[:, 1].view(-1, count)  # (P, N), pictures are whole
        reach = int((places < end).sum(1).max())
        here = (places >= begin)[:, :reach] & (places < end)[:, :reach]
        some = here.any(1)
        codes = rows.codes[rows.drawn].view(-1, count, depth)[some, :reach]
        features = self.projection(self.book.each(codes).flatten(-2))  # (P, N, W)
        return self.into(features[here[some]])

    def inputs(self, rows: Rows, begin: int, end: int) -> Tensor:
        """What stands at the positions from `begin` to `end`, (B, n, D)."""
        here = slice(begin, end)
        x, drawn = self.language.embed(rows.ids[:, here].clamp(min=0)), rows.drawn[:, here]
        if rows.codes is None or not drawn.any():
            return x
        stacks = self.stacks(rows, begin, end)
        return x.masked_scatter(drawn.unsqueeze(-1), stacks.to(x.dtype))

    def read(self, rows: Rows, begin: int, end: int, cache: KVCache | None) -> Tensor:
        place = place_of(self.language, rows, begin, end)
        return self.language(self.inputs(rows, begin, end), place, cache)

    # -- learning

    def losses(self, h: Tensor, codes: Tensor) -> Tensor:
        """Nats of each code of stacks (m, G) given the states (m, D) before them, (m, G), in
        training with the z-loss of each."""
        h, wanted = h.unsqueeze(0), codes.unsqueeze(0)
        if not (self.training and self.config.z_loss):
            return self.head.losses(h, wanted)[0]
        logits = torch.stack(self.head.logits(h, wanted), 2)[0]  # (m, G, K)
        nats = cross_entropy(logits.flatten(0, 1), codes.flatten())
        return nats.view_as(codes) + self.config.z_loss * logits.logsumexp(-1).square()

    def terms(self, rows: Rows, noise: Noise) -> dict[str, Term]:
        """Nats of text, and of pictures those of a code: the mean of each stack."""
        h = self.read(rows, 0, rows.ids.shape[1], None)
        where = rows.drawn & rows.learned
        nats = h.new_zeros(rows.ids.shape, dtype=torch.float32)
        if rows.codes is not None and where.any():
            states = F.pad(h, (0, 0, 1, 0))[:, :-1]  # of the position before
            nats = nats.masked_scatter(where, self.losses(states[where], rows.codes[where]).mean(1))
        elif self.training:
            nats = nats + self.idle()
        text = Term(self.nats(h, rows), rows.targets != IGNORED)
        return {"text": text, "codes": Term(nats, where)}

    def idle(self) -> Tensor:
        """Zero, by all that reads and writes stacks, which then has a gradient, if it is zero,
        whatever stands in a batch: processes that learn together wait for each other's."""
        codes = self.spec.empty(1, self.book.vectors.device)[:, :1]
        features = self.book(codes)
        if self.config.reads == "joined":
            features = self.projection(self.book.each(codes).flatten(-2))
        return 0 * self.losses(self.into(features)[0], codes[0]).sum()

    # -- drawing

    def picture(self, rows: Rows) -> StacksInTurn:
        return StacksInTurn(self, rows)

    def nothing(self, document: Document) -> Document:
        before, last = super().nothing(document)
        ids = torch.cat((before.content, torch.tensor(self.config.nothing, dtype=torch.int64)))
        return [Part(ids, learned=False), last]


class StacksInTurn(InTurn):
    """Draws the stacks of a picture, one position after another."""

    model: DepthLanguage

    def __init__(self, model: DepthLanguage, rows: Rows) -> None:
        spec = model.spec
        super().__init__(model, rows, spec, places(model.wrapping, spec, rows.ids.shape[1]))

    def write(self, rows: Rows, slot: int, codes: Tensor) -> None:
        assert rows.codes is not None
        rows.codes[:, slot] = codes

    def draw(
        self, codes: Tensor, context: Context, span: Span, cache: None, chance: Chance
    ) -> Draw:
        """Draw the stack of a span, (B, 1, G)."""
        h = self.hidden(chance.guide.tile(codes), context, span)
        return self.model.head.sample(h, chance)


def unitok(language: LanguageConfig = LLAMA_2, **changes: Any) -> DepthLanguageConfig:
    """UniTok's language model: eight sub-codes of 4096 behind attention, three of Llama's layers
    over depth."""
    heads, dim, ffn_dim = language.heads, language.dim, language.ffn_dim
    head = DepthConfig(3, heads, dim, "llama", ffn_dim, rotary=True, bias=True)
    sizes: dict[str, Any] = {"codes": 4096, "depth": 8, "code_dim": 8, "shared": False}
    kinds: dict[str, Any] = {"reads": "joined", "head_reads": "table", "z_loss": 5e-5}
    return DepthLanguageConfig(language, **{"head": head, **sizes, **kinds, **changes})


def tiny(**changes: Any) -> DepthLanguageConfig:
    """A model of a few thousand parameters, for tests, as VILA-U's."""
    head = DepthConfig(1, 2, 16, "gpt", positions=True, bias=True, sums=True)
    sizes: dict[str, Any] = {"language": tiny_language(), "grid": (2, 3), "codes": 16, "depth": 3}
    more: dict[str, Any] = {"code_dim": 6, "head": head, "begin": 62, "end": 63}
    return DepthLanguageConfig(**sizes | more | changes)


def tiny_joined(**changes: Any) -> DepthLanguageConfig:
    """The same as UniTok's."""
    sizes: dict[str, Any] = {"grid": (2, 3), "codes": 16, "depth": 3, "code_dim": 2, "width": 12}
    return unitok(tiny_language(), **sizes | {"heads": 2, "begin": 62, "end": 63} | changes)
