"""Models whose draws are recorded once and replayed, where a device can (`devices.graphs`).

The loops do not know of it: a captured model is asked as the model itself is. What a draw reads is
kept in one place: what is prepared, the cache, codes, slots, random numbers. Where a model draws
one position a step, steps differ in how far they read the cache, and in nothing else once slots are
tensors; so a step reads up to the next of a few limits, masked (`Span.start` None), and one
recording serves all steps below it. Of models of scales each scale is a recording, of masked ones
each step.

Recordings are kept as long as the model, and made anew where its weights have moved.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Hashable
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Self
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from smalti.codes import Draw, Rowwise, Span, TokenSpec, Turn
from smalti.devices.graphs import Record, Recorded, fill, form, mapped, recorder, tensors
from smalti.engine.told import Asked, Listening, Told, with_ahead
from smalti.sampling.chance import Chance

LIMIT = 64
"""Slots between limits of the cache that steps read, at least."""
LIMITS = 16
"""Limits, at most."""
BOARDS = 4
"""Kinds of requests whose recordings are kept: batches of so many rows, on one grid."""
SWITCH = "SMALTI_GRAPHS"
"""The environment variable that is 0 where nothing is to be recorded."""


@dataclass
class Board:
    """Where the steps of one kind of request read and write, and their recordings."""

    record: Record
    prepared: Rowwise
    cache: Any
    given: list[Tensor]
    """The tensors of what is prepared, to which a model may add some."""
    blank: list[Tensor]
    """The tensors of the cache as it was new."""
    steps: dict[Hashable, Recorded[Draw]] = field(default_factory=dict[Hashable, Recorded[Draw]])
    asked: dict[Hashable, list[Asked]] = field(default_factory=dict[Hashable, list[Asked]])
    """Which random numbers each step asks for."""

    @staticmethod
    def of(record: Record, prepared: Rowwise, cache: Any) -> Board:
        return Board(record, prepared, cache, list(tensors(prepared)), list(tensors(cache)))

    def begin(self, prepared: Rowwise, before: Any) -> None:
        """Prepare for another request of the kind; `before` is its cache, if it has begun."""
        fill(self.given, prepared)
        for tensor in self.blank:  # broken weights may have left what is no number
            tensor.zero_()
        if before is not None:
            fill(self.blank, before)


@dataclass
class Kept:
    """The recordings of a model, which has these weights."""

    weights: list[Any]
    boards: dict[Hashable, Board] = field(default_factory=dict[Hashable, Board])
    busy: bool = False


_KEPT: WeakKeyDictionary[nn.Module, Kept] = WeakKeyDictionary()


@contextmanager
def captured(model: Any, record: Callable[[], Record] | None = None) -> Generator[Any]:
    """A context in which a model's draws are recorded and replayed; the model itself where its
    device has no recordings, where the environment says so, and while another loop uses them.

    `record` makes what records, in place of the device's own.
    """
    weights = [*model.parameters(), *model.buffers()]
    if record is None and weights:
        record = recorder(weights[0].device)
    kept = _KEPT.get(model)
    if record is None or os.environ.get(SWITCH) == "0" or (kept is not None and kept.busy):
        yield model
        return
    places = [(t.data_ptr(), t.dtype, t.shape) for t in weights]
    if kept is None or kept.weights != places:
        kept = _KEPT[model] = Kept(places)
    kept.busy = True
    try:
        yield Captured(model, kept, record)
    finally:
        kept.busy = False


def recordings(model: nn.Module) -> int:
    """How many steps of a model are recorded."""
    kept = _KEPT.get(model)
    return 0 if kept is None else sum(len(board.steps) for board in kept.boards.values())


@dataclass
class Given:
    """What a model prepared for a request, and where that is drawn."""

    prepared: Rowwise
    board: Board | None = None
    before: Any = None
    """The cache of these rows as it was where they were drawn with others."""


class Parted(Given, Rowwise):
    """The same of a model of one position a step, of which some rows can go on without others."""

    def rows(self, index: Tensor) -> Self:
        before = None if self.board is None else self.board.cache.rows(index)
        return replace(self, prepared=self.prepared.rows(index), board=None, before=before)


class Wanted(NamedTuple):
    """The cache that is asked for of a model."""

    batch: int
    spec: TokenSpec | None = None

    def rows(self, index: Tensor) -> Self:
        return self._replace(batch=len(index))


class Captured:
    """A model whose draws are recorded, as the loops of pictures know it."""

    def __init__(self, model: Any, kept: Kept, record: Callable[[], Record]) -> None:
        self.inner, self.kept, self.record = model, kept, record

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def prepare(self, *arguments: Any) -> Any:
        """What the model prepares, to be given to `draw`. Rows of models of scales stay together:
        at which scale their caches are, replays do not say."""
        prepared = self.inner.prepare(*arguments)
        if not isinstance(prepared, Rowwise):
            return prepared
        turns = self.inner.loop == "causal" and max(self.inner.blocks(*arguments[2:])) == 1
        return (Parted if turns else Given)(prepared)

    def cache(self, *arguments: Any) -> Any:
        """What the model's cache is of; the first draw makes or finds it. Of a masked model the
        cache itself: what its steps write there depends on those before, so none is recorded."""
        return self.inner.cache(*arguments) if self.inner.loop == "masked" else Wanted(*arguments)

    def draw(self, codes: Tensor, cond: Any, at: Span | Turn, cache: Any, chance: Chance) -> Draw:
        """What the model draws."""
        if isinstance(at, Turn) and cache is not None:
            return self.inner.draw(codes, cond.prepared, at, cache, chance)
        at, chance, noise = self._place(at, cache), _still(chance, codes.device), chance.noise
        bare = chance._replace(noise=with_ahead(noise, None))
        key = form((codes, at, bare, noise.ahead is None))
        rows = torch.arange(cond.prepared.batch, device=codes.device)
        if cond.board is None:
            cond.board = self._board(cond.prepared.rows(rows), cache, key, cond.before)
        board: Board = cond.board
        if key in board.steps:
            given = codes, at, _told(chance, board.asked[key])
            return mapped(board.steps[key](given), torch.clone)

        def step(given: Any, prepared: Rowwise = board.prepared, cache: Any = board.cache) -> Draw:
            codes, at, chance = given
            return self.inner.draw(codes, prepared, at, cache, chance)

        def warm(given: Any) -> None:
            step(
                given, board.prepared.rows(rows), None if cache is None else board.cache.rows(rows)
            )

        board.asked[key] = _asked(chance, lambda chance: warm((codes, at, chance)))
        given = codes, at, _told(chance, board.asked[key])
        board.steps[key] = Recorded(step, given, board.record, warm)
        return mapped(board.steps[key].given, torch.clone)

    def _board(self, prepared: Rowwise, cache: Any, first: Hashable, before: Any) -> Board:
        """Where requests are drawn that begin with the same step: models may keep what it makes."""
        boards, key = self.kept.boards, (cache, form(prepared), first)
        if key in boards:
            boards[key] = boards.pop(key)  # the last that is dropped
            boards[key].begin(prepared, before)
            return boards[key]
        while len(boards) >= BOARDS:
            del boards[next(iter(boards))]
        if before is None and cache is not None:
            before = self.inner.cache(*cache)
        boards[key] = Board.of(self.record(), prepared, before)
        return boards[key]

    def _place(self, at: Span | Turn, cache: Any) -> Span | Turn:
        """A step of single positions as it is up to the next limit; one of a masked model with a
        weight that may change."""
        if isinstance(at, Turn):
            if not isinstance(at.doubt, float):
                return at
            return at._replace(doubt=torch.full((1,), at.doubt, device=at.known.device))
        if at.first:
            return at
        blocks = self.inner.blocks(*cache[1:])
        if max(blocks) > 1:
            return at
        total = len(blocks)
        every = max(LIMIT, -(-total // (LIMIT * LIMITS)) * LIMIT)
        return at._replace(reach=min(-(-at.reach // every) * every, total), start=None)


def _still(chance: Chance, device: torch.device) -> Chance:
    """The same with a scale of guidance that is a tensor, which may change from step to step."""
    guide: Any = chance.guide
    if not isinstance(getattr(guide, "scale", None), float | int):
        return chance
    return chance._replace(guide=replace(guide, scale=torch.full((1,), guide.scale, device=device)))


def _asked(chance: Chance, draw: Callable[[Chance], object]) -> list[Asked]:
    """The numbers that a draw asks of what computes them ahead."""
    if chance.noise.ahead is None:
        return []
    listening = Listening(chance.noise.ahead, chance.noise.reach)
    draw(chance._replace(noise=with_ahead(chance.noise, listening)))
    return listening.asked


def _told(chance: Chance, asked: list[Asked]) -> Chance:
    """The same with these numbers in place of what computes them ahead."""
    if chance.noise.ahead is None:
        return chance
    return chance._replace(noise=with_ahead(chance.noise, Told(chance.noise, asked)))
