"""One after another: what several threads do with one model, a pass of each in turn."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import count, islice
from typing import NamedTuple, ParamSpec, TypeVar

import torch

from smalti.engine.batching import Counts, Stopped
from smalti.engine.running import computes
from smalti.engine.waiting import Full, Late
from smalti.serve.shared import Gone

E = TypeVar("E")
P = ParamSpec("P")
LOOK = 0.5
"""Seconds after which who waits for a place looks whether its client has gone."""


class Ticket(NamedTuple):
    """For a place: those of an earlier round come first, and of one round in their order."""

    number: int
    client: str
    round: int


class Turnstile:
    """Places for so many requests at once, whose streams go on one event at a time, in the order in
    which they came; so many more may wait for a place, each for so many seconds at most. Clients
    take turns for places.

    Args: `device` is the one that computes.
    """

    def __init__(
        self,
        slots: int,
        queue: int,
        deadline: float,
        threads: int | None = None,
        device: torch.device = torch.device("cpu"),  # noqa: B008 - it cannot be changed
    ) -> None:
        self.slots, self.queue, self.deadline, self.device = slots, queue, deadline, device
        self.counts, self.last_turn = Counts(), time.monotonic()
        self.drawing, self.broken = 0, False
        self._places, self._turns = list[Ticket](), deque[object]()
        self._numbers, self._round = count(), 0
        """The round is that of the last place that was given."""
        self._changed = threading.Condition()
        self._seconds = 1.0
        """Of a place, as they were lately."""
        self._stopped = False
        begin = partial(torch.set_num_threads, threads) if threads is not None else None
        self._pool = ThreadPoolExecutor(1, "smalti-talks", begin)
        """The thread that computes, whoever waits for it."""

    def start(self) -> None:
        """There is no thread to start."""

    def stop(self) -> None:
        """Let nobody in, and end those who are at their next event."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    @property
    def waiting(self) -> int:
        """How many wait for a place."""
        return len(self._places)

    @property
    def room(self) -> int:
        """How many more may wait, or begin."""
        return self.slots + self.queue - self.drawing - self.waiting

    def eta(self, count: int = 1) -> float:
        """In how many seconds a request that is made now would end, whatever its pictures are."""
        return self._seconds * (1 + (self.waiting + self.drawing) / self.slots)

    def stream(
        self, make: Callable[[], Iterator[E]], gone: threading.Event, ticket: Ticket | None = None
    ) -> Iterator[E]:
        """The events of what `make` makes, in a place of their own, as `turns` gives them.

        Raises Full, Late, Gone and Stopped.
        """
        with self.place(gone, ticket):
            yield from self.turns(make, gone)

    def turns(self, make: Callable[[], Iterator[E]], gone: threading.Event) -> Iterator[E]:
        """The events of what `make` makes, each computed when it is this stream's turn, until it
        ends or `gone` is set. For who has a place. Raises Stopped."""
        events = None
        try:
            while not gone.is_set():
                with self._turn():
                    events = self._computed(make) if events is None else events
                    found = self._computed(_next, events)
                    self.counts.passes += 1
                if not found:
                    self.counts.done += 1
                    return
                yield found[0]
            self.counts.cancelled += 1
        finally:
            if isinstance(events, Generator):
                self._pool.submit(events.close)  # where it was opened

    def call(self, function: Callable[[], E]) -> E:
        """Have something computed between two events. Raises Stopped, and what it raises."""
        with self._turn():
            return self._computed(function)

    def _computed(self, function: Callable[P, E], *given: P.args, **more: P.kwargs) -> E:
        """What the thread that computes makes of this."""
        try:
            return self._pool.submit(function, *given, **more).result()
        except Exception as error:
            self.broken = self.broken or not computes(self.device, error)
            raise

    def enter(self, client: str = "") -> Ticket:
        """Wait from now on, for a place that must then be taken. Raises Full and Stopped."""
        with self._changed:
            if self._stopped:
                raise Stopped("no more is taken")
            if self.room <= 0:
                self.counts.refused += 1
                raise Full(self.waiting, self.eta())
            own = [ticket.round for ticket in self._places if ticket.client == client]
            ticket = Ticket(next(self._numbers), client, 1 + max(own, default=self._round))
            self._places.append(ticket)
            return ticket

    def drop(self, ticket: Ticket) -> None:
        """Wait no longer for a place that nobody has come for."""
        with self._changed:
            if ticket in self._places:
                self._places.remove(ticket)
            self._changed.notify_all()

    @contextmanager
    def place(self, gone: threading.Event, ticket: Ticket | None = None) -> Iterator[None]:
        """A place, for who waits for it until `gone` is set; the one of a ticket, or any. Raises
        Full, Late, Gone and Stopped."""
        with self._changed:
            ticket = self.enter() if ticket is None else ticket
            self._wait(ticket, gone, time.monotonic() + self.deadline)
            self.drawing += 1
        began = time.monotonic()
        try:
            yield
            if not gone.is_set():
                self._seconds += 0.2 * (time.monotonic() - began - self._seconds)
        finally:
            with self._changed:
                self.drawing -= 1
                self._changed.notify_all()

    def _wait(self, ticket: Ticket, gone: threading.Event, end: float) -> None:
        """Until there is a place, and all who come before have one."""
        first = lambda: min(self._places, key=lambda t: t.round)  # noqa: E731
        try:
            while first() is not ticket or self.drawing >= self.slots:
                left = end - time.monotonic()
                if gone.is_set():
                    raise Gone
                if self._stopped or left <= 0:
                    raise Stopped("no more is taken") if self._stopped else Late("too long")
                self._changed.wait(min(left, LOOK))
            self._round = ticket.round
        finally:
            self._places.remove(ticket)
            self._changed.notify_all()

    @contextmanager
    def _turn(self) -> Iterator[None]:
        ticket = object()
        with self._changed:
            self._turns.append(ticket)
            while self._turns[0] is not ticket:
                self._changed.wait()
            if self._stopped:
                self._turns.remove(ticket)
                self._changed.notify_all()
                raise Stopped("the server is being stopped")
        self.last_turn = time.monotonic()
        try:
            yield
        finally:
            with self._changed:
                self._turns.remove(ticket)
                self._changed.notify_all()


def _next(events: Iterator[E]) -> list[E]:
    """The next event, or none."""
    return list(islice(events, 1))
