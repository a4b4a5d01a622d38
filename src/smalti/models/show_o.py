"""Show-o: a language model that writes text word by word and draws pictures by revealing codes.

Xie et al. 2024, "Show-o: One Single Transformer to Unify Multimodal Understanding and Generation"
(arXiv:2408.12528), as showlab/Show-o has it.

Unusual: pictures are drawn as MaskGIT draws them, inside a row of text: a hidden code is one more
id of the vocabulary, all positions of a picture and the ids around it see each other, and a code is
predicted at its own position, not from the one before. Text before a picture is closed like a
sentence. The first id of a row says whether a picture is to be drawn or read, so that who calls the
model decides it; `learns_begin` leaves that to the model.

Letters: B rows, L positions, V ids, D width, K codes of a tokenizer, N codes of a picture, m wanted
ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from smalti.codes import Draw, TokenSpec, Turn
from smalti.config import check
from smalti.heads.categorical import Softmax
from smalti.models.language import Language, LanguageConfig
from smalti.models.language import tiny as tiny_language
from smalti.models.one_vocabulary import place_of
from smalti.models.unified import (
    Context,
    Drawer,
    Marks,
    Term,
    Unified,
    UnifiedConfig,
    nats_of,
    places,
)
from smalti.nn.attention import KVCache
from smalti.sampling.chance import Chance
from smalti.sampling.noise import Noise
from smalti.text.sequence import IGNORED, Between, Document, Part, Rows

PHI = LanguageConfig(
    58498, 24, 32, 2048, 8192, order="parallel", norm="layer", qk_norm="shared",
    feed_forward="plain", qkv_bias=True, out_bias=True, head_bias=True, turned=0.5,
)  # fmt: skip
"""The language model of Show-o, Phi-1.5 with normalised queries and keys."""


@dataclass(frozen=True)
class ShowOConfig(UnifiedConfig):
    """A language model, and which of its ids are what; the defaults are those of Show-o."""

    language: LanguageConfig = field(default_factory=lambda: PHI)
    grid: tuple[int, int] = (16, 16)
    """Height and width of a picture in codes."""
    codes: int = 8192
    """K, codes of the tokenizer of pictures."""
    first: int = 50305
    """The id of the first code; behind the last one comes that of a hidden code."""
    begin: int = 50296
    """The id before a picture."""
    end: int = 50297
    """The id after a picture."""
    sentence: tuple[int, int] = (50256, 50256)
    """The ids before a text, and after one that a picture follows."""
    draws: int = 50300
    """The first id of a row in which a text comes before a picture."""
    reads: int = 50301
    """The first id of a row that begins with a picture."""
    pad: int = 50295
    """The id where there is nothing."""
    length: int = 2048
    """Positions of a document, at most."""
    learns_begin: bool = False
    """Whether it learns to begin pictures by itself. Then nothing before a picture says that one
    comes: `draws` and the id that closes a text are left out."""

    def __post_init__(self) -> None:
        marks = ("begin", "end", "draws", "reads", "pad")
        check(self, pairs=("grid",), positive=("codes", "length"), counts=("first", *marks))
        named = {name: getattr(self, name) for name in marks}
        named |= {"sentence": max(self.sentence), "first": self.first + self.codes}
        for name, number in named.items():
            if number >= self.language.vocab:
                raise ValueError(
                    f"the vocabulary has {self.language.vocab} ids, {name} needs {number}"
                )
        for name in marks:
            if self.first <= named[name] <= self.first + self.codes:
                raise ValueError(f"{name} must be no code's id, got {named[name]}")

    @property
    def spec(self) -> TokenSpec:
        """The codes of a picture."""
        return TokenSpec((self.grid,), self.codes)

    def fitted(self, spec: TokenSpec, words: int, marks: Marks) -> Self:
        """Behind the words come the ids around pictures and those that rows begin with, then codes
        and that of a hidden one."""
        (stop, *_), start = marks.stops, marks.start
        return replace(
            self,
            language=replace(self.language, vocab=words + 4 + spec.vocab + 1),
            grid=self.check_spec(spec),
            codes=spec.vocab,
            begin=words,
            end=words + 1,
            draws=words + 2,
            reads=words + 3,
            first=words + 4,
            sentence=(stop if start is None else start, stop),
            pad=marks.pad,
        )

    @property
    def wrapping(self) -> Whole:
        """How documents are written."""
        around = (self.begin, self.end)
        return Whole(
            learns_begin=self.learns_begin,
            around=around,
            first=self.first,
            sentence=self.sentence,
            draws=self.draws,
            reads=self.reads,
        )


@dataclass(frozen=True)
class Whole(Between):
    """Pictures that are seen whole, with an id before and after; texts as sentences; an id for what
    a row is about. Where these are None, nothing stands there. Where the begin of a picture is
    learned, neither `draws` nor the end of a sentence gives it away."""

    full: Literal["none", "picture", "wrapped"] = "wrapped"
    learns_begin: bool = False
    learns_end: bool = False
    first: int = 0
    sentence: tuple[int, int] | None = None
    draws: int | None = None
    reads: int | None = None

    def id_of(self, codes: Tensor) -> Tensor:
        """The ids of codes; that of a hidden one is K."""
        return codes + self.first

    def is_code(self, ids: Tensor, spec: TokenSpec) -> Tensor:
        return (ids >= self.first) & (ids < self.first + spec.vocab)

    def written(self, document: Document) -> Document:
        """The same with an id before a text and, where a picture comes next, one behind it."""
        parts, before = list[Part](), None
        told = not self.learns_begin
        for part in document:
            if part.spec is None:
                if before is None or before.spec is not None:
                    parts += self._ids(self.sentence and self.sentence[:1])
            elif before is None and self.reads is not None:
                part = replace(part, before=(self.reads, *part.before))
            elif told and before is not None and before.spec is None:
                parts += self._ids(self.sentence and self.sentence[1:], before.learned)
            parts.append(part)
            before = part
        pictured = any(part.spec is not None for part in document)
        if told and pictured and document[0].spec is None and self.draws is not None:
            parts = [*self._ids((self.draws,)), *parts]
        return parts

    def _ids(self, ids: Sequence[int] | None, learned: bool = False) -> list[Part]:
        return [Part(torch.tensor(ids), learned=learned)] if ids else []


class ShowO(Unified):
    """Rows of ids (B, L) to the ids of text that come next, and to the codes that are hidden."""

    NO_DECAY = ("*tok_embeddings.*",)
    draws_by = "masked"
    confidence = 1.0
    config: ShowOConfig

    def __init__(self, config: ShowOConfig) -> None:
        super().__init__()
        self.config, self.spec, self.wrapping = config, config.spec, config.wrapping
        self.marks = Marks(None, config.sentence[1:], config.pad)
        self.language = Language(config.language)

    @property
    def vocab(self) -> int:
        return self.config.language.vocab

    def init_weights(self) -> None:
        self.language.init_weights()

    def cache(self, batch: int, length: int) -> KVCache:
        return self.language.cache(batch, length)

    def read(self, rows: Rows, begin: int, end: int, cache: KVCache | None) -> Tensor:
        place = place_of(self.language, rows, begin, end)
        return self.language(self.language.embed(rows.ids[:, begin:end]), place, cache)

    def logits(self, h: Tensor) -> Tensor:
        return self.language.logits(h)

    def hides(self, rows: Rows, noise: Noise) -> Tensor:
        """Which codes of pictures that are learned training hides, (B, L) bool: of each picture a
        share cos(pi u / 2) of them, u uniform in [0, 1), at least one."""
        slots = torch.arange(rows.ids.shape[1], device=rows.ids.device)
        codes = self.config.wrapping.is_code(rows.ids, self.spec) & rows.learned
        # sorted by picture, then at random; all have N codes, so the rank in a picture follows
        keys = (rows.spans + noise.uniform(slots, step=1)).masked_fill(~codes, torch.inf)
        ranks = keys.argsort(1).argsort(1) % self.spec.positions
        shares = (noise.uniform(slots, step=3) * (math.pi / 2)).cos().gather(1, rows.spans)
        count = (shares * self.spec.positions).round().clamp(min=1)
        return codes & (ranks < count)

    def where(self, rows: Rows, noise: Noise) -> dict[str, Tensor]:
        return super().where(rows, noise) | {"codes": self.hides(rows, noise)}

    def terms(self, rows: Rows, noise: Noise) -> dict[str, Term]:
        """Nats of text, given all before it, and of hidden codes, given the rest of the row."""
        text, hidden = self.where(rows, noise).values()
        shown = rows._replace(ids=rows.ids.masked_fill(hidden, self.config.first + self.spec.vocab))
        h = self.read(shown, 0, rows.ids.shape[1], None)
        # a position predicts its own code where that is hidden, else the id of text that is next
        ahead = F.pad(rows.ids.masked_fill(~text, IGNORED)[:, 1:], (0, 1), value=IGNORED)
        labels = torch.where(hidden, rows.ids, ahead)
        nats = nats_of(self.logits, h, labels)
        return {"text": Term(F.pad(nats, (1, 0))[:, :-1], text), "codes": Term(nats, hidden)}

    def picture(self, rows: Rows) -> Revealed:
        return Revealed(self, rows)


class Revealed(Drawer):
    """Draws the codes of a picture at the end of rows by revealing them, behind what is read once:
    the slots of the picture in the cache are written anew at every step, those before it are only
    read."""

    loop = "masked"
    model: ShowO

    def __init__(self, model: ShowO, rows: Rows) -> None:
        super().__init__(model, rows, model.spec)
        self.confidence, self.parts = model.confidence, model.parts
        self.end = rows.ids.shape[1]
        slots = places(model.wrapping, model.spec, self.end)
        self.begin = slots[0] - len(model.wrapping.begin(model.spec))
        self.slots = torch.tensor(slots, device=rows.ids.device)

    def split(self, codes: Tensor) -> Tensor:
        return codes

    def join(self, units: Tensor) -> Tensor:
        return units

    def hidden(self, codes: Tensor, context: Context, turn: Turn, cache: None = None) -> Tensor:
        """Hidden states (B, m, D) of the wanted positions; reads codes (B, N) of known ones."""
        rows, model = context.rows, self.model
        if not context.read:
            self.read(context, self.begin)
        shown = codes.masked_fill(~turn.known, self.spec.vocab)
        rows.ids[:, self.slots] = model.config.wrapping.id_of(shown)
        h = model.read(rows, self.begin, self.end, context.cache)[:, self.slots - self.begin]
        if turn.wanted is None:
            return h
        return h.gather(1, turn.wanted.unsqueeze(-1).expand(-1, -1, h.shape[-1]))

    def draw(
        self, codes: Tensor, context: Context, turn: Turn, cache: None, chance: Chance
    ) -> Draw:
        """Draw codes (B, m) of the wanted positions."""
        guide, first = chance.guide, self.model.config.first
        h = self.hidden(guide.tile(codes), context, turn.tile(guide))
        logits = self.model.logits(h)[..., first : first + self.spec.vocab]
        return Softmax().sample(logits, chance)._replace(h=h)


def tiny(**changes: Any) -> ShowOConfig:
    """A model of a few thousand parameters, for tests."""
    language = tiny_language(
        order="parallel", norm="layer", qk_norm="shared", feed_forward="plain", qkv_bias=True,
        out_bias=True, head_bias=True, turned=0.5,
    )  # fmt: skip
    sizes: dict[str, Any] = {"language": language, "grid": (2, 3), "codes": 16, "first": 4}
    ids: dict[str, Any] = {"begin": 21, "end": 22, "draws": 23, "reads": 24, "pad": 2}
    sizes["sentence"] = (0, 1)
    return ShowOConfig(**sizes | ids | changes)
