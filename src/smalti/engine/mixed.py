"""The loop of models that write text and draw pictures in one sequence.

Rows take turns: those that write do so until each has ended or begun a picture; then all that have
begun one draw it, by the loop of such pictures; then they go on with text. Between turns a document
is its parts and nothing else, so whatever is known can stand anywhere in it; each turn reads it
once, and draws behind what it has read.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from smalti.codes import Cond, Known, TokenSpec
from smalti.engine import LOOPS, causal
from smalti.engine.step import Request, Step
from smalti.sampling.filters import Filters
from smalti.sampling.guidance import Guidance
from smalti.text.sequence import Document, Part, Rows, Wrapping, rows_of


class MixedModel(Protocol):
    """What the loop knows of a model."""

    spec: TokenSpec
    """What a picture's codes are."""
    wrapping: Wrapping
    """How a picture is written."""

    def writer(self, rows: Rows, length: int, allowed: Tensor, penalty: float) -> Any:
        """A `CausalModel` that draws so many ids at the end of rows, of those that are allowed,
        (B, V) bool."""
        ...

    def picture(self, rows: Rows) -> Any:
        """A model of one of the loops that draws the picture at the end of rows."""
        ...

    def nothing(self, document: Document) -> Document:
        """A document that ends with a picture without what is before it, which guidance compares
        with."""
        ...

    def pictures(self, document: Document) -> Document:
        """The same without its text alone."""
        ...


@dataclass(frozen=True)
class MixedRequest:
    """What is to go on, and how. B documents."""

    documents: Sequence[Document]
    how: Request
    """How pictures are drawn: B rows of random numbers, guidance, filters, solver; what is known of
    the first picture of each. Its condition is not read."""
    words: Tensor
    """(V,) bool: the ids of text that may be written."""
    stops: Sequence[int] = ()
    """Ids that end a document."""
    text: Filters = Filters()
    """How ids of text are drawn."""
    penalty: float = 1.0
    """Of ids that a document has already; 1 is off."""
    most: int = 0
    """Ids of a stretch of text; 0: no text is written."""
    pictures: int = 1
    """How many pictures each document may have more."""
    first: Literal["text", "picture"] = "text"
    """What comes first."""
    length: int = 4096
    """Positions of a document, at most."""
    away: Sequence[Document | None] = ()
    """What stands before the picture that guidance compares with in every document; None, or if
    there are none: nothing, as the model has it."""
    blank: Collection[int] = ()
    """Documents before whose first picture stands nothing, as the model has it."""


class Wrote(NamedTuple):
    """An id more of a text."""

    row: int
    ids: list[int]
    """The stretch of text so far."""


class Drawing(NamedTuple):
    """A step of pictures."""

    rows: list[int]
    step: Step


class Finished(NamedTuple):
    """A text or a picture that is whole."""

    row: int
    part: Part
    cut: bool = False
    """Whether the document ends here because nothing more fits, not by an id that stops it."""


Event = Wrote | Drawing | Finished


@dataclass
class _Row:
    """A document as it grows."""

    number: int
    parts: list[Part]
    pictures: int
    """How many it may still have."""
    turn: Literal["text", "picture", "done"]
    fresh: bool = True
    """Whether it has drawn none."""


def stream(model: MixedModel, request: MixedRequest) -> Iterator[Event]:
    """Go on with documents, yielding what happens.

    Raises ValueError for a document that does not fit, for a grammar that leaves nothing to write,
    and as the loops of pictures do.
    """
    picture = picture_of(model)
    rows = [
        _Row(i, list(document), request.pictures, request.first)
        for i, document in enumerate(request.documents)
    ]
    turn = 0
    while open_ := [row for row in rows if row.turn != "done"]:
        for row in open_:  # behind a picture there may be no room left
            if row.turn == "text" and (not request.most or turn and _room(model, request, row) < 1):
                row.turn = "done"
        writing = [row for row in open_ if row.turn == "text"]
        if writing:
            yield from _write(model, request, writing, picture, 2 * turn + 1)
        drawing = [row for row in rows if row.turn == "picture"]
        if drawing:
            yield from _draw(model, request, drawing, picture, 2 * turn)
        turn += 1


def picture_of(model: MixedModel) -> Part:
    """A picture of zeros."""
    return Part(model.spec.empty(1)[0], model.spec)


def begin_of(model: MixedModel) -> int | None:
    """The id that begins a picture; None of a model that draws none."""
    return next(iter(model.wrapping.begin(model.spec)), None)


def room(model: MixedModel, document: Document, length: int) -> int:
    """How many ids of text may follow on a document, of `length` positions in all: below 1 it
    leaves no room for text."""
    return length - model.wrapping.size([*document, blank_text()])


def _used(row: _Row, wrapping: Wrapping, *more: Part) -> int:
    """Positions of a row, with some parts more."""
    return wrapping.size([*row.parts, *more])


def _room(model: MixedModel, request: MixedRequest, row: _Row) -> int:
    """How many ids of text a row has room for."""
    return room(model, row.parts, request.length)


def _write(
    model: MixedModel, request: MixedRequest, rows: list[_Row], picture: Part, turn: int
) -> Iterator[Event]:
    """A stretch of text of each row."""
    begin, device = begin_of(model), request.how.noise.seeds.device
    rooms = [min(request.most, _room(model, request, row)) for row in rows]
    if (room := min(rooms)) < 1:
        raise ValueError(
            f"a document of {request.length - room} positions leaves no room for text: "
            f"the model reads {request.length}"
        )
    length, allowed = max(rooms), _allowed(model, request, rows, picture).to(device)
    blank = Part(torch.zeros(length, dtype=torch.int64))
    context = rows_of([[*row.parts, blank] for row in rows], model.wrapping, left=True)
    writer = model.writer(context.to(device), length, allowed, request.penalty)
    wish = _request(
        request, rows, turn, replace(request.how, filters=request.text, known=None, orders=None)
    )
    written, ends = [list[int]() for _ in rows], list[int | None]([None for _ in rows])
    going = list(range(len(rows)))
    for step in causal.stream(writer, wish):
        new = [int(code) for code in step.codes[:, step.done - 1].cpu()]
        for i in going:
            if new[i] in request.stops or new[i] == begin:
                ends[i] = new[i]
            else:
                written[i].append(new[i])
                yield Wrote(rows[i].number, written[i])
        going = [i for i in going if ends[i] is None and len(written[i]) < rooms[i]]
        if not going:
            break
    for row, ids, end in zip(rows, written, ends, strict=True):
        if ids:
            row.parts.append(Part(torch.tensor(ids), learned=False))
        fits = _used(row, model.wrapping, picture) <= request.length  # behind what it wrote
        begun = end is not None and end == begin
        row.turn = "picture" if begun and fits else "done"
        if ids or not begun:
            cut = end is None or begun and not fits
            yield Finished(row.number, row.parts[-1] if ids else blank_text(), cut)


def _allowed(model: MixedModel, request: MixedRequest, rows: list[_Row], picture: Part) -> Tensor:
    """Which ids each row may write, (B, V) bool: text, what ends it, and the begin of a picture
    where one more fits."""
    allowed = request.words.expand(len(rows), -1).clone()
    allowed[:, list(request.stops)] = True
    fits = [
        row.pictures > 0 and _used(row, model.wrapping, picture) <= request.length for row in rows
    ]
    if (begin := begin_of(model)) is not None:
        allowed[:, begin] = torch.tensor(fits)
    if not allowed.any(1).all():
        raise ValueError("the grammar leaves no id that may be written")
    return allowed


def blank_text() -> Part:
    """A text without ids."""
    return Part(torch.zeros(0, dtype=torch.int64), learned=False)


def _draw(
    model: MixedModel, request: MixedRequest, rows: list[_Row], picture: Part, turn: int
) -> Iterator[Event]:
    """A picture of each row."""
    wrapping, device = model.wrapping, request.how.noise.seeds.device
    documents = [
        model.nothing([*row.parts, picture])
        if row.fresh and row.number in request.blank
        else [*row.parts, picture]
        for row in rows
    ]
    away = [request.away[row.number] if request.away else None for row in rows]
    behind = [[*parts, picture] for parts in away if parts is not None]
    if (used := max(map(wrapping.size, [*documents, *behind]))) > request.length:
        raise ValueError(
            f"a picture more makes a document of {used} positions: the model reads {request.length}"
        )
    branches, guidance = list[Document](documents), request.how.guidance
    if not guidance.off:
        branches += [
            model.nothing(document) if parts is None else [*parts, picture]
            for document, parts in zip(documents, away, strict=True)
        ]
        if guidance.pictures is not None:
            branches += [model.pictures(document) for document in documents]
    drawer = model.picture(rows_of(branches, wrapping, left=True).to(device))
    wish = _request(request, rows, turn, request.how, len(branches) // len(rows))
    step = None
    for step in LOOPS[drawer.loop](drawer, wish):
        yield Drawing([row.number for row in rows], step)
    assert step is not None
    for row, codes in zip(rows, step.codes.clone().cpu(), strict=True):
        row.parts.append(Part(codes, model.spec, learned=False))
        row.pictures, row.turn, row.fresh = row.pictures - 1, "text", False
        yield Finished(row.number, row.parts[-1])


def _request(
    request: MixedRequest, rows: list[_Row], turn: int, how: Request, branches: int = 1
) -> Request:
    """What a loop is asked for, of some rows: its conditions are numbers of rows of a context."""
    count, device = len(rows), how.noise.seeds.device
    chosen = torch.tensor([row.number for row in rows], device=device)
    numbers = torch.arange(count * branches, device=device).view(branches, count)
    each = [Cond(labels=n) for n in numbers]
    known, orders = how.known, how.orders
    fresh = torch.tensor([row.fresh for row in rows], device=device)
    return replace(
        how,
        cond=each[0],
        noise=how.noise.turn(turn, chosen),
        guidance=how.guidance if branches > 1 else Guidance(),
        known=known and Known(known.codes[chosen], known.mask[chosen] & fresh.unsqueeze(1)),
        negative=each[1] if branches > 1 else None,
        pictures=each[2] if branches > 2 else None,
        orders=orders[chosen] if orders is not None and orders.dim() == 2 else orders,
    )
