"""ILLUME and ILLUME+: text and pictures as ids of one vocabulary, what a picture means before how
it looks.

ILLUME: Wang, Lu et al. 2024 (arXiv:2412.06673); ILLUME+: Huang, Wang, Yang et al. 2025
(arXiv:2504.01934), as illume-unified-mllm/ILLUME_plus has it.

Unusual: a picture is two levels of codes (`tokenizers/dual.py`), written one behind the other:
its height and width, an id that begins it, then for each level an id, its codes line by line, each
line with an id behind it, and an id that ends the level. The codes of a level are drawn from its
own table alone, by filters of its own. Of ILLUME there is one level.

Unusual, of guidance: an instruction to change a picture is compared with one to give it back, so
what is learned without the instruction is the picture that is there already.

Pictures that are only read are features that are not quantized, of the ViT and of the encoder of
pixels (`models/dual_eye.py`), each through two layers of its own. They stand in a row as codes
would, with the same ids around them (`seen`); or they are read as the codes that are drawn.

Letters: B rows, K codes of a tokenizer, N codes of a picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Self

import torch
from torch import Tensor, nn

from smalti.codes import Draw, Span, TokenSpec
from smalti.config import check
from smalti.heads.categorical import Softmax
from smalti.models.eye import Sight
from smalti.models.language import LanguageConfig
from smalti.models.one_vocabulary import (
    CodesInTurn,
    OneVocabulary,
    OneVocabularyConfig,
    Picture,
    place_of,
)
from smalti.models.one_vocabulary import tiny as tiny_model
from smalti.models.unified import Context, Marks
from smalti.nn.attention import KVCache
from smalti.nn.linear import Linear
from smalti.sampling.chance import Chance
from smalti.text.sequence import CODE, Document, Part, Rows

ILLUME_3B = LanguageConfig(
    283_047,
    36,
    16,
    2048,
    11_008,
    kv_heads=2,
    norm_eps=1e-6,
    qkv_bias=True,
    tied=True,
    rope_base=1e6,
)
"""The language model of ILLUME+ 3B, Qwen2.5-3B with rows for its own ids."""


@dataclass(frozen=True)
class IllumeConfig(OneVocabularyConfig):
    """A language model, and which of its ids are what; the defaults are those of ILLUME+ 3B on
    pictures of 512 pixels."""

    language: LanguageConfig = field(default_factory=lambda: ILLUME_3B)
    grid: tuple[int, int] = (32, 32)
    """Height and width of the last level in codes."""
    codes: int = 131_072
    """K, codes of all levels."""
    semantic: tuple[int, int] = (18, 18)
    """Height and width of the semantic level in codes, where there are two."""
    semantic_codes: int = 32_768
    """Codes of the semantic level, the first of all; if they are all, there is one level."""
    first: int = 151_704
    begin: int = 151_665
    end: int = 151_666
    line: int = 151_667
    """The id after each line of codes."""
    levels: tuple[tuple[int, int], ...] = ((151_668, 151_669), (151_670, 151_671))
    """The ids before and after the codes of each level."""
    sides: tuple[int, int] = (151_679, 151_695)
    """The ids of the height and the width of a picture, which stand before it."""
    random: tuple[int, ...] = ()
    """Ids of a text that asks for any picture, in the place of one that guidance leaves out."""
    restore: tuple[int, ...] = ()
    """The same of one that asks for a picture as it is."""
    seen: tuple[int, ...] = (3584, 32)
    """Numbers that an eye gives at a position of each level; (): pictures that are read are codes
    as well."""
    seen_grids: tuple[tuple[int, int], ...] = ((18, 18), (32, 32))
    """Height and width of the levels of what an eye gives."""
    marks: Marks = field(default_factory=lambda: Marks(None, (151_645, 151_643), 151_643))
    length: int = 32_768

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, pairs=("semantic",), positive=("semantic_codes",), counts=("line",))
        if self.semantic_codes > self.codes:
            raise ValueError(
                f"semantic_codes must be at most codes {self.codes}, got {self.semantic_codes}"
            )
        if len(self.levels) != len(self.spec.grids):
            raise ValueError(
                f"levels must have the ids around each of {len(self.spec.grids)} levels, "
                f"got {self.levels}"
            )
        if self.seen and len(self.seen) != len(self.seen_grids):
            raise ValueError(
                f"seen must have the numbers of each of {len(self.seen_grids)} levels, or none, "
                f"got {self.seen}"
            )
        if self.seen and (len(self.seen) != len(self.levels) or min(self.seen) < 1):
            raise ValueError(f"seen must be {len(self.levels)} positive numbers, got {self.seen}")
        texts = (*self.random, *self.restore)
        for number in (self.line, *self.sides, *sum(self.levels, ()), *texts):
            if not 0 <= number < self.language.vocab:
                raise ValueError(f"the vocabulary has {self.language.vocab} ids, got {number}")

    @property
    def spec(self) -> TokenSpec:
        rest = self.codes - self.semantic_codes
        if not rest:
            return TokenSpec((self.grid,), self.codes)
        tables = (self.semantic_codes, rest)
        return TokenSpec((self.semantic, self.grid), self.codes, tables=tables)

    @property
    def sight(self) -> Sight | None:
        """What an eye gives: as many numbers at every position as the widest level has."""
        if not self.seen:
            return None
        return Sight(TokenSpec(self.seen_grids, channels=max(self.seen)))

    def seeing(self, sight: Sight) -> Self:
        if not self.seen:
            return super().seeing(sight)
        if len(sight.spec.grids) != len(self.seen):
            raise ValueError(
                f"the model reads {len(self.seen)} levels; the eye gives {sight.words}"
            )
        found = replace(self, seen_grids=sight.spec.grids)
        found.sight.require(sight)  # type: ignore[union-attr]
        return found

    def check_spec(self, spec: TokenSpec) -> tuple[int, int]:
        """The last grid of codes of one level or two. Raises ValueError for others."""
        if not spec.tables:
            return super().check_spec(spec)
        if len(spec.tables) != 2:
            raise ValueError(f"Illume writes one level or two, got {len(spec.tables)}")
        return spec.grids[-1]

    def fitted(self, spec: TokenSpec, words: int, marks: Marks) -> Self:
        """Codes follow the words, behind the ids that stand around and in pictures."""
        grid, count = self.check_spec(spec), len(spec.grids)
        ids = range(words + 5, words + 5 + 2 * count)
        first = ids.stop
        return replace(
            self,
            language=replace(self.language, vocab=first + spec.vocab),
            grid=grid,
            codes=spec.vocab,
            semantic=spec.grids[0],
            semantic_codes=spec.tables[0] if spec.tables else spec.vocab,
            begin=words,
            end=words + 1,
            line=words + 2,
            sides=(words + 3, words + 4),
            levels=tuple(zip(ids[::2], ids[1::2], strict=True)),
            first=first,
            order=(),
            random=(),
            restore=(),
            marks=marks,
        )

    @cached_property
    def wrapping(self) -> Levels:
        """How pictures are written."""
        drawn = Levels(
            learns_begin=self.learns_begin,
            around=(self.begin, self.end),
            first=self.first,
            order=self.order,
            line=self.line,
            levels=self.levels,
            sides=self.sides,
        )
        return replace(drawn, seen=replace(drawn, vectors=True)) if self.seen else drawn


@dataclass(frozen=True)
class Levels(Picture):
    """Before a picture its height and width, ids around each level, an id after each line."""

    line: int = 0
    levels: tuple[tuple[int, int], ...] = ()
    sides: tuple[int, int] = (0, 0)
    vectors: bool = False
    """Whether vectors stand in the place of codes."""

    def id_of(self, codes: Tensor) -> Tensor | None:  # pyright: ignore
        return None if self.vectors else super().id_of(codes)

    def begin(self, spec: TokenSpec) -> Sequence[int]:
        return [*self.sides, self.around[0]]

    def plan(self, spec: TokenSpec) -> Sequence[int]:
        found = list[int]()
        for (before, after), (height, width) in zip(self.levels, spec.grids, strict=True):
            found += [before, *([CODE] * width + [self.line]) * height, after]
        return found


class Illume(OneVocabulary):
    """Rows of ids (B, L) to the ids that come next."""

    def __init__(self, config: IllumeConfig) -> None:
        super().__init__(config)
        self.depths = len(self.spec.grids)  # each level has filters of its own
        self.random, self.restore, self.sight = config.random, config.restore, config.sight
        self.widths, self.levels, dim = config.seen, config.levels, config.language.dim
        self.projectors = nn.ModuleList(
            [nn.Sequential(Linear(n, dim), nn.GELU(), Linear(dim, dim)) for n in config.seen]
        )

    @torch.no_grad()
    def init_weights(self) -> None:
        """The language model as always; what projectors give is as large as the vectors of ids."""
        super().init_weights()
        for name, weight in self.projectors.named_parameters():
            if weight.dim() == 1:
                nn.init.zeros_(weight)
            else:
                nn.init.normal_(weight, std=0.02 if ".2." in name else weight.shape[1] ** -0.5)

    def embed(self, rows: Rows, begin: int, end: int) -> Tensor:
        """What stands at the positions from `begin` to `end`, (B, n, D)."""
        x = self.language.embed(rows.ids[:, begin:end].clamp(min=0))
        level = self.level(rows.ids[:, :end])[:, begin:]
        for k, (projector, width) in enumerate(zip(self.projectors, self.widths, strict=True)):
            where, features = rows.seen[:, begin:end] & (level == k), x.new_zeros(0, width)
            if rows.features is not None:  # else every layer has a gradient all the same, zero
                features = rows.features[:, begin:end][where][:, :width].to(x.dtype)
            given = projector(features)
            x = x.masked_scatter(where.unsqueeze(-1), given.to(x.dtype))
        return x

    def level(self, ids: Tensor) -> Tensor:
        """The level of a picture that was begun last at each of the ids, (B, L); -1 before any."""
        places = torch.arange(ids.shape[1], device=ids.device)
        last = [
            torch.where(ids == begin, places, -1).cummax(1).values for begin, _ in self.levels
        ]  # each (B, L)
        latest = torch.stack(last).max(0)
        return latest.indices.masked_fill(latest.values < 0, -1)

    def read(self, rows: Rows, begin: int, end: int, cache: KVCache | None) -> Tensor:
        place = place_of(self.language, rows, begin, end)
        return self.language(self.embed(rows, begin, end), place, cache)

    def picture(self, rows: Rows) -> LevelsInTurn:
        return LevelsInTurn(self, rows)

    def nothing(self, document: Document) -> Document:
        """A document that ends with a picture without the text before it. Where pictures are
        before it, it gives the last of them back, if that is codes."""
        *before, last = document
        seen = [part for part in before if part.spec is not None]
        start = [] if self.marks.start is None else [self.marks.start]
        if not seen:
            return [_text([*start, *self.random]), replace(last, silent=True)]
        content = last.content if seen[-1].seen else seen[-1].content
        again = replace(last, content=content, silent=True)
        return [_text(start), *seen, _text(self.restore), again]

    def pictures(self, document: Document) -> Document:
        """The same, which has the pictures of its text."""
        return self.nothing(document)


def _text(ids: Sequence[int]) -> Part:
    """Ids that are read."""
    return Part(torch.tensor(ids, dtype=torch.int64), learned=False)


class LevelsInTurn(CodesInTurn):
    """Draws the codes of a picture, those of each level from its own table, by its own filters."""

    def __init__(self, model: Illume, rows: Rows) -> None:
        super().__init__(model, rows)
        sizes = [h * w for h, w in self.spec.grids]
        self.level = [k for k, size in enumerate(sizes) for _ in range(size)]
        tables = self.spec.tables or (self.spec.vocab,)
        self.firsts = [sum(tables[:k]) for k in range(len(tables) + 1)]

    def draw(
        self, codes: Tensor, context: Context, span: Span, cache: None, chance: Chance
    ) -> Draw:
        """Draw the code of a span, (B, 1)."""
        assert span.start is not None
        level = self.level[span.start]
        first, end = self.firsts[level : level + 2]
        h = self.hidden(chance.guide.tile(codes), context, span)
        filters = chance.filters.at(level, len(self.spec.grids))
        logits = self.model.logits(h)[..., self.table[first:end]]
        draw = Softmax().sample(logits, chance._replace(filters=filters))
        return draw._replace(codes=draw.codes + first, h=h)


def tiny(**changes: Any) -> IllumeConfig:
    """A model of a few thousand parameters, for tests."""
    base = tiny_model()
    same = {name: getattr(base, name) for name in ("language", "codes", "first", "begin", "end")}
    ids: dict[str, Any] = {
        "grid": (2, 3),
        "semantic": (2, 2),
        "semantic_codes": 6,
        "line": 22,
        "levels": ((23, 24), (25, 26)),
        "sides": (27, 28),
        "random": (1, 3),
        "restore": (2,),
        "seen": (),
        "marks": base.marks,
        "length": 512,
    }
    return IllumeConfig(**same | ids | changes)
