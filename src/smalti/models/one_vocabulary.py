"""Text and pictures as ids of one vocabulary, written by one language model.

Meta 2024, "Chameleon: Mixed-Modal Early-Fusion Foundation Models" (arXiv:2405.09818); Wu, Jiang, Ma
et al. 2024, "Liquid: Language Models are Scalable Multi-modal Generators" (arXiv:2412.04332).

Unusual: nothing. A code of a picture is one more word, read from the same table and written by the
same head; between the ids that begin and end a picture the model may write codes alone. Chameleon
was trained so from the start; Liquid is a language model of text whose table was extended.

Letters: B rows, L positions, V ids, D width, K codes of a tokenizer, N codes of a picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from smalti.codes import TokenSpec
from smalti.config import check
from smalti.models.language import Language, LanguageConfig
from smalti.models.language import tiny as tiny_language
from smalti.nn.llama import Place
from smalti.text.sequence import CODE, IGNORED, Rows, Wrapping


@dataclass(frozen=True)
class OneVocabularyConfig:
    """A language model, and which of its ids are what."""

    language: LanguageConfig
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

    def __post_init__(self) -> None:
        check(self, pairs=("grid",), positive=("codes",), counts=("first", "begin", "end"))
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

    @property
    def wrapping(self) -> Picture:
        """How pictures are written."""
        return Picture(
            learns_begin=self.learns_begin,
            around=(self.begin, self.end),
            first=self.first,
            order=self.order,
        )


@dataclass(frozen=True)
class Picture(Wrapping):
    """An id before a picture and one after it, and one for each of its codes."""

    around: tuple[int, int] = (0, 0)
    first: int = 0
    order: tuple[int, ...] = ()

    def begin(self, spec: TokenSpec) -> Sequence[int]:
        return self.around[:1]

    def end(self, spec: TokenSpec) -> Sequence[int]:
        return self.around[1:]

    def id_of(self, codes: Tensor) -> Tensor:
        if not self.order:
            return codes + self.first
        ids = torch.tensor(self.order, device=codes.device).argsort()  # of each code
        return ids[codes] + self.first

    def code_of(self, ids: Tensor) -> Tensor:
        """The codes that ids stand for."""
        index = ids - self.first
        return torch.tensor(self.order, device=ids.device)[index] if self.order else index


class OneVocabulary(torch.nn.Module):
    """Rows of ids (B, L) to the ids that come next."""

    def __init__(self, config: OneVocabularyConfig) -> None:
        super().__init__()
        self.config, self.spec, self.wrapping = config, config.spec, config.wrapping
        self.language = Language(config.language)

    def place(self, rows: Rows) -> Place:
        """Where whole rows stand."""
        turns, length = self.language.turns(rows.positions), rows.ids.shape[1]
        slots = torch.arange(length, device=rows.ids.device)
        return Place(slots, length, turns, rows.mask()[:, None], False, True)

    def hidden(self, rows: Rows) -> Tensor:
        """Hidden states (B, L, D) of whole rows."""
        return self.language(self.language.embed(rows.ids), self.place(rows))

    def loss(self, rows: Rows) -> Tensor:
        """Nats of each id that is learned, given all before it, (B, L); 0 elsewhere and where
        nothing or padding is before it."""
        logits = self.language.logits(self.hidden(rows)[:, :-1]).float()
        labels = rows.labels[:, 1:].masked_fill(~rows.kept[:, :-1], IGNORED)
        nats = F.cross_entropy(logits.mT, labels, ignore_index=IGNORED, reduction="none")
        return F.pad(nats, (1, 0))

    def allowed(self, planned: int) -> Tensor:
        """Which ids may stand where a picture's plan has `planned`, (V,) bool: any code, or that
        id."""
        ids = torch.arange(self.config.language.vocab)
        if planned != CODE:
            return ids == planned
        return (ids >= self.config.first) & (ids < self.config.first + self.config.codes)


def tiny(**changes: Any) -> OneVocabularyConfig:
    """A model of a few thousand parameters, for tests."""
    sizes: dict[str, Any] = {"language": tiny_language(), "grid": (2, 3), "codes": 16}
    ids: dict[str, Any] = {"first": 4, "begin": 20, "end": 21}
    return OneVocabularyConfig(**sizes | ids | changes)
