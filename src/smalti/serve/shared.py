"""A pipeline that many draw with at once: the pictures of all are drawn by one running batch.

Who asks for pictures waits in turn, and gives them up when its client has gone. Edits go through
the same batch: `Guest` is a pipeline whose codes are drawn there, so `edit` does with it what it
does with any other.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from queue import SimpleQueue
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from smalti.codes import Cond, TokenSpec
from smalti.data.decode import Picture
from smalti.engine.batching import Batching, Decoder
from smalti.engine.running import Running
from smalti.engine.step import Known, Request, Step
from smalti.engine.waiting import NO_PREVIEWS, Drawn, Event, Failed, Job, Previews, Shown
from smalti.pipeline.coded import CodedPipeline, preview
from smalti.pipeline.pipeline import Pipeline
from smalti.pipeline.request import Asked, Drawing, Part, Wanted, read_conditions
from smalti.sampling.noise import Noise

READ = 256
"""Conditions that are kept, so that a text is read once for all its pictures."""
Show = Callable[[int, Image.Image], None]
"""What is told of a picture on the way: its number and how it looks."""


def unseen(number: int, picture: Image.Image) -> None:
    """Nobody looks."""


class Gone(Exception):
    """The client has gone, so nobody waits for what it asked for."""


@dataclass(frozen=True)
class Limits:
    """How much is drawn at once, and how much may wait."""

    slots: int = 8
    """Pictures drawn at once."""
    queue: int = 64
    """Pictures that wait at most."""
    deadline: float = 300.0
    """Seconds after which a picture that waits is given up."""
    alone: bool = False
    """Whether each picture is drawn by passes of its own: equal to the bit to a picture drawn
    alone, and slower."""
    threads: int | None = None
    """Threads that draw; None: as many as torch takes."""


class Shared:
    """A pipeline, its running batch and its name."""

    def __init__(self, name: str, pipeline: Pipeline, limits: Limits = Limits()) -> None:  # noqa: B008 - frozen
        self.name, self.pipeline, self.limits = name, pipeline, limits
        self.batching = Batching(
            Running(pipeline.model, limits.alone),
            Decoder(self._whole, self._partly),
            limits.slots,
            limits.queue,
            limits.deadline,
            together=1 if limits.alone else 8,
            threads=limits.threads,
        )
        self._conditions = lru_cache(READ)(self._read)
        _ = pipeline.fingerprint  # before anybody waits for it

    def guest(
        self, client: str = "", previews: Previews = NO_PREVIEWS, show: Show = unseen
    ) -> Guest:
        """The pipeline as one client edits with it."""
        return Guest(self, client, previews, show)

    def jobs(
        self,
        parts: Sequence[Part],
        tell: Callable[[int, Part, Event], None],
        client: str = "",
        previews: Previews = NO_PREVIEWS,
    ) -> list[Job]:
        """A job for each picture of a request, which are parts of one; `tell` is called with the
        number of the picture among them, its part and what became of it, by the thread that
        draws."""
        return [
            self._job(part, None, lambda e, i=i, p=part: tell(i, p, e), client, previews)
            for i, part in enumerate(parts)
        ]

    def _job(
        self,
        part: Part,
        known: Known | None,
        tell: Callable[[Event], None],
        client: str,
        previews: Previews = NO_PREVIEWS,
        codes: bool = False,
    ) -> Job:
        tokenizer = self.pipeline.tokenizer
        if tokenizer.told and not codes:
            tell, codes = self._showing(part, tell), True
        on_the_way, total = previews if tokenizer.placed else NO_PREVIEWS, self._steps(part)
        return Job(lambda: self._request(part, known), tell, client, on_the_way, codes, total=total)

    def _steps(self, part: Part) -> int:
        """How many steps a part takes, if it knows no codes."""
        model, sampling = self.pipeline.model, part.sampling
        spec = model.draws(part.spec)
        if model.loop == "masked":
            return sampling.revealed(model).count(spec.positions * model.parts)
        return len(model.blocks(spec)) if model.loop == "causal" else 0

    def _showing(self, part: Part, tell: Callable[[Event], None]) -> Callable[[Event], None]:
        """What is told of codes, where a picture is wanted whose decoder reads its text."""

        def shown(event: Event) -> None:
            if isinstance(event, Drawn):
                try:
                    (picture,) = self.pipeline.shown(event.result[None], part)
                    event = event._replace(result=picture)
                except Exception as error:  # whatever the reader of texts has met
                    event = Failed(error)
            tell(event)

        return shown

    def _request(self, part: Part, known: Known | None) -> Request:
        (asked,) = part.asked
        kept = {name: tuple(v) if isinstance(v, list) else v for name, v in asked.items()}
        cond, negative = self._conditions(tuple(kept.items()))
        device = self.pipeline.device
        noise = Noise.request(part.seed, 1, part.first, device)
        return part.sampling.request(self.pipeline.model, cond, noise, known, negative, part.spec)

    def _read(self, asked: tuple[tuple[str, Any], ...]) -> tuple[Cond, Cond | None]:
        given: Asked = dict(asked)  # type: ignore[assignment]
        return read_conditions(
            [given], self.pipeline.text, self.pipeline.device, self.pipeline.model.reads.map
        )

    def _whole(self, codes: Tensor, spec: TokenSpec | None) -> Sequence[Tensor]:
        return list(self.pipeline.decode(codes, spec))

    def _partly(self, step: Step, spec: TokenSpec | None) -> Sequence[Image.Image]:
        return preview(self.pipeline.tokenizer, step, spec)


def share(jobs: Sequence[Job]) -> float:
    """Of all steps of jobs, how many are done, 0 to 1."""
    return sum(job.done / job.total for job in jobs if job.total) / max(len(jobs), 1)


class Visitor(CodedPipeline):
    """A pipeline as one client uses it, in a thread of its own: what is computed for it is computed
    between what is for others."""

    def __init__(self, pipeline: CodedPipeline) -> None:
        self.pipeline, self.tokenizer, self.model = pipeline, pipeline.tokenizer, pipeline.model
        self.text, self.eye = pipeline.text, pipeline.eye
        self.decoder_dtype, self.weights = pipeline.decoder_dtype, pipeline.weights
        self.encoding = 0.0
        """Seconds in which pictures were encoded, with the wait for the step before."""

    @property
    def fingerprint(self) -> str:
        return self.pipeline.fingerprint

    def edits(self, wanted: Wanted) -> Drawing:
        return self.pipeline.edits(wanted)

    def encode(self, images: Tensor | np.ndarray | Picture) -> Tensor:
        began = time.monotonic()
        codes = self.between(lambda: self.pipeline.encode(images))
        self.encoding += time.monotonic() - began
        return codes

    def decode(
        self,
        codes: Tensor | np.ndarray,
        spec: TokenSpec | None = None,
        depth: int | None = None,
        texts: Sequence[str] | None = None,
    ) -> Tensor:
        return self.between(lambda: self.pipeline.decode(codes, spec, depth, texts))

    def between(self, function: Callable[[], Any]) -> Any:
        """Have something computed by the thread that computes for all."""
        raise NotImplementedError


class Guest(Visitor):
    """A shared pipeline as one client edits with it, in a thread of its own.

    Args: whose client; how many pictures on the way it wants; what is told of them, by the number
    of the picture.
    """

    def __init__(
        self,
        shared: Shared,
        client: str = "",
        previews: Previews = NO_PREVIEWS,
        show: Show = unseen,
    ) -> None:
        super().__init__(shared.pipeline)
        self.shared, self.client, self.previews, self.show = shared, client, previews, show
        self.jobs, self._gone = list[Job](), threading.Event()
        self._held: int | None = None
        """Places in the queue; None: it has not asked for any."""

    @property
    def share(self) -> float:
        """Of the steps of what is being drawn, how many are done, 0 to 1."""
        return share(self.jobs)

    def enter(self, count: int) -> None:
        """Hold places in the queue for so many pictures, which are asked for inside `place`. Raises
        what `Batching.submit` does."""
        self.shared.batching.hold(count)
        self._held = count

    @contextmanager
    def place(self) -> Iterator[None]:
        """Where pictures are asked for, each of which waits for itself; places that are held are
        let go behind it."""
        try:
            yield
        finally:
            self.let_go()

    def let_go(self) -> None:
        """Give up the places that are held."""
        self.shared.batching.hold(-(self._held or 0))
        self._held = 0

    def leave(self) -> None:
        """Give up what is being drawn: whoever waits for it is told that the client has gone."""
        self._gone.set()
        for job in list(self.jobs):
            self.shared.batching.cancel(job)

    def drawn(self, part: Part, known: Known | None = None) -> Tensor:
        """Codes (B, N, ...) of a part of a request. Raises Gone after `leave`."""
        told = SimpleQueue[tuple[int, Event]]()
        batching, count = self.shared.batching, len(part.asked)
        jobs = list[Job]()
        for i, asked in enumerate(part.asked):
            one = part._replace(first=part.first + i, asked=[asked])
            given = known and Known(known.codes[i : i + 1], known.mask[i : i + 1])
            tell = lambda event, i=i: told.put((i, event))  # noqa: E731
            jobs.append(self.shared._job(one, given, tell, self.client, self.previews, codes=True))
        self.jobs, held = jobs, self._held and min(self._held, count)
        batching.submit(jobs, held)
        self._held = self._held and self._held - (held or 0)
        codes = dict[int, Tensor]()
        while len(codes) < count:
            if self._gone.is_set():
                self.leave()
                raise Gone
            try:
                i, event = told.get(timeout=0.5)
            except Exception:  # nothing yet
                continue
            if isinstance(event, Drawn):
                codes[i] = event.result
            elif isinstance(event, Shown):
                self.show(part.offset + i, event.picture)
            else:
                for job in jobs:
                    batching.cancel(job)
                raise event.error
        return torch.stack([codes[i] for i in range(count)])

    def between(self, function: Callable[[], Any]) -> Any:
        """Have something computed between two steps of the batch. Raises Gone after `leave`."""
        if self._gone.is_set():
            raise Gone
        return self.shared.batching.call(function).result()
