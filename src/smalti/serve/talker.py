"""A pipeline of text and pictures that many speak with, an event of each in turn."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from PIL import Image

from smalti.pipeline.request import Part
from smalti.pipeline.unified import Said, Shown, UnifiedPipeline, Wish
from smalti.serve.shared import Limits
from smalti.serve.turnstile import Turnstile

EVERY = 16
"""Steps between pictures on the way."""


class Talker:
    """A pipeline of text and pictures, and who waits for it."""

    def __init__(self, name: str, pipeline: UnifiedPipeline, limits: Limits = Limits()) -> None:  # noqa: B008 - frozen
        self.name, self.pipeline, self.limits = name, pipeline, limits
        self.batching = Turnstile(limits.slots, limits.queue, limits.deadline, limits.threads)
        _ = pipeline.fingerprint

    def pictures(
        self, wanted: dict[str, Any], n: int, first: int, previews: int, gone: threading.Event
    ) -> Iterator[tuple[int, Image.Image, bool]]:
        """Draw n pictures of a text, an event of each in turn with all other work: the number of a
        picture, it, and whether it is done."""
        pipe, given = self.pipeline, dict(wanted)
        drawing = pipe.drawing(pipe.asked(text=given.pop("text")), **given)
        every = EVERY if previews else None
        for number, part in enumerate(drawing.parts(n, first, batch=1)):
            (asked,) = part.asked
            document = pipe.phrases.put(pipe.phrases.draw, [asked.get("text", "")])
            wish = Wish("picture", False, 1, part.seed, part.first, every=every)
            settings = {k: v for k, v in given.items() if k not in ("seed", "size")}
            make = lambda d=document, w=wish: pipe.go_on([d], w, **settings)  # noqa: E731, B023
            shown = 0
            for event in self.batching.stream(make, gone):
                if isinstance(event, Said):
                    continue
                shown += not event.whole
                if event.whole or shown <= previews:
                    yield number, self._tagged(event, part), event.whole

    def _tagged(self, event: Shown, part: Part) -> Image.Image:
        """A picture that says how it was drawn, if it is whole."""
        if not event.whole:
            return event.image
        pixels = torch.from_numpy(np.asarray(event.image).copy()).permute(2, 0, 1)
        (image,) = self.pipeline.tagged(pixels[None], part)
        return image
