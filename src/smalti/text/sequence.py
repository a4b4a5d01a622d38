"""Text and pictures in one row: what stands at each position, who sees whom, and what is learned.

A document is a list of parts. A model's `Wrapping` says which ids stand around a picture and at its
positions; `rows_of` makes rows of documents, padded to one length, a document or several in each.

A model may read pictures in another form than it draws them: then those that are only read are what
an eye sees of them, vectors of numbers, and those that are drawn are codes. A part says which of
the two it is, and a wrapping has another one for the first.

B rows, L positions, N codes of a picture, C numbers of a vector, E numbers that an eye sees at a
position, G codes of a stack.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from smalti.codes import TokenSpec

IGNORED = -100
"""The label of a position that is not learned."""
VECTOR = -1
"""Stands in the place of an id where a row has a vector, or a stack of codes, of a picture that is
drawn."""
SEEN = -2
"""Stands in the place of an id where a row has what an eye sees."""
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
    """A segment with what is in it. Raises ValueError if a picture's codes are not of its spec, and
    for one that is seen unless it is of numbers and not learned."""

    content: Tensor
    """Ids (n,) int64 of a text; codes (N, *trailing) of a picture, or what an eye sees of it,
    (N, E)."""
    spec: TokenSpec | None = None
    """Of a picture; None: it is text."""
    learned: bool = True
    """Whether a model learns to write it; else it only reads it."""
    silent: bool = False
    """Of a picture that guidance compares with: ids before it that stand for no text."""
    before: tuple[int, ...] = ()
    """Ids right before a picture that see it as those of its wrapping do."""
    seen: bool = False
    """Whether a picture is what an eye sees of it, and not what a model draws."""

    def __post_init__(self) -> None:
        shape = tuple(self.content.shape)
        if self.spec is not None and shape != self.spec.shape(1)[1:]:
            raise ValueError(f"a picture must have codes {self.spec.shape(1)[1:]}, got {shape}")
        if self.spec is None and (self.content.dim() != 1 or self.content.is_floating_point()):
            raise ValueError(f"text must be ids (n,), got {self.content.dtype} {shape}")
        if self.seen and (self.spec is None or self.spec.discrete or self.learned):
            raise ValueError("what an eye sees must be a picture of numbers that is not learned")

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
    silence: int | None = None
    """What stands before a silent picture in the place of each id; None: the same as before any."""
    seen: Wrapping | None = None
    """How pictures are written that an eye sees; None: the model has no eye."""

    def of(self, part: Part) -> Wrapping:
        """How a picture is written, which is drawn or seen. Raises ValueError for one that is seen
        where there is no eye."""
        if not part.seen:
            return self
        if self.seen is None:
            raise ValueError("the model reads pictures as codes, it has no eye")
        return self.seen

    def begin(self, spec: TokenSpec) -> Sequence[int]:
        """Ids before a picture."""
        return ()

    def plan(self, spec: TokenSpec) -> Sequence[int]:
        """What stands at the positions of a picture, (n,): `CODE`, or the id of the end of a line.
        Where nothing does, a picture's vectors stand beside the row."""
        return [CODE] * spec.positions

    def end(self, spec: TokenSpec) -> Sequence[int]:
        """Ids after a picture."""
        return ()

    def id_of(self, codes: Tensor) -> Tensor | None:
        """The ids (N,) of codes (N, *trailing); None: they stand in a row beside its ids, as
        vectors (N, C) or as stacks of codes (N, G)."""
        return None

    def is_code(self, ids: Tensor, spec: TokenSpec) -> Tensor:
        """Which ids are those of codes, bool."""
        return torch.zeros_like(ids, dtype=torch.bool)

    def ids(self, codes: Tensor, spec: TokenSpec) -> Tensor | None:
        """The ids (n,) of a picture's plan with its codes (N, *trailing), None as `id_of`."""
        ids = self.id_of(codes)
        if ids is None:
            return None
        written = torch.tensor(self.plan(spec))
        return written.masked_scatter(written == CODE, ids)

    def written(self, document: Document) -> Document:
        """The parts of a document as they are written down: with what stands around its texts."""
        return document

    def length(self, part: Part) -> int:
        """Positions that a part takes."""
        if part.spec is None:
            return len(part.content)
        mine = self.of(part)
        around = sum(len(ids(part.spec)) for ids in (mine.begin, mine.plan, mine.end))
        return len(part.before) + around

    def size(self, document: Document) -> int:
        """Positions that a document takes."""
        return sum(self.length(part) for part in self.written(document))


@dataclass(frozen=True)
class Between(Wrapping):
    """An id before a picture and one after it."""

    around: tuple[int, int] = (0, 0)

    def begin(self, spec: TokenSpec) -> Sequence[int]:
        return self.around[:1]

    def end(self, spec: TokenSpec) -> Sequence[int]:
        return self.around[1:]


class Rows(NamedTuple):
    """Documents as rows of one length."""

    ids: Tensor
    """(B, L) int64; `VECTOR` or `SEEN` where something else stands, any id in padding."""
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
    """(B, L, C) float, zeros elsewhere, of rows with vectors of pictures that are drawn."""
    owners: Tensor | None = None
    """(B, L) int64: the number of the document in the row; None: each row is one document."""
    features: Tensor | None = None
    """(B, L, E) float, zeros elsewhere, of rows with pictures that an eye sees."""
    codes: Tensor | None = None
    """(B, L, G) int64, zeros elsewhere, of rows with stacks of codes."""
    beside: Tensor | None = None
    """(B, P, N, E) float: pictures beside the rows, in their order, zeros where a row has fewer."""

    def take(self, index: Tensor) -> Rows:
        """Some of the rows, (n,) int64; they share no memory with these."""
        return self._each(lambda t: t.index_select(0, index))

    def to(self, device: torch.device | str) -> Rows:
        """The same on a device."""
        return self._each(lambda t: t.to(device, non_blocking=True))

    def _each(self, change: Callable[[Tensor], Tensor]) -> Rows:
        return Rows._make(t if t is None else change(t) for t in self)

    @property
    def first(self) -> Tensor:
        """(B, L) bool: where nothing is before a position but padding or another document."""
        fresh = ~F.pad(self.kept, (1, 0))[:, :-1]
        if self.owners is None:
            return fresh
        return fresh | (self.owners != F.pad(self.owners, (1, 0), value=-1)[:, :-1])

    @property
    def drawn(self) -> Tensor:
        """(B, L) bool: where vectors, or stacks of codes, stand of pictures that are drawn."""
        return (self.ids == VECTOR) & self.kept

    @property
    def seen(self) -> Tensor:
        """(B, L) bool: where what an eye sees stands."""
        return (self.ids == SEEN) & self.kept

    @property
    def labels(self) -> Tensor:
        """(B, L) int64: ids where they are learned, `IGNORED` elsewhere. The id of a position is
        predicted from the one before it: a model shifts them."""
        return self.ids.masked_fill(~self.learned | (self.ids < 0), IGNORED)

    @property
    def targets(self) -> Tensor:
        """(B, L) int64: labels without those of ids before which nothing is."""
        return self.labels.masked_fill(self.first, IGNORED)

    def mask(self, begin: int = 0, end: int | None = None) -> Tensor:
        """(B, n, end) bool: the positions from `begin` to `end` see those below `end`. What is
        before them, themselves, and all of their own picture; no padding, but of padding itself,
        and of other documents nothing."""
        end, device = self.ids.shape[1] if end is None else end, self.ids.device
        here, keys = slice(begin, end), torch.arange(end, device=device)
        itself = keys == keys[here, None]
        same = self.spans[:, here, None] == self.spans[:, None, :end]
        seen = (keys <= keys[here, None]) | (same & (self.spans[:, None, :end] > 0))
        if self.owners is not None:
            seen = seen & (self.owners[:, here, None] == self.owners[:, None, :end])
        return (seen & self.kept[:, None, :end]) | itself


Placed = tuple[list[int], Tensor]
"""Where the vectors of a picture stand in a row, and these, (N, C)."""


class _Line:
    """Documents of one row as they are written down."""

    def __init__(self) -> None:
        self.ids, self.learned, self.spans = list[int](), list[bool](), list[int]()
        self.positions, self.cells = list[int](), list[tuple[int, int]]()
        self.owners = list[int]()
        self.vectors, self.features = list[Placed](), list[Placed]()
        """Pictures of numbers that are drawn, and those that are seen."""
        self.stacks = list[Placed]()
        """Pictures of stacks of codes."""
        self.beside = list[Tensor]()
        """Pictures that stand beside the row."""
        self.next, self.pictures, self.documents = 0, 0, 0

    def document(self, document: Document, wrapping: Wrapping) -> None:
        """Write a document down, whose positions begin at 0."""
        self.next, self.documents = 0, self.documents + 1
        for part in wrapping.written(document):
            if part.spec is None:
                self.add(part.content.tolist(), part.learned)
            else:
                self.picture(part, wrapping)

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
        self.owners += [self.documents] * len(ids)
        count = len(ids)
        self.positions += [self.next] * count if together else range(self.next, self.next + count)
        self.next += min(count, 1) if together else count

    def picture(self, part: Part, wrapping: Wrapping) -> None:
        spec, wrapping = part.spec, wrapping.of(part)
        assert spec is not None
        self.pictures += 1
        inside = self.pictures if wrapping.full != "none" else 0
        around = self.pictures if wrapping.full == "wrapped" else 0
        begin, silence = wrapping.begin(spec), wrapping.silence if part.silent else None
        begin = begin if silence is None else [silence] * len(begin)
        self.add(part.before, False, around)
        learned = part.learned and wrapping.learns_begin and silence is None
        self.add(begin, learned, around)
        ids = wrapping.ids(part.content, spec)
        if not wrapping.plan(spec):
            ids = torch.zeros(0, dtype=torch.int64)
            self.beside.append(part.content)
        if ids is None:
            plan, stands = wrapping.plan(spec), SEEN if part.seen else VECTOR
            at = [len(self.ids) + i for i, planned in enumerate(plan) if planned == CODE]
            drawn = self.stacks if spec.discrete else self.vectors
            (self.features if part.seen else drawn).append((at, part.content))
            written = [stands if planned == CODE else planned for planned in plan]
        else:
            written = ids.tolist()
        self.add(written, part.learned, inside, wrapping.one_position, _cells(wrapping, spec))
        self.add(wrapping.end(spec), part.learned and wrapping.learns_end, around)


def _cells(wrapping: Wrapping, spec: TokenSpec) -> list[tuple[int, int]]:
    """Row and column of each position of a picture's plan; where no code stands, 0."""
    found = iter([(y, x) for h, w in spec.grids for y in range(h) for x in range(w)])
    return [next(found) if planned == CODE else (0, 0) for planned in wrapping.plan(spec)]


def fitted(document: Document, wrapping: Wrapping, length: int) -> list[Part]:
    """The parts of a document that fit into so many positions. Text is cut where it must be; a
    picture that does not fit whole is left out with all that comes after it."""
    parts = list[Part]()
    for part in document:
        missing = wrapping.size([*parts, part]) - length
        if missing <= 0:
            parts.append(part)
            continue
        if part.spec is None and len(part.content) > missing:
            parts.append(Part(part.content[:-missing], learned=part.learned))
        break
    return parts


def rows_of(
    documents: Sequence[Document], wrapping: Wrapping, pad: int = 0, left: bool = False
) -> Rows:
    """A row of each document, padded with the id `pad` behind the end, or before the beginning
    (`left`).

    Raises ValueError for vectors of several widths.
    """
    return packed([[document] for document in documents], wrapping, pad, left)._replace(owners=None)


def packed(
    rows: Sequence[Sequence[Document]], wrapping: Wrapping, pad: int = 0, left: bool = False
) -> Rows:
    """Rows of several documents each, none of which sees another; else as `rows_of`."""
    lines = list[_Line]()
    for documents in rows:
        line = _Line()
        for document in documents:
            line.document(document, wrapping)
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
        _vectors([line.vectors for line in lines], starts, length),
        padded([line.owners for line in lines], 0),
        _vectors([line.features for line in lines], starts, length),
        _vectors([line.stacks for line in lines], starts, length),
        _beside([line.beside for line in lines]),
    )


def _beside(lines: Sequence[list[Tensor]]) -> Tensor | None:
    """Pictures beside each row as (B, P, N, E); None if there are none."""
    shapes = {picture.shape for line in lines for picture in line}
    if not shapes:
        return None
    if len(shapes) > 1:
        found = sorted(map(tuple, shapes))
        raise ValueError(f"pictures of one batch have vectors of one shape, got {found}")
    whole = torch.zeros(len(lines), max(map(len, lines)), *shapes.pop())
    for row, line in zip(whole, lines, strict=True):
        if line:
            row[: len(line)] = torch.stack(line)
    return whole


def _vectors(lines: Sequence[list[Placed]], starts: Sequence[int], length: int) -> Tensor | None:
    """What stands in the place of ids of each row, (B, L, C); None if nothing does."""
    contents = [content for line in lines for _, content in line]
    if not contents:
        return None
    widths = {content.shape[-1] for content in contents}
    if len(widths) > 1:
        raise ValueError(f"pictures of one batch have vectors of one width, got {sorted(widths)}")
    dtype = torch.float32 if contents[0].is_floating_point() else torch.int64
    whole = torch.zeros(len(lines), length, widths.pop(), dtype=dtype)
    for row, start, line in zip(whole, starts, lines, strict=True):
        for at, content in line:
            row[torch.tensor(at) + start] = content.to(dtype)
    return whole
