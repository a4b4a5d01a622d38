"""Emu3: text and pictures as ids of one vocabulary, pictures line by line.

Wang et al. 2024, "Emu3: Next-Token Prediction is All You Need" (arXiv:2409.18869), as
baaivision/Emu3 and transformers 5.24.0 have it.

Unusual: a picture says its size before it begins, height and width in codes as text, and each line
of codes ends with an id of its own, so a model of one vocabulary knows where it is in pictures of
any shape. All else is as in `models.one_vocabulary`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Self

from smalti.codes import TokenSpec
from smalti.config import check
from smalti.models.language import LanguageConfig
from smalti.models.one_vocabulary import OneVocabulary, OneVocabularyConfig, Picture
from smalti.models.one_vocabulary import tiny as tiny_model
from smalti.models.unified import Marks
from smalti.text.sequence import CODE

EMU3 = LanguageConfig(184622, 32, 32, 4096, 14336, kv_heads=8, rope_base=1e6)
"""The language model of Emu3."""


@dataclass(frozen=True)
class Emu3Config(OneVocabularyConfig):
    """A language model, and which of its ids are what; the defaults are those of Emu3."""

    language: LanguageConfig = field(default_factory=lambda: EMU3)
    grid: tuple[int, int] = (90, 90)
    codes: int = 32768
    first: int = 151854
    begin: int = 151852
    end: int = 151853
    marks: Marks = field(default_factory=lambda: Marks(151849, (151850,), 151643))
    length: int = 9216
    image: int = 151851
    """The id between the size of a picture and its codes."""
    line: int = 151846
    """The id after each line of codes."""
    frame: int = 151847
    """The id after the last line."""
    digits: tuple[int, ...] = (*range(15, 25), 9)
    """The ids of 0 to 9, and of the sign between height and width."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, counts=("image", "line", "frame"))
        if len(self.digits) != 11:
            raise ValueError(f"digits must be 11 ids, of 0 to 9 and of a sign, got {self.digits}")
        for number in (self.image, self.line, self.frame, *self.digits):
            if not 0 <= number < self.language.vocab:
                raise ValueError(f"the vocabulary has {self.language.vocab} ids, got {number}")

    def fitted(self, spec: TokenSpec, words: int, marks: Marks) -> Self:
        """Codes follow the words, behind the ids that stand around and in pictures, and those of
        its size."""
        language = replace(self.language, vocab=words + 16 + spec.vocab)
        return replace(
            self,
            language=language,
            grid=self.check_spec(spec),
            codes=spec.vocab,
            begin=words,
            end=words + 1,
            image=words + 2,
            line=words + 3,
            frame=words + 4,
            digits=tuple(range(words + 5, words + 16)),
            first=words + 16,
            order=(),
            marks=marks,
        )

    @cached_property
    def wrapping(self) -> Lines:
        """How pictures are written."""
        return Lines(
            learns_begin=self.learns_begin,
            around=(self.begin, self.end),
            first=self.first,
            order=self.order,
            image=self.image,
            line=self.line,
            frame=self.frame,
            digits=self.digits,
        )


@dataclass(frozen=True)
class Lines(Picture):
    """Before a picture its height and width, an id after each line, and one after the last."""

    image: int = 0
    line: int = 0
    frame: int = 0
    digits: tuple[int, ...] = tuple(range(11))

    def begin(self, spec: TokenSpec) -> Sequence[int]:
        (height, width), *_ = spec.grids
        size = ["0123456789*".index(letter) for letter in f"{height}*{width}"]
        return [self.around[0], *(self.digits[i] for i in size), self.image]

    def plan(self, spec: TokenSpec) -> Sequence[int]:
        (height, width), *_ = spec.grids
        return ([CODE] * width + [self.line]) * height

    def end(self, spec: TokenSpec) -> Sequence[int]:
        return [self.frame, self.around[1]]


class Emu3(OneVocabulary):
    """Rows of ids (B, L) to the ids that come next."""

    any_grid = True


def tiny(**changes: Any) -> Emu3Config:
    """A model of a few thousand parameters, for tests."""
    ids: dict[str, Any] = {"image": 22, "line": 23, "frame": 24, "digits": tuple(range(25, 36))}
    base = tiny_model()
    same = {name: getattr(base, name) for name in ("language", "grid", "codes", "first")}
    around: dict[str, Any] = {"begin": base.begin, "end": base.end, "marks": base.marks}
    return Emu3Config(**same | around | ids | changes)
