"""One after another: what several threads do with one model, an event of each in turn."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

import torch

from smalti.engine.batching import Counts, Stopped
from smalti.engine.waiting import Full, Late

E = TypeVar("E")


class Turnstile:
    """Places for so many streams at once, of which one goes on at a time, in the order in which
    they came; so many more may wait for a place, each for so many seconds at most."""

    def __init__(self, slots: int, queue: int, deadline: float, threads: int | None = None) -> None:
        self.slots, self.queue, self.deadline = slots, queue, deadline
        self.counts, self.last_turn = Counts(), time.monotonic()
        self.waiting = self.drawing = 0
        self._places, self._turns = deque[object](), deque[object]()
        self._changed = threading.Condition()
        self._seconds = 1.0
        """Of a stream, as they were lately."""
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
        """In how many seconds a stream that is asked for now would end."""
        return self._seconds * (1 + (self.waiting + self.drawing) / self.slots)

    def stream(self, make: Callable[[], Iterator[E]], gone: threading.Event) -> Iterator[E]:
        """The events of what `make` makes, each computed when it is this stream's turn, until it
        ends or `gone` is set.

        Raises Full, Late and Stopped.
        """
        with self._place():
            began, events = time.monotonic(), None
            while not gone.is_set():
                with self._turn():
                    events = self._pool.submit(make).result() if events is None else events
                    event = self._pool.submit(next, events, None).result()
                    self.counts.passes += 1
                if event is None:
                    self.counts.done += 1
                    self._seconds += 0.2 * (time.monotonic() - began - self._seconds)
                    return
                yield event
            self.counts.cancelled += 1

    @contextmanager
    def _place(self) -> Iterator[None]:
        ticket, end = object(), time.monotonic() + self.deadline
        with self._changed:
            if self._stopped:
                raise Stopped("no more is taken")
            if self.drawing >= self.slots and self.waiting >= self.queue:
                self.counts.refused += 1
                raise Full(self.waiting, self.eta())
            self._places.append(ticket)
            self.waiting += 1
            try:
                while self._places[0] is not ticket or self.drawing >= self.slots:
                    left = end - time.monotonic()
                    if self._stopped or left <= 0:
                        raise Stopped("no more is taken") if self._stopped else Late("too long")
                    self._changed.wait(left)
            finally:
                self._places.remove(ticket)
                self.waiting -= 1
                self._changed.notify_all()
            self.drawing += 1
        try:
            yield
        finally:
            with self._changed:
                self.drawing -= 1
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
