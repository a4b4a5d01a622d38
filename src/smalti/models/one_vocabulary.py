"""Text and pictures as ids of one vocabulary, written by one language model.

Meta 2024, "Chameleon: Mixed-Modal Early-Fusion Foundation Models" (arXiv:2405.09818); Wu, Jiang, Ma
et al. 2024, "Liquid: Language Models are Scalable Multi-modal Generators" (arXiv:2412.04332).

Unusual: nothing. A code of a picture is one more word, read from the same table and written by the
same head; between the ids that begin and end a picture the model may write codes alone. Chameleon
was trained so from the start; Liquid is a language model of text whose table was extended.

Unusual, of drawing: what guidance compares a picture with is, for Liquid, a row that begins with an
id for no text, and for Chameleon rows without text, of which one has the pictures before it.

Letters: B rows, L positions, V ids, D width, K codes of a tokenizer, N codes of a picture.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from smalti.codes import TokenSpec
from smalti.config import check
from smalti.models.language import Language, LanguageConfig
from smalti.models.language import tiny as tiny_language
from smalti.models.unified import InTurn, Marks, Term, Unified, UnifiedConfig, places
from smalti.nn.attention import KVCache
from smalti.nn.cross_entropy import cross_entropy
from smalti.nn.llama import Place
from smalti.sampling.noise import Noise
from smalti.text.sequence import IGNORED, Between, Rows

CHAMELEON = LanguageConfig(65536, 32, 32, 4096, 11008, qk_norm="heads")
"""The language model of Chameleon-7B."""


@dataclass(frozen=True)
class OneVocabularyConfig(UnifiedConfig):
    """A language model, and which of its ids are what."""

    language: LanguageConfig = field(default_factory=lambda: CHAMELEON)
    grid: tuple[int, int] = (32, 32)
    """Height and width of a picture in codes."""
    codes: int = 8192
    """K, codes of the tokenizer of pictures."""
    first: int = 4
    """The id of the first code."""
    order: tuple[int, ...] = ()
    """The code of each id from `first` on; empty: they are in order."""
    begin: int = 8197
    """The id before a picture."""
    end: int = 8196
    """The id after a picture."""
    learns_begin: bool = True
    """Whether a row whose picture is learned also learns to begin it."""
    marks: Marks = field(default_factory=Marks)
    """Ids that stand for no text."""
    reserved: tuple[tuple[int, int], ...] = ()
    """Ranges of ids, the first and the last of each, that stand for no text either."""
    length: int = 4096
    """Positions of a document, at most."""
    z_loss: float = 0.0
    """Training adds this times the squared logarithm of what logits are divided by, which keeps
    them small; Chameleon: 1e-5."""

    def __post_init__(self) -> None:
        ids = ("first", "begin", "end")
        check(self, pairs=("grid",), positive=("codes", "length"), counts=ids, amounts=("z_loss",))
        if self.order and sorted(self.order) != list(range(self.codes)):
            raise ValueError(f"order must hold each of the {self.codes} codes once")
        last = max(self.first + self.codes - 1, self.begin, self.end)
        if last >= self.language.vocab:
            raise ValueError(f"the vocabulary has {self.language.vocab} ids, got {last} among them")
        for name in ("begin", "end"):
            if self.first <= getattr(self, name) < self.first + self.codes:
                raise ValueError(f"{name} must be no code's id, got {getattr(self, name)}")

    @property
    def spec(self) -> TokenSpec:
        """The codes of a picture."""
        return TokenSpec((self.grid,), self.codes)

    def fitted(self, spec: TokenSpec, words: int, marks: Marks) -> Self:
        """Codes follow the words, behind the ids that begin and end a picture."""
        language = replace(self.language, vocab=words + 2 + spec.vocab)
        return replace(
            self,
            language=language,
            grid=self.check_spec(spec),
            codes=spec.vocab,
            begin=words,
            end=words + 1,
            first=words + 2,
            order=(),
            marks=marks,
        )

    @cached_property
    def wrapping(self) -> Picture:
        """How pictures are written."""
        return Picture(
            learns_begin=self.learns_begin,
            around=(self.begin, self.end),
            first=self.first,
            order=self.order,
        )


@dataclass(frozen=True)
class Picture(Between):
    """An id before a picture and one after it, and one for each of its codes."""

    first: int = 0
    order: tuple[int, ...] = ()

    @cached_property
    def _ids(self) -> Tensor:
        """Which id of `order` each code has, (K,)."""
        return torch.tensor(self.order).argsort()

    def id_of(self, codes: Tensor) -> Tensor:
        index = self._ids.to(codes.device)[codes] if self.order else codes
        return index + self.first

    def is_code(self, ids: Tensor, spec: TokenSpec) -> Tensor:
        return (ids >= self.first) & (ids < self.first + spec.vocab)

    def code_of(self, ids: Tensor) -> Tensor:
        """The codes that ids stand for."""
        index = ids - self.first
        return torch.tensor(self.order, device=ids.device)[index] if self.order else index


class OneVocabulary(Unified):
    """Rows of ids (B, L) to the ids that come next."""

    NO_DECAY = ("*tok_embeddings.*",)
    config: OneVocabularyConfig

    def __init__(self, config: OneVocabularyConfig) -> None:
        super().__init__()
        self.config, self.spec, self.wrapping = config, config.spec, config.wrapping
        self.marks = config.marks
        self.language = Language(config.language)

    @property
    def vocab(self) -> int:
        return self.config.language.vocab

    @property
    def written(self) -> Tensor:
        """All ids but those of pictures and those that are reserved, (V,) bool."""
        config, ids = self.config, torch.arange(self.vocab)
        written = ~config.wrapping.is_code(ids, self.spec)
        written[[config.begin, config.end]] = False
        for first, last in config.reserved:
            written[first : last + 1] = False
        return written

    def init_weights(self) -> None:
        self.language.init_weights()

    def cache(self, batch: int, length: int) -> KVCache:
        return self.language.cache(batch, length)

    def read(self, rows: Rows, begin: int, end: int, cache: KVCache | None) -> Tensor:
        place = place_of(self.language, rows, begin, end)
        return self.language(self.language.embed(rows.ids[:, begin:end]), place, cache)

    def hidden(self, rows: Rows) -> Tensor:
        """Hidden states (B, L, D) of whole rows."""
        return self.read(rows, 0, rows.ids.shape[1], None)

    def logits(self, h: Tensor) -> Tensor:
        return self.language.logits(h)

    def loss(self, rows: Rows) -> Tensor:
        """Nats of each id that is learned, given all before it, (B, L), in training with the z-loss
        of each; 0 elsewhere and where nothing is before it."""
        h, labels = self.hidden(rows)[:, :-1], rows.targets[:, 1:]
        where = labels != IGNORED  # logits of nothing else are computed
        logits = self.logits(h[where]).float()
        nats = cross_entropy(logits, labels[where])
        if self.training and self.config.z_loss:
            nats = nats + self.config.z_loss * logits.logsumexp(-1).square()
        return F.pad(nats.new_zeros(labels.shape).masked_scatter(where, nats), (1, 0))

    def terms(self, rows: Rows, noise: Noise) -> dict[str, Term]:
        """Nats of text and of codes, each of which counts as one id."""
        loss = self.loss(rows)
        return {name: Term(loss, here) for name, here in self.where(rows, noise).items()}

    def picture(self, rows: Rows) -> CodesInTurn:
        return CodesInTurn(self, rows)


class CodesInTurn(InTurn):
    """Draws the codes of a picture, each of which is one id of all that the model could write."""

    model: OneVocabulary

    def __init__(self, model: OneVocabulary, rows: Rows) -> None:
        spec = model.spec
        super().__init__(model, rows, spec, places(model.wrapping, spec, rows.ids.shape[1]))
        codes = torch.arange(spec.vocab, device=rows.ids.device)
        self.table = model.config.wrapping.id_of(codes)  # (K,) once, not at every step

    def ids(self, codes: Tensor) -> Tensor:
        return self.table[codes]

    def logits(self, h: Tensor) -> Tensor:
        """Those of the ids of all codes, in the order of the codes: (B, 1, K)."""
        return self.model.logits(h)[..., self.table]


def place_of(language: Language, rows: Rows, begin: int, end: int) -> Place:
    """Where the positions from `begin` to `end` of rows stand in a decoder."""
    here = slice(begin, end)
    return Place(
        torch.arange(begin, end, device=rows.ids.device),
        end,
        language.turns(rows.positions[:, here]),
        rows.mask(begin, end)[:, None],
        False,
        True,
    )


def tiny(**changes: Any) -> OneVocabularyConfig:
    """A model of a few thousand parameters, for tests."""
    sizes: dict[str, Any] = {"language": tiny_language(), "grid": (2, 3), "codes": 16}
    ids: dict[str, Any] = {"first": 4, "begin": 20, "end": 21}
    return OneVocabularyConfig(**sizes | ids | changes)
