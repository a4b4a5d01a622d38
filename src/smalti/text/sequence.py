"""Text and pictures in one row: what stands at each position, who sees whom, and what is learned.

A document is a list of parts. A model's `Wrapping` says which ids stand around a picture and at its
positions; `rows_of` makes rows of documents, padded to one length. B rows, L positions, N codes of
a picture, C numbers of a vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from smalti.codes import TokenSpec

IGNORED = -100
"""The label of a position that is not learned."""
VECTOR = -1
"""Stands in the place of an id where a row has a vector."""
CODE = -1
"""Stands in a picture's plan where one of its codes comes; what else stands there is written."""

Kind = Literal["text", "codes", "numbers"]


@dataclass(frozen=True)
class Segment:
    """A stretch of a row: text, a picture of codes, or a picture of numbers."""

    kind: Kind
    length: int
    """Ids of a text, positions of a picture."""
    spec: TokenSpec | None = None
    """What a picture's codes are."""


@dataclass(frozen=True)
class Part:
    """A segment with what is in it. Raises ValueError if a picture's codes are not of its spec."""

    content: Tensor
    """Ids (n,) int64 of a text; codes (N, *trailing) of a picture."""
    spec: TokenSpec | None = None
    """Of a picture; None: it is text."""
    learned: bool = True
    """Whether a model learns to write it; else it only reads it."""

    def __post_init__(self) -> None:
        shape = tuple(self.content.shape)
        if self.spec is not None and shape != self.spec.shape(1)[1:]:
            raise ValueError(f"a picture must have codes {self.spec.shape(1)[1:]}, got {shape}")
        if self.spec is None and (self.content.dim() != 1 or self.content.is_floating_point()):
            raise ValueError(f"text must be ids (n,), got {self.content.dtype} {shape}")

    @property
    def segment(self) -> Segment:
        kind: Kind = "text"
        if self.spec is not None:
            kind = "codes" if self.spec.discrete else "numbers"
        return Segment(kind, len(self.content), self.spec)


Document = Sequence[Part]


@dataclass(frozen=True)
class Wrapping:
    """How a model writes a picture. A model derives its own from this one, whose pictures are
    vectors without anything around them."""

    full: Literal["none", "picture", "wrapped"] = "none"
    """Who sees a picture whole: none of its positions, those of its codes, or also the ids around
    them. Others see what is before them."""
    one_position: bool = False
    """Whether all codes of a picture count as one position."""
    learns_begin: bool = True
    """Whether the ids before a picture that is learned are learned too."""
    learns_end: bool = True
    """Whether those after it are."""

    def begin(self, spec: TokenSpec) -> Sequence[int]:
        """Ids before a picture."""
        return ()

    def plan(self, spec: TokenSpec) -> Sequence[int]:
        """What stands at the positions of a picture, (n,): `CODE`, or the id of the end of a
        line."""
        return [CODE] * spec.positions

    def end(self, spec: TokenSpec) -> Sequence[int]:
        """Ids after a picture."""
        return ()

    def id_of(self, codes: Tensor) -> Tensor | None:
        """The ids (N,) of codes (N, *trailing); None: they stand in a row as vectors (N, C)."""
        return None

    def ids(self, codes: Tensor, spec: TokenSpec) -> Tensor | None:
        """The ids (n,) of a picture's plan with its codes (N, *trailing), None as `id_of`."""
        ids = self.id_of(codes)
        if ids is None:
            return None
        written = torch.tensor(self.plan(spec))
        return written.masked_scatter(written == CODE, ids)

    def length(self, part: Part) -> int:
        """Positions that a part takes."""
        if part.spec is None:
            return len(part.content)
        return sum(len(ids(part.spec)) for ids in (self.begin, self.plan, self.end))


class Rows(NamedTuple):
    """Documents as rows of one length."""

    ids: Tensor
    """(B, L) int64; `VECTOR` where there is a vector, any id where there is padding."""
    kept: Tensor
    """(B, L) bool: no padding."""
    learned: Tensor
    """(B, L) bool: what a model learns to write."""
    spans: Tensor
    """(B, L) int64: the number of the picture that is seen whole from here, from 1; 0: none."""
    positions: Tensor
    """(B, L) int64: 0 at the first that is no padding."""
    cells: Tensor
    """(B, L, 2) int64: row and column of a picture's code in its grid, 0 elsewhere."""
    vectors: Tensor | None = None
    """(B, L, C) float, zeros elsewhere, of rows with vectors."""

    @property
    def drawn(self) -> Tensor:
        """(B, L) bool: where vectors stand."""
        return (self.ids == VECTOR) & self.kept

    @property
    def labels(self) -> Tensor:
        """(B, L) int64: ids where they are learned, `IGNORED` elsewhere. The id of a position is
        predicted from the one before it: a model shifts them."""
        return self.ids.masked_fill(~self.learned | (self.ids == VECTOR), IGNORED)

    def mask(self) -> Tensor:
        """(B, L, L) bool: row i sees j. What is before it, itself, and all of its own picture; no
        padding, but of padding itself."""
        length = self.ids.shape[1]
        before = torch.ones(length, length, dtype=torch.bool, device=self.ids.device).tril()
        same = self.spans[:, :, None] == self.spans[:, None]
        seen = before | (same & (self.spans > 0)[:, None])
        itself = torch.eye(length, dtype=torch.bool, device=self.ids.device)
        return (seen & self.kept[:, None]) | itself


class _Line:
    """One document as it is written down."""

    def __init__(self) -> None:
        self.ids, self.learned, self.spans = list[int](), list[bool](), list[int]()
        self.positions, self.cells = list[int](), list[tuple[int, int]]()
        self.vectors = list[tuple[int, Tensor]]()
        """Pictures of numbers and where they begin."""
        self.next, self.pictures = 0, 0

    def add(
        self,
        ids: Sequence[int],
        learned: bool,
        span: int = 0,
        together: bool = False,
        cells: Sequence[tuple[int, int]] = (),
    ) -> None:
        """Write ids down; `together` they have one position."""
        self.ids += ids
        self.cells += cells or [(0, 0)] * len(ids)
        self.learned += [learned] * len(ids)
        self.spans += [span] * len(ids)
        count = len(ids)
        self.positions += [self.next] * count if together else range(self.next, self.next + count)
        self.next += min(count, 1) if together else count

    def picture(self, part: Part, wrapping: Wrapping) -> None:
        spec = part.spec
        assert spec is not None
        self.pictures += 1
        inside = self.pictures if wrapping.full != "none" else 0
        around = self.pictures if wrapping.full == "wrapped" else 0
        self.add(wrapping.begin(spec), part.learned and wrapping.learns_begin, around)
        ids = wrapping.ids(part.content, spec)
        if ids is None:
            self.vectors.append((len(self.ids), part.content))
        written = [VECTOR] * len(part.content) if ids is None else ids.tolist()
        self.add(written, part.learned, inside, wrapping.one_position, _cells(wrapping, spec))
        self.add(wrapping.end(spec), part.learned and wrapping.learns_end, around)


def _cells(wrapping: Wrapping, spec: TokenSpec) -> list[tuple[int, int]]:
    """Row and column of each position of a picture's plan; where no code stands, 0."""
    found = iter([(y, x) for h, w in spec.grids for y in range(h) for x in range(w)])
    return [next(found) if planned == CODE else (0, 0) for planned in wrapping.plan(spec)]


def fitted(document: Document, wrapping: Wrapping, length: int) -> list[Part]:
    """The parts of a document that fit into so many positions. Text is cut where it must be; a
    picture that does not fit whole is left out with all that comes after it."""
    parts, left = list[Part](), length
    for part in document:
        needed = wrapping.length(part)
        if needed <= left:
            parts.append(part)
            left -= needed
            continue
        if part.spec is None and left:
            parts.append(Part(part.content[:left], learned=part.learned))
        break
    return parts


def rows_of(
    documents: Sequence[Document], wrapping: Wrapping, pad: int = 0, left: bool = False
) -> Rows:
    """Rows of documents, padded with the id `pad` behind the end, or before the beginning (`left`).

    Raises ValueError for vectors of several widths.
    """
    lines = list[_Line]()
    for document in documents:
        line = _Line()
        for part in document:
            if part.spec is None:
                line.add(part.content.tolist(), part.learned)
            else:
                line.picture(part, wrapping)
        lines.append(line)
    length = max((len(line.ids) for line in lines), default=0)
    starts = [length - len(line.ids) if left else 0 for line in lines]

    def padded(values: list[list[int]], fill: int, dtype: torch.dtype = torch.int64) -> Tensor:
        whole = torch.full((len(lines), length), fill, dtype=dtype)
        for row, start, mine in zip(whole, starts, values, strict=True):
            row[start : start + len(mine)] = torch.tensor(mine, dtype=dtype)
        return whole

    return Rows(
        padded([line.ids for line in lines], pad),
        padded([[1] * len(line.ids) for line in lines], 0, torch.bool),
        padded([[int(x) for x in line.learned] for line in lines], 0, torch.bool),
        padded([line.spans for line in lines], 0),
        padded([line.positions for line in lines], 0),
        torch.stack([padded([[c[i] for c in x.cells] for x in lines], 0) for i in (0, 1)], -1),
        _vectors(lines, starts, length),
    )


def _vectors(lines: Sequence[_Line], starts: Sequence[int], length: int) -> Tensor | None:
    widths = {content.shape[-1] for line in lines for _, content in line.vectors}
    if not widths:
        return None
    if len(widths) > 1:
        raise ValueError(f"pictures of one batch have vectors of one width, got {sorted(widths)}")
    whole = torch.zeros(len(lines), length, widths.pop())
    for row, start, line in zip(whole, starts, lines, strict=True):
        for at, content in line.vectors:
            row[start + at : start + at + len(content)] = content
    return whole
