"""A pipeline of text and pictures that many speak and draw with, a pass of each in turn."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from smalti.codes import Known
from smalti.engine import mixed
from smalti.engine.waiting import NO_PREVIEWS, Previews
from smalti.pipeline.coded import preview
from smalti.pipeline.conversation import Piece, Turn, said
from smalti.pipeline.request import Part
from smalti.pipeline.unified import Said, Shown, UnifiedPipeline, Wish
from smalti.serve.shared import Gone, Limits, Show, Visitor, unseen
from smalti.serve.turnstile import Ticket, Turnstile

EVERY = 16
"""Steps between pictures on the way of a conversation."""


class Talker:
    """A pipeline of text and pictures, and who waits for it."""

    def __init__(self, name: str, pipeline: UnifiedPipeline, limits: Limits = Limits()) -> None:  # noqa: B008 - frozen
        self.name, self.pipeline, self.limits = name, pipeline, limits
        self.batching = Turnstile(
            limits.slots, limits.queue, limits.deadline, limits.threads, pipeline.device
        )
        _ = pipeline.fingerprint

    def guest(
        self, client: str = "", previews: Previews = NO_PREVIEWS, show: Show = unseen
    ) -> Listener:
        """The pipeline as one client draws with it."""
        return Listener(self, client, previews, show)

    def chat(
        self,
        turns: Sequence[Turn],
        pictures: int,
        seed: int,
        settings: dict[str, Any],
        gone: threading.Event,
        ticket: Ticket | None = None,
    ) -> Iterator[Said | Shown]:
        """What `UnifiedPipeline.chat` gives, in turn with all others; with the place of a ticket.
        Raises what `Turnstile.stream` does."""
        pipe, wish = self.pipeline, Wish(pictures=pictures, seed=seed, every=EVERY)

        def make() -> Iterator[Said | Shown | None]:
            return pipe.paced(pipe.documents([said(turns, pipe.phrases)]), wish, **settings)

        events = self.batching.stream(make, gone, ticket)
        return (event for event in events if event is not None)


class Listener(Visitor):
    """A pipeline of text and pictures as one client draws and edits with it, in a thread of its own
    and inside `place`.

    Args: whose client; how many pictures on the way it wants; what is told of them, by the number
    of the picture.
    """

    def __init__(
        self,
        talker: Talker,
        client: str = "",
        previews: Previews = NO_PREVIEWS,
        show: Show = unseen,
    ) -> None:
        super().__init__(talker.pipeline)
        self.talker, self.client, self.show = talker, client, show
        self._ticket: Ticket | None = None
        self.previews = previews if self.tokenizer.placed else NO_PREVIEWS
        self.share, self.gone = 0.0, threading.Event()

    def enter(self, count: int) -> None:
        """Wait from now on for a place, which must be taken; one is enough for any number of
        pictures. Raises what `Turnstile.enter` does."""
        self._ticket = self.talker.batching.enter(self.client)

    def let_go(self) -> None:
        """Give up the place that is waited for."""
        if self._ticket is not None:
            self.talker.batching.drop(self._ticket)

    def place(self) -> Any:
        """A place among those who draw. Raises what `Turnstile.place` does."""
        ticket, self._ticket = self._ticket, None
        return self.talker.batching.place(self.gone, ticket)

    def leave(self) -> None:
        """Give up what is being drawn: whoever waits for it is told that the client has gone."""
        self.gone.set()

    def drawn(
        self, part: Part, known: Known | None = None, image: Image.Image | None = None
    ) -> Tensor:
        """Codes (B, N, ...) of a part of a request, whose texts are instructions where there is an
        `image` that is to be changed. Raises Gone after `leave`."""
        phrases, codes = self.talker.pipeline.phrases, list[Tensor]()
        phrase, given = (phrases.draw, []) if image is None else (phrases.edit, [image])
        for i, asked in enumerate(part.asked):
            text = asked.get("text", "")
            document = phrases.put(phrase, [text], given) if given or text else []
            one = part._replace(offset=part.offset + i, first=part.first + i, asked=[asked])
            row = known and Known(known.codes[i : i + 1], known.mask[i : i + 1])
            codes.append(self._one(document, one, row))
        return torch.stack(codes)

    def _one(self, document: Sequence[Piece], part: Part, known: Known | None) -> Tensor:
        shown = 0

        def make() -> Iterator[mixed.Event]:
            return self.talker.pipeline.passes([document], part, known)

        for event in self.talker.batching.turns(make, self.gone):
            if isinstance(event, mixed.Finished):
                return event.part.content
            if isinstance(event, mixed.Drawing):
                step = event.step
                self.share = step.done / step.total
                due = step.done * (self.previews.of(step.total) + 1) // step.total
                if due > shown and step.done < step.total:
                    shown = due
                    see = lambda step=step: preview(self.tokenizer, step, part.spec)  # noqa: E731
                    (image,) = self.between(see)
                    self.show(part.offset, image)
        raise Gone

    def between(self, function: Callable[[], Any]) -> Any:
        """Have something computed between two passes. Raises Stopped."""
        return self.talker.batching.call(function)
