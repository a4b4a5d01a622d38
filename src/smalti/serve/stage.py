"""What a request waits for: its pictures, from asking for them until all have come, or nobody waits
for them any more."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from fastapi import Request
from PIL import Image

from smalti.engine.waiting import Drawn, Event, Full, Job, Shown
from smalti.pipeline.request import Part
from smalti.serve.edits import Task, Told
from smalti.serve.errors import Refused
from smalti.serve.orders import Order
from smalti.serve.shared import Gone, Guest, Shared, share
from smalti.serve.state import Server
from smalti.serve.talker import Listener, Talker

T = TypeVar("T")
KEEP_ALIVE = 10.0
"""Seconds between comments of a stream on which nothing happens."""


class Stage:
    """What a request waits for: its pictures, as they come."""

    def __init__(self, server: Server, one: Shared | Talker, order: Order, client: str) -> None:
        self.server, self.one, self.order, self.client = server, one, order, client
        self.loop, self.told = asyncio.get_running_loop(), asyncio.Queue[Any]()
        self.jobs, self.guest = list[Job](), None
        self.began, self.left = time.monotonic(), order.n
        """When it came, until a first picture on the way has; and how many pictures have not."""
        self.drawn = list[Drawn]()
        self._uncounted, self._counting = order.n, threading.Lock()
        self._held = False

    def hold(self, share: int) -> None:
        """Take places of the client's share. Raises what `Server.hold` does."""
        self.server.hold(self.one, self.client, self.order.n, share)
        self._held = True

    def tell(self, *what: Any) -> None:
        """From any thread."""
        with suppress(RuntimeError):  # the loop has gone
            self.loop.call_soon_threadsafe(self.told.put_nowait, what)

    def draw(self) -> None:
        """Ask for the pictures. Raises what `Batching.submit` does."""
        if isinstance(self.one, Talker):
            return self.edit(Told())
        wanted, order, pipeline = dict(self.order.wanted), self.order, self.one.pipeline
        asked = pipeline.asked(
            classes=wanted.pop("classes", None),
            text=wanted.pop("text", None),
            negative=wanted.pop("negative", None),
            map=wanted.pop("map", None),
            size=wanted.get("size"),
        )
        drawing = pipeline.drawing(asked, **wanted)
        drawing.sampling.check(pipeline.model, drawing.spec)
        parts = drawing.parts(order.n, order.first, 1)
        if order.others:  # each picture is the same one of its own seed
            seeds = (order.seed, *order.others)
            parts = [
                part._replace(seed=seed, first=order.first)
                for part, seed in zip(parts, seeds, strict=True)
            ]
        self.jobs = self.one.jobs(parts, self._drawn, self.client, order.previews)
        self.one.batching.submit(self.jobs)

    def _drawn(self, number: int, part: Part, event: Event) -> None:
        """In the thread that draws."""
        if isinstance(event, Drawn):
            self.count("done", 1)
            self.server.metrics.drawn(self.one.name, event)
            self.drawn.append(event)
            (image,) = self.one.pipeline.tagged(event.result[None], part)
            self.tell(number, image, True)
        elif isinstance(event, Shown):
            self.tell(number, event.picture, False)
        else:
            self.count("failed", 1)
            self.tell(number, event.error, True)

    def edit(self, what: Task) -> None:
        """Have a picture edited, in a thread of its own: those of the loop are few, and are for
        what is done soon. Raises ValueError for settings that cannot be, and what
        `Batching.submit` does."""
        what.drawing(self.one.pipeline, self.order)
        guest = self._guest()

        def work() -> None:
            try:
                with guest.place():
                    for number, image in enumerate(what.run(guest, self.order)):
                        self.count("done", 1)
                        self.tell(number, image, True)
            except Gone:
                return
            except Exception as error:
                self.count("failed", 1)
                self.tell(0, error, True)
            finally:
                if guest.encoding:
                    self.server.metrics.encoding.labels(self.one.name).observe(guest.encoding)

        try:
            threading.Thread(target=work, name="smalti-edit", daemon=True).start()
        except RuntimeError:  # the system has no more of them
            guest.let_go()
            raise

    def _guest(self) -> Guest | Listener:
        """Who edits, with places in the queue for its pictures. Raises what `Batching.submit`
        does."""
        show = lambda number, picture: self.tell(number, picture, False)  # noqa: E731
        guest = self.one.guest(self.client, self.order.previews, show)
        guest.enter(self.order.n)
        self.guest = guest
        return guest

    def count(self, outcome: str | None, pictures: int) -> None:
        """Count what became of so many pictures, or of all that are left, each once; None of what
        was no picture to draw."""
        with self._counting:
            pictures = min(pictures, self._uncounted)
            self._uncounted -= pictures
        if self._held:
            self.server.let_go(self.client, pictures)
        if outcome is not None:
            self.server.metrics.pictures.labels(self.one.name, outcome).inc(pictures)

    @property
    def share(self) -> float:
        """Of all steps, how many are done, 0 to 1."""
        return share(self.jobs) if self.guest is None else self.guest.share

    def leave(self) -> None:
        """Nobody waits for what has not come."""
        self.count("cancelled", self.left)
        self.left = 0
        if isinstance(self.one, Shared):
            for job in self.jobs:
                self.one.batching.cancel(job)
        if self.guest is not None:
            self.guest.leave()

    async def pictures(self) -> AsyncIterator[tuple[int, Image.Image, bool] | None]:
        """The number of a picture, it, and whether it is done; None where nothing came for a
        while. Raises what failed."""
        while self.left:
            try:
                number, what, done = await asyncio.wait_for(self.told.get(), KEEP_ALIVE)
            except TimeoutError:
                yield None
                continue
            self.left -= done
            if isinstance(what, Exception):
                raise what
            if not done and self.began:
                self.server.metrics.first.labels(self.one.name).observe(
                    time.monotonic() - self.began
                )
                self.began = 0.0
            yield number, what, done


def begun(
    request: Request, server: Server, one: Shared | Talker, order: Order, edit: Task | None
) -> Stage:
    """Ask for the pictures of a request. Raises Refused if the server is being stopped, and what
    `Batching.submit` does."""
    server.require_open()
    stage = Stage(server, one, order, request.state.client)
    try:
        stage.hold(request.state.share)
        _require_time(request, one, order.n)
        if edit is None:
            stage.draw()
        else:
            stage.edit(edit)
    except (Full, Refused):
        stage.count("rejected", order.n)
        raise
    except Exception:
        stage.count(None, order.n)
        raise
    return stage


def _require_time(request: Request, one: Shared | Talker, n: int) -> None:
    """Raise Refused where a client says that it waits for so many seconds, and pictures that it
    asks for now would be done later."""
    try:
        given = float(request.headers.get("x-request-timeout", "inf"))
    except ValueError:
        given = math.inf
    waits = one.batching.drawing or one.batching.waiting  # else nothing says how long it takes
    if waits and (eta := one.batching.eta(n)) > given:
        message = f"it would take {eta:.1f} seconds, x-request-timeout is {given:g}"
        raise Refused(429, "queue_full", message, retry=eta - given)


async def waited(
    stage: Stage, collecting: Coroutine[Any, Any, T], end: Coroutine[Any, Any, None]
) -> T | None:
    """What is collected; None if `end` comes first, and then nothing more is drawn. Raises what
    failed."""
    ending, task = asyncio.create_task(end), asyncio.create_task(collecting)
    try:
        await asyncio.wait({ending, task}, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        if not task.done() or task.exception() is not None:
            stage.leave()
        ending.cancel()
        task.cancel()


async def gone(request: Request) -> None:
    """Until the client has gone."""
    while not await request.is_disconnected():
        await asyncio.sleep(0.2)
