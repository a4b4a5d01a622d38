"""MetaMorph: a language model that reads pictures as features of a tower, and says such features.

Tong et al. 2024, "MetaMorph: Multimodal Understanding and Generation via Instruction Tuning"
(arXiv:2412.14164), as facebookresearch/metamorph has it (commit 0b13deb).

Unusual: what it draws is what it sees. A picture, read or drawn, is one vector for each cell of a
grid, which a frozen tower gave and an MLP makes as wide as words are. The state before a vector
says, by a head, what the vector is: regressed, not drawn from a distribution, so that a document
has one picture. Each vector is read back as it was said. Pixels are the business of a renderer,
which is the decoder of the tokenizer (`tokenizers/rendered.py`).

Letters: B rows, L positions, n of one call, D width, C features of a vector, N vectors of a
picture, V ids.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.codes import Draw, Form, Span, TokenSpec
from smalti.config import check
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
from smalti.nn.features import Projector, apart, formed
from smalti.sampling.chance import Chance
from smalti.sampling.noise import Noise
from smalti.text.sequence import IGNORED, Between, Rows

LLAMA_3 = LanguageConfig(128_258, 32, 32, 4096, 14_336, kv_heads=8, rope_base=500_000.0)
"""The language model of MetaMorph-8B, with two ids more than Llama 3 has."""


@dataclass(frozen=True)
class MetaMorphConfig(UnifiedConfig):
    """A language model, and how features become its vectors and its states features."""

    language: LanguageConfig = field(default_factory=lambda: LLAMA_3)
    grid: tuple[int, int] = (8, 8)
    """Height and width of a picture in vectors."""
    channels: int = 1152
    """C, features of a vector."""
    form: Form = "unit"
    """What the tokenizer's features are, and what is lost where they are said wrong: plain numbers
    (absolute error), of length one (cosine), or a softmax of either (cross-entropy)."""
    projector_layers: int = 2
    """Linear layers that make features as wide as words are; 0: features are that wide."""
    projector: Literal["gelu", "softmax"] = "gelu"
    """What stands between them."""
    head_layers: int = 2
    """Linear layers that make states features, with a GELU between them."""
    begin: int = 128_256
    """The id before a picture."""
    end: int = 128_257
    """The id after a picture."""
    marks: Marks = field(default_factory=lambda: Marks(128_000, (128_001, 128_009), 128_002))
    """Ids that stand for no text."""
    length: int = 4096
    """Positions of a document, at most."""

    def __post_init__(self) -> None:
        sizes = ("channels", "head_layers", "length")
        check(self, pairs=("grid",), positive=sizes, counts=("projector_layers", "begin", "end"))
        if max(self.begin, self.end) >= self.language.vocab:
            raise ValueError(
                f"begin and end must be below the {self.language.vocab} ids of the vocabulary, "
                f"got {self.begin} and {self.end}"
            )
        if not self.projector_layers and self.channels != self.language.dim:
            raise ValueError(
                f"projector_layers 0 is for features as wide as words, {self.language.dim}, "
                f"got channels {self.channels}"
            )

    @property
    def spec(self) -> TokenSpec:
        """The features of a picture."""
        return TokenSpec((self.grid,), channels=self.channels, form=self.form)

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

    @property
    def wrapping(self) -> Between:
        """How pictures are written."""
        return Between(around=(self.begin, self.end))


class MetaMorph(OnLanguage):
    """Rows of words and features to the words, and to the features, that come next."""

    NO_DECAY = ("*tok_embeddings.*",)
    kinds = ("text", "features")
    config: MetaMorphConfig

    def __init__(self, config: MetaMorphConfig) -> None:
        super().__init__()
        self.config, self.spec, self.wrapping = config, config.spec, config.wrapping
        self.marks = config.marks
        dim, layers = config.language.dim, config.projector_layers
        self.language = Language(config.language)
        self.projector = Projector(
            config.channels, *[dim] * layers, softmax=config.projector == "softmax"
        )
        self.head = Projector(*[dim] * config.head_layers, config.channels)
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        """Those of the language model; projector and head as PyTorch has linear layers, as
        published."""
        self.language.init_weights()
        for module in (*self.projector.modules(), *self.head.modules()):
            if isinstance(module, nn.Linear):
                module.reset_parameters()

    @property
    def solved(self) -> bool:
        """Not: features are said, and no solver draws them."""
        return False

    # -- reading

    def inputs(self, rows: Rows, begin: int, end: int) -> Tensor:
        """What stands at the positions from `begin` to `end`, (B, n, D)."""
        here = slice(begin, end)
        x, drawn = self.language.embed(rows.ids[:, here].clamp(min=0)), rows.drawn[:, here]
        vectors = x.new_zeros(0, self.config.channels)  # every layer has a gradient, if it is zero
        if rows.vectors is not None:
            vectors = rows.vectors[:, here][drawn].to(x.dtype)
        seen = self.projector(vectors)  # (m, D)
        return x.masked_scatter(drawn.unsqueeze(-1), seen.to(x.dtype))

    def read(self, rows: Rows, begin: int, end: int, cache: KVCache | None) -> Tensor:
        place = place_of(self.language, rows, begin, end)
        return self.language(self.inputs(rows, begin, end), place, cache)

    # -- learning

    def said(self, h: Tensor) -> Tensor:
        """The features (..., C) that states (..., D) say, float32, in their form."""
        return formed(self.head(h).float(), self.config.form)

    def terms(self, rows: Rows, noise: Noise) -> dict[str, Term]:
        """Nats of text; of pictures that are learned what each vector loses (`apart`), said by the
        state of the position before it."""
        h = self.read(rows, 0, rows.ids.shape[1], None)
        where = rows.drawn & rows.learned
        losses = h.new_zeros(rows.ids.shape, dtype=torch.float32)
        said = self.said(F.pad(h, (0, 0, 1, 0))[:, :-1][where])  # (m, C), of nothing as well
        wanted = said.new_zeros(said.shape) if rows.vectors is None else rows.vectors[where]
        found = apart(wanted, said, self.config.form)
        losses = losses.masked_scatter(where, found.to(losses.dtype))
        text = Term(self.nats(h, rows), rows.targets != IGNORED)
        return {"text": text, "features": Term(losses, where)}

    # -- drawing

    def picture(self, rows: Rows) -> FeaturesInTurn:
        return FeaturesInTurn(self, rows)


class FeaturesInTurn(InTurn):
    """Says the vectors of a picture one after another. Nothing is random; guidance compares what
    the head gives before it has its form."""

    model: MetaMorph

    def __init__(self, model: MetaMorph, rows: Rows) -> None:
        spec = model.spec
        super().__init__(model, rows, spec, places(model.wrapping, spec, rows.ids.shape[1]))

    def write(self, rows: Rows, slot: int, codes: Tensor) -> None:
        assert rows.vectors is not None
        rows.vectors[:, slot] = codes

    def draw(
        self, codes: Tensor, context: Context, span: Span, cache: None, chance: Chance
    ) -> Draw:
        """Say the vector of a span, (B, 1, C)."""
        h = self.hidden(chance.guide.tile(codes), context, span)
        found = formed(chance.guide.merge(self.model.head(h).float()), self.spec.form)
        return Draw(found, torch.full_like(found[..., 0], torch.nan), h)


def tiny(**changes: Any) -> MetaMorphConfig:
    """A model of a few thousand parameters, for tests."""
    sizes: dict[str, Any] = {"language": tiny_language(), "grid": (2, 3), "channels": 8}
    ids: dict[str, Any] = {"begin": 62, "end": 63, "marks": Marks()}
    return MetaMorphConfig(**sizes | ids | changes)
