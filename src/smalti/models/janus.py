"""Janus: a language model that reads pictures as an eye sees them, and draws them as codes.

Wu et al. 2024, "Janus: Decoupling Visual Encoding for Unified Multimodal Understanding and
Generation" (arXiv:2410.13848); Chen et al. 2025, "Janus-Pro: Unified Multimodal Understanding and
Generation with Data and Model Scaling" (arXiv:2501.17811). The code is that of deepseek-ai/Janus,
commit 1daa72f, and of transformers 5.24.0.

Unusual: one way in and another way out. What an eye sees passes an MLP; codes that are drawn are
read from a table of their own through another MLP, and predicted by a head of their own. So a
picture that it drew is read as codes, and one that is given as features.

Unusual, of drawing: what guidance compares with is a row of the same length, in which padding
stands, and is seen, in the place of all but the first id and the one that begins the picture.

Letters: B rows, L positions, n of one call, D width, V ids of text, K codes of a tokenizer, E
numbers that the eye sees, N codes of a picture.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Self

import torch
from torch import Tensor, nn

from smalti.codes import TokenSpec
from smalti.config import check
from smalti.models.eye import Sight
from smalti.models.language import Language, LanguageConfig
from smalti.models.language import tiny as tiny_language
from smalti.models.on_language import OnLanguage
from smalti.models.one_vocabulary import place_of
from smalti.models.unified import InTurn, Marks, Term, UnifiedConfig, behind, places
from smalti.nn.attention import KVCache
from smalti.nn.linear import Linear
from smalti.nn.mlp import Gelu, gelu
from smalti.sampling.noise import Noise
from smalti.text.sequence import IGNORED, Between, Document, Part, Rows

DEEPSEEK_1B = LanguageConfig(102_400, 24, 16, 2048, 5632, norm_eps=1e-6)
"""The language model of Janus-1.3B and Janus-Pro-1B."""
DEEPSEEK = Marks(100_000, (100_001,), 100_015)
"""Its marks."""


@dataclass(frozen=True)
class JanusConfig(UnifiedConfig):
    """A language model, and what pictures are on the way in and on the way out; the defaults are
    those of Janus-1.3B."""

    language: LanguageConfig = field(default_factory=lambda: DEEPSEEK_1B)
    grid: tuple[int, int] = (24, 24)
    """Height and width of a picture in codes."""
    codes: int = 16384
    """K, codes of the tokenizer of pictures."""
    code_dim: int = 8
    """Width of the table from which codes are read."""
    code_layers: int = 2
    """Layers of the MLP behind that table."""
    code_gelu: Gelu = "none"
    """The GELU between those, and of the head that predicts codes."""
    head_dim: int = 0
    """Width inside the head that predicts codes; 0: that of the language model."""
    seen_grid: tuple[int, int] = (24, 24)
    """Height and width of what the eye gives."""
    seen_dim: int = 1024
    """E, numbers that it gives at each position."""
    seen_layers: int = 2
    """Layers of the MLP behind the eye."""
    seen_gelu: Gelu = "none"
    """The GELU between those."""
    begin: int = 100_016
    """The id before a picture."""
    end: int = 100_593
    """The id after a picture."""
    learns_begin: bool = True
    """Whether a row whose picture is learned also learns to begin it."""
    marks: Marks = field(default_factory=lambda: DEEPSEEK)
    """Ids that stand for no text."""
    length: int = 4096
    """Positions of a document, at most."""

    def __post_init__(self) -> None:
        sizes = ("codes", "code_dim", "code_layers", "seen_dim", "seen_layers", "length")
        check(self, pairs=("grid", "seen_grid"), positive=sizes)
        check(self, counts=("begin", "end", "head_dim"))
        for name in ("begin", "end"):
            if getattr(self, name) >= self.language.vocab:
                raise ValueError(
                    f"the vocabulary has {self.language.vocab} ids, {name} is {getattr(self, name)}"
                )

    @property
    def spec(self) -> TokenSpec:
        """The codes of a picture."""
        return TokenSpec((self.grid,), self.codes)

    @property
    def sight(self) -> Sight:
        """What the eye gives, as it is."""
        return Sight(TokenSpec((self.seen_grid,), channels=self.seen_dim))

    def fitted(self, spec: TokenSpec, words: int, marks: Marks) -> Self:
        """Behind the words come the ids that begin and end a picture."""
        language = replace(self.language, vocab=words + 2)
        return replace(
            self,
            language=language,
            grid=self.check_spec(spec),
            codes=spec.vocab,
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
    def wrapping(self) -> Framed:
        """How pictures are written: codes by ids behind those of text."""
        around = (self.begin, self.end)
        return Framed(
            learns_begin=self.learns_begin,
            around=around,
            first=self.language.vocab,
            seen=Between(around=around),
        )


@dataclass(frozen=True)
class Framed(Between):
    """An id before a picture and one after it, and one for each of its codes, the `first` that of
    code 0; None: it stands as vectors."""

    first: int | None = None

    def id_of(self, codes: Tensor) -> Tensor | None:
        return None if self.first is None else codes + self.first

    def is_code(self, ids: Tensor, spec: TokenSpec) -> Tensor:
        return super().is_code(ids, spec) if self.first is None else ids >= self.first


class Aligner(nn.Module):
    """Vectors (..., I) to (..., D) by so many layers, with a GELU between two of them."""

    def __init__(self, inputs: int, dim: int, layers: int, approximate: Gelu) -> None:
        super().__init__()
        self.approximate: Gelu = approximate
        widths = [inputs, *[dim] * layers]
        self.layers = nn.ModuleList(
            [Linear(a, b) for a, b in zip(widths, widths[1:], strict=False)]
        )

    def forward(self, x: Tensor) -> Tensor:
        for i, layer in enumerate(self.layers):
            x = layer(gelu(x, self.approximate) if i else x)
        return x


class Janus(OnLanguage):
    """Rows of ids and of what an eye sees to the ids of text and the codes that come next."""

    NO_DECAY = ("*tok_embeddings.*", "code_embeddings.*")
    config: JanusConfig

    def __init__(self, config: JanusConfig) -> None:
        super().__init__()
        self.config, self.spec, self.wrapping = config, config.spec, config.wrapping
        self.marks, self.sight = config.marks, config.sight
        dim = config.language.dim
        self.language = Language(config.language)
        self.aligner = Aligner(config.seen_dim, dim, config.seen_layers, config.seen_gelu)
        self.code_embeddings = nn.Embedding(config.codes, config.code_dim)
        self.code_aligner = Aligner(config.code_dim, dim, config.code_layers, config.code_gelu)
        self.code_proj = Linear(dim, config.head_dim or dim)
        self.code_head = Linear(config.head_dim or dim, config.codes)

    @torch.no_grad()
    def init_weights(self) -> None:
        """The language model as always, products of variance 1 / inputs, codes of variance 1. What
        the MLPs give is as large as the vectors of ids."""
        self.language.init_weights()
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear) and not name.startswith("language."):
                nn.init.normal_(module.weight, std=module.in_features**-0.5)
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.code_embeddings.weight)
        for last in (*self.aligner.layers[-1:], *self.code_aligner.layers[-1:], self.code_head):
            nn.init.normal_(last.get_parameter("weight"), std=0.02)

    def embed(self, rows: Rows, begin: int, end: int) -> Tensor:
        """What stands at the positions from `begin` to `end`, (B, n, D)."""
        ids = rows.ids[:, begin:end]
        codes, seen = ids >= self.vocab, rows.seen[:, begin:end]
        x = self.language.embed(ids.masked_fill(codes | (ids < 0), 0))
        drawn = self.code_aligner(self.code_embeddings(ids[codes] - self.vocab))
        x = x.masked_scatter(codes.unsqueeze(-1), drawn.to(x.dtype))
        features = x.new_zeros(0, self.config.seen_dim)  # every layer has a gradient, if it is zero
        if rows.features is not None:
            features = rows.features[:, begin:end][seen].to(x.dtype)
        given = self.aligner(features)
        return x.masked_scatter(seen.unsqueeze(-1), given.to(x.dtype))

    def read(self, rows: Rows, begin: int, end: int, cache: KVCache | None) -> Tensor:
        place = place_of(self.language, rows, begin, end)
        return self.language(self.embed(rows, begin, end), place, cache)

    def code_logits(self, h: Tensor) -> Tensor:
        """Logits (..., K) of the codes behind hidden states (..., D)."""
        return self.code_head(gelu(self.code_proj(h), self.config.code_gelu))

    def terms(self, rows: Rows, noise: Noise) -> dict[str, Term]:
        """Nats of text and of codes, each given all before it, by a head each."""
        h = self.read(rows, 0, rows.ids.shape[1], None)[:, :-1]
        labels = rows.targets[:, 1:]
        codes = labels >= self.vocab
        return {
            "text": behind(self.logits, h, labels.where(~codes, IGNORED)),
            "codes": behind(self.code_logits, h, (labels - self.vocab).where(codes, IGNORED)),
        }

    def picture(self, rows: Rows) -> CodesInTurn:
        return CodesInTurn(self, rows)

    # -- what guidance compares with

    def nothing(self, document: Document) -> Document:
        """The same with padding in the place of all ids before the picture but the first."""
        return [*self.blank(document, False), document[-1]]

    def pictures(self, document: Document) -> Document:
        """The same with padding in the place of its text alone."""
        return [*self.blank(document, True), document[-1]]

    def blank(self, document: Document, pictures: bool) -> list[Part]:
        """What is before the last part, with padding in the place of texts, but for the id that
        begins a document, and of pictures unless they are kept."""
        found = list[Part]()
        for i, part in enumerate(document[:-1]):
            if part.spec is not None and pictures:
                found.append(part)
                continue
            ids = torch.full((self.wrapping.length(part),), self.marks.pad)
            if not i and part.spec is None:
                ids = ids.where(part.content != self.marks.start, part.content)
            found.append(Part(ids, learned=False))
        return found


class CodesInTurn(InTurn):
    """Draws the codes of a picture one after another, by the head of codes."""

    model: Janus

    def __init__(self, model: Janus, rows: Rows) -> None:
        slots = places(model.wrapping, model.spec, rows.ids.shape[1])
        super().__init__(model, rows, model.spec, slots)

    def ids(self, codes: Tensor) -> Tensor:
        return codes + self.model.vocab

    def logits(self, h: Tensor) -> Tensor:
        return self.model.code_logits(h)


def tiny(**changes: Any) -> JanusConfig:
    """A model of a few thousand parameters, for tests."""
    sizes: dict[str, Any] = {"language": tiny_language(), "grid": (2, 3), "codes": 16}
    sizes |= {"code_dim": 4, "seen_grid": (2, 2), "seen_dim": 12}
    ids: dict[str, Any] = {"begin": 20, "end": 21, "marks": Marks()}
    return JanusConfig(**sizes | ids | changes)
