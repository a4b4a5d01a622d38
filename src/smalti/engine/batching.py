"""Drawing for many at once: pictures wait their turn, are drawn together, and are made visible.

The unit is one picture. Whoever asks for several asks for each; pictures of one client are begun in
the order in which they came, and clients take turns. As many pictures as there are slots are drawn
at once (`running`); between two steps finished ones are decoded, and if there is time, those on the
way. All of that is done by one thread, which owns the model; everything else here can be called
from any thread.

Each picture has a fixed number of steps, so how long one has to wait is known (`eta`).
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from heapq import heapify, heapreplace
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from smalti.codes import TokenSpec
from smalti.engine.lanes import Moved
from smalti.engine.running import Running, computes
from smalti.engine.step import Request, Step
from smalti.engine.waiting import Drawn, Event, Failed, Full, Job, Late, Shown, Waiting

R = TypeVar("R")


class Stopped(Exception):
    """No more pictures are drawn."""


class Decoder(NamedTuple):
    """What makes codes visible, called in the thread that draws."""

    whole: Callable[[Tensor, TokenSpec | None], Sequence[Any]]
    """Codes (B, N, ...), or vectors that stand for them, of a spec to B pictures."""
    partly: Callable[[Step, TokenSpec | None], Sequence[Any]]
    """A step of B rows to B pictures."""


@dataclass
class Counts:
    """What happened so far."""

    done: int = 0
    failed: int = 0
    cancelled: int = 0
    refused: int = 0
    passes: int = 0
    rows: int = 0
    """Of all passes."""
    shown: int = 0
    dropped: int = 0
    """Pictures on the way that nobody had time for."""


class Batching:
    """A model, its slots, and who waits for one. See `submit`, `cancel`, `start` and `stop`.

    Args: how many pictures are drawn at once; how many may wait; the seconds after which one that
    waits is given up; the seconds that the first of a cohort waits for others, for models whose
    pictures share passes only if they begin together; how many are decoded at once; how many
    threads the one that draws computes with, None as many as torch takes. Others should then take
    one: two teams of threads on the same cores wait for each other.
    """

    def __init__(
        self,
        running: Running,
        decoder: Decoder,
        slots: int = 8,
        queue: int = 64,
        deadline: float = 300.0,
        window: float = 0.005,
        together: int = 8,
        threads: int | None = None,
    ) -> None:
        self.running, self.decoder = running, decoder
        self.slots, self.queue, self.deadline = slots, queue, deadline
        self.window, self.together, self.threads = window, together, threads
        self.counts, self.last_turn = Counts(), time.monotonic()
        self._waiting, self._held = Waiting(), 0
        self._live = dict[int, Job]()
        self._finished, self._previews = deque[Job](), dict[Job, None]()
        self._calls = deque[tuple[Callable[[], Any], Future[Any]]]()
        self._changed = threading.Condition()
        self._seconds, self._steps = 0.05, running.steps
        """Of a turn, and of a picture, as they were lately."""
        self._thread: threading.Thread | None = None
        self._closed = False
        self.broken = False
        """Whether the device computes no more, so that no picture will ever be drawn."""

    # -- from any thread

    def submit(self, jobs: Sequence[Job], held: int | None = None) -> None:
        """Ask for pictures: for all or, if there is no place for all, for none. Where so many
        places are `held` for them, 0 if they go on with earlier ones, none is looked for.

        Raises Full if too many wait, Stopped after `stop`, and ValueError for more pictures at
        once than ever may wait.
        """
        with self._changed:
            if held is None or self._closed:
                self._require_room(len(jobs))
            self._held -= held or 0
            now = time.monotonic()
            for job in jobs:
                job.times = [now]
            self._waiting.put(jobs)
            self._changed.notify_all()

    def hold(self, count: int) -> None:
        """Keep places for pictures that are asked for soon, or let go of some that were kept.
        Raises what `submit` does."""
        with self._changed:
            if count > 0:
                self._require_room(count)
            self._held += count

    def _require_room(self, count: int) -> None:
        if count > self.queue:
            raise ValueError(f"{count} pictures at once; at most {self.queue} may wait")
        if self._closed:
            raise Stopped("no more pictures are taken")
        if count > self.room:
            self.counts.refused += count
            raise Full(self.queue - self.room, self._eta(self.waiting))

    def cancel(self, job: Job) -> None:
        """Give a picture up: it is drawn no further than the step that is being done."""
        with self._changed:
            job.cancelled = True
            self._changed.notify_all()

    def call(self, function: Callable[[], R]) -> Future[R]:
        """Have something done between two steps, by the thread that draws."""
        future = Future[R]()
        with self._changed:
            if self._closed:
                raise Stopped("no more is computed")
            self._calls.append((function, future))
            self._changed.notify_all()
        return future

    @property
    def waiting(self) -> int:
        """How many pictures wait for their first step."""
        with self._changed:
            return len(self._waiting)

    @property
    def room(self) -> int:
        """How many more may wait."""
        with self._changed:
            return self.queue - len(self._waiting) - self._held

    @property
    def drawing(self) -> int:
        """How many are being drawn."""
        return len(self._live)

    def eta(self, count: int = 1) -> float:
        """In how many seconds so many pictures that are asked for now would be done."""
        with self._changed:
            return self._eta(self.waiting + count)

    def _eta(self, places: int) -> float:
        """When the last of so many pictures will be done: those that wait, and others like the
        last one that was drawn."""
        free = [job.total - job.done for job in list(self._live.values())][: self.slots]
        free += [0] * (self.slots - len(free))
        heapify(free)
        end, totals = 0, [job.total or self._steps for job in self._waiting]
        for total in [*totals, *[self._steps] * places][:places]:
            end = free[0] + total
            heapreplace(free, end)
        return end * self._seconds

    def start(self) -> None:
        """Draw, in a thread of its own, until `stop`."""
        self._thread = threading.Thread(target=self._loop, name="smalti-draws", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Take no more pictures, and let go of those that are not done."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
        for job in self._everything():
            self._fail(job, Stopped("no more pictures are drawn"))
        for _, future in self._calls:
            if future.set_running_or_notify_cancel():  # or nobody waits for it any more
                future.set_exception(Stopped("no more is computed"))
        self._calls.clear()
        self.running.close()

    # -- in the thread that draws

    def _loop(self) -> None:
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        while not self._closed:
            if not self._turn():
                with self._changed:
                    if not self._busy and not self._closed:
                        self._changed.wait(1.0)
                    elif self._busy:
                        self._changed.wait(self.window)

    def _turn(self) -> bool:
        """A turn. What goes wrong in it, but for a picture's own fault, ends the pictures that are
        being drawn, and no others."""
        try:
            return self.turn()
        except Exception as error:
            some = [*self._live.values(), *self._finished]
            self._let_go()
            for job in some:
                with suppress(Exception):  # whoever is told may be what went wrong
                    self._fail(job, error)
            return True

    @property
    def _busy(self) -> bool:
        some = self._live or self._finished or self._previews or self._calls
        return bool(some) or self.waiting > 0

    def turn(self) -> bool:
        """One step of everything: what is new begins, what is drawn goes on, what is finished is
        decoded. Says whether there was anything to do."""
        began = self.last_turn = time.monotonic()
        self._sweep(began)
        self._admit(began)
        moved = self.running.step()
        for number, what in moved:
            self._move(number, what)
        if moved:
            self.counts.passes += 1
            self.counts.rows += len(moved)
        seen = self._show()
        called = self._call()
        if moved:
            self._seconds += 0.1 * (time.monotonic() - began - self._seconds)
        with self._changed:
            self._changed.notify_all()
        return bool(moved) or seen or called

    def _sweep(self, now: float) -> None:
        """Let go of what was cancelled, and of what has waited for too long."""
        for number, job in list(self._live.items()):
            if job.cancelled:
                self.running.leave(number)
                del self._live[number]
                self._previews.pop(job, None)
                self.counts.cancelled += 1
        for job in [job for job in self._finished if job.cancelled]:
            self._finished.remove(job)
            self.counts.cancelled += 1
        with self._changed:
            cancelled, late = self._waiting.sweep(now - self.deadline)
        self.counts.cancelled += cancelled
        for job in late:
            self._fail(job, Late(f"it waited for more than {self.deadline:g} seconds"))

    def _admit(self, now: float) -> None:
        """Begin pictures while there are slots."""
        made = list[tuple[Job, Request]]()
        for job in self._next(now):
            try:
                made.append((job, job.request()))
            except Exception as error:
                self._fail(job, error)
        if not made:
            return
        try:
            self._begin(made)
        except Exception:  # one of them cannot be drawn: each by itself
            for one in made:
                try:
                    self._begin([one])
                except Exception as error:
                    self._fail(one[0], error)

    def _begin(self, made: Sequence[tuple[Job, Request]]) -> None:
        numbers = self.running.join([request for _, request in made])
        for number, (job, request) in zip(numbers, made, strict=True):
            job.spec = request.spec
            job.times.append(time.monotonic())
            self._live[number] = job

    def _next(self, now: float) -> list[Job]:
        """Whose turn it is: as many as there are free slots, a client after another."""
        with self._changed:
            count, free = len(self._waiting), self.slots - len(self._live)
            if not count or not free:
                return []
            alone = self.running.cohorts and not self._live and count < free
            if alone and now - self._waiting.first() < self.window:
                return []
            return self._waiting.take(free)

    def _move(self, number: int, moved: Moved) -> None:
        """Take note of what became of a picture in a step."""
        job = self._live[number]
        if not isinstance(moved, Step):
            del self._live[number]
            self._fail(job, moved)
            return
        before, job.done, job.total = job.done, moved.done, moved.total
        self._steps = moved.total
        if moved.done == moved.total:
            del self._live[number]
            self._drop(job)
            job.times.append(time.monotonic())
            if job.codes:
                self._finish(job, moved.drawn[0].clone())
            else:
                job.pending = moved
                self._finished.append(job)
            return
        parts = job.previews.of(moved.total) + 1
        if moved.done * parts // moved.total > before * parts // moved.total:
            self._drop(job)
            copies = (t if t is None else t.clone() for t in (moved.codes, moved.vectors))
            codes, vectors = copies
            job.pending = moved._replace(codes=codes, vectors=vectors)
            self._previews[job] = None

    def _drop(self, job: Job) -> None:
        """Of a picture on the way that nobody has seen there is a later one."""
        if job in self._previews:
            del self._previews[job]
            self.counts.dropped += 1

    def _show(self) -> bool:
        """Decode finished pictures; if there are none, those on the way."""
        finished = bool(self._finished)
        source = list(self._finished) if finished else list(self._previews)
        some = [job for job in source if job.spec == source[0].spec][: self.together]
        if not some:
            return False
        for job, picture in zip(some, self._pictures(some, finished), strict=True):
            step, job.pending = job.pending, None
            if finished:
                self._finished.remove(job)
            else:
                del self._previews[job]
            if isinstance(picture, Exception):
                if finished:
                    self._fail(job, picture)
            elif finished:
                self._finish(job, picture)
            elif step is not None:
                self.counts.shown += 1
                self._tell(job, Shown(picture, step.done, step.total))
        return True

    def _pictures(self, jobs: Sequence[Job], finished: bool) -> list[Any]:
        """How jobs look, or why they cannot be seen: what cannot be decoded together is decoded
        each by itself."""
        steps = [job.pending for job in jobs if job.pending is not None]
        try:
            return [*self._decoded(steps, jobs[0].spec, finished)]
        except Exception as error:
            if len(jobs) == 1:
                return [error]
            return [picture for job in jobs for picture in self._pictures([job], finished)]

    def _decoded(
        self, steps: Sequence[Step], spec: TokenSpec | None, finished: bool
    ) -> Sequence[Any]:
        """Pictures of steps of one row each."""
        drawn = torch.cat([step.drawn for step in steps])
        if finished:
            return self.decoder.whole(drawn, spec)
        ready = torch.stack([step.ready.view(-1) for step in steps])
        vectors = None if steps[0].vectors is None else drawn
        codes = torch.cat([step.codes for step in steps])
        first = steps[0]
        return self.decoder.partly(
            Step(first.done, first.total, codes, first.logp, ready, vectors), spec
        )

    def _call(self) -> bool:
        """Do one of the things that were asked for between steps."""
        with self._changed:
            if not self._calls:
                return False
            function, future = self._calls.popleft()
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(function())
            except BaseException as error:
                self._look(error)
                future.set_exception(error)
        return True

    def _finish(self, job: Job, result: Any) -> None:
        came, began, drawn = job.times
        self.counts.done += 1
        now = time.monotonic()
        self._tell(job, Drawn(result, began - came, drawn - began, now - drawn))

    def _fail(self, job: Job, error: Exception) -> None:
        self.counts.failed += 1
        self._look(error)
        self._tell(job, Failed(error))

    def _look(self, error: BaseException) -> None:
        """See whether the device still computes after an error."""
        device = next(self.running.model.parameters()).device
        self.broken = self.broken or not computes(device, error)

    def _tell(self, job: Job, event: Event) -> None:
        if not job.cancelled:
            job.tell(event)

    def _everything(self) -> list[Job]:
        """Every picture that is not done."""
        found = [*self._live.values(), *self._finished, *self._waiting.take(len(self._waiting))]
        self._let_go()
        return found

    def _let_go(self) -> None:
        """Forget all that is being drawn."""
        self.running.clear()
        for held in (self._live, self._finished, self._previews):
            held.clear()
