"""One after another: what several threads do with one model, a pass of each in turn."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import TypeVar

import torch

from smalti.engine.batching import Counts, Stopped
from smalti.engine.waiting import Full, Late
from smalti.serve.shared import Gone

E = TypeVar("E")
LOOK = 0.5
"""Seconds after which who waits for a place looks whether its client has gone."""


class Turnstile:
    """Places for so many requests at once, whose streams go on one event at a time, in the order in
    which they came; so many more may wait for a place, each for so many seconds at most."""

    def __init__(self, slots: int, queue: int, deadline: float, threads: int | None = None) -> None:
        self.slots, self.queue, self.deadline = slots, queue, deadline
        self.counts, self.last_turn = Counts(), time.monotonic()
        self.waiting = self.drawing = 0
        self._places, self._turns = deque[object](), deque[object]()
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

    def eta(self) -> float:
        """In how many seconds a request that is made now would end."""
        return self._seconds * (1 + (self.waiting + self.drawing) / self.slots)

    def stream(self, make: Callable[[], Iterator[E]], gone: threading.Event) -> Iterator[E]:
        """The events of what `make` makes, in a place of their own, as `turns` gives them.

        Raises Full, Late, Gone and Stopped.
        """
        with self.place(gone):
            yield from self.turns(make, gone)

    def turns(self, make: Callable[[], Iterator[E]], gone: threading.Event) -> Iterator[E]:
        """The events of what `make` makes, each computed when it is this stream's turn, until it
        ends or `gone` is set. For who has a place. Raises Stopped."""
        events = None
        try:
            while not gone.is_set():
                with self._turn():
                    events = self._pool.submit(make).result() if events is None else events
                    found = self._pool.submit(_next, events).result()
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
            return self._pool.submit(function).result()

    @contextmanager
    def place(self, gone: threading.Event) -> Iterator[None]:
        """A place, for who waits for it until `gone` is set. Raises Full, Late, Gone and
        Stopped."""
        with self._changed:
            if self._stopped:
                raise Stopped("no more is taken")
            if self.drawing >= self.slots and self.waiting >= self.queue:
                self.counts.refused += 1
                raise Full(self.waiting, self.eta())
            self._wait(gone, time.monotonic() + self.deadline)
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

    def _wait(self, gone: threading.Event, end: float) -> None:
        """Until there is a place, and all who came before have one."""
        ticket = object()
        self._places.append(ticket)
        self.waiting += 1
        try:
            while self._places[0] is not ticket or self.drawing >= self.slots:
                left = end - time.monotonic()
                if gone.is_set():
                    raise Gone
                if self._stopped or left <= 0:
                    raise Stopped("no more is taken") if self._stopped else Late("too long")
                self._changed.wait(min(left, LOOK))
        finally:
            self._places.remove(ticket)
            self.waiting -= 1
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
