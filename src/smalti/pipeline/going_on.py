"""How a pipeline of text and pictures goes on with documents: what is put to the model, and what
comes back, text and pictures as they grow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from PIL import Image

from smalti.arguments import refuse_unknown
from smalti.codes import Cond, Known
from smalti.config import changed, settings_of
from smalti.data.decode import opened, to_rgb
from smalti.data.transforms import framed
from smalti.engine import mixed
from smalti.engine.step import Request
from smalti.models.unified import Unified
from smalti.nn.linear import packed
from smalti.pictures import to_pil
from smalti.pipeline.coded import CodedPipeline, encoded, preview
from smalti.pipeline.conversation import (
    Phrases,
    Piece,
    Writing,
    parts_of,
    picture_part,
    seen_part,
)
from smalti.pipeline.request import Part
from smalti.pipeline.sampling import Sampling, fitted
from smalti.sampling.noise import Noise
from smalti.text import sequence
from smalti.text.sequence import Document
from smalti.text.words import Words


class Said(NamedTuple):
    """A text so far, or whole."""

    row: int
    text: str
    whole: bool
    cut: bool = False
    """Whether it ends because nothing more fits."""
    ids: int = 0
    """How many ids it is."""


class Shown(NamedTuple):
    """A picture on the way, or whole."""

    row: int
    image: Image.Image
    whole: bool
    step: int
    total: int


@dataclass(frozen=True)
class Wish:
    """What is to come behind documents, beside how it is drawn and written."""

    first: Literal["text", "picture"] = "text"
    text: bool = True
    """Whether text may be written."""
    pictures: int = 0
    """How many pictures there may be of each."""
    seed: int = 0
    number: int = 0
    """That of the first document in its request."""
    known: Known | None = None
    """Codes (B, N, ...) of the first pictures that are given, and where."""
    every: int | None = None
    """Pictures on the way are shown every so many steps; None: not at all."""
    away: Sequence[Document | None] = ()
    """What guidance compares pictures with, before them; None, or if there are none: nothing."""
    blank: Sequence[int] = ()
    """Documents before whose first picture stands nothing."""


class GoingOn(CodedPipeline):
    """Goes on with documents of text and pictures; what people ask for stands above it."""

    model: Unified
    words: Words
    sampling: Sampling
    writing: Writing
    phrases: Phrases

    @property
    def reads_texts(self) -> bool:
        return True

    @property
    def draws(self) -> bool:
        return self.model.config.drawing

    @property
    def begins(self) -> bool:
        """Whether it begins pictures by itself, in conversations; else it draws them where a
        picture is asked for, and replies in text alone."""
        return self.draws and self.model.wrapping.learns_begin

    @property
    def length(self) -> int:
        """Positions of a document, at most."""
        return int(self.model.config.length)

    @torch.inference_mode()
    def passes(
        self, documents: Sequence[Sequence[Piece]], part: Part, known: Known | None = None
    ) -> Iterator[mixed.Event]:
        """Draw the picture that follows on each document of pieces, an event of each pass; on an
        empty one follows a picture of nothing. Guidance leads away from the negative texts of the
        part, which are put as texts to draw are."""
        negatives = [asked.get("negative", "") for asked in part.asked]
        put = [self.phrases.put(self.phrases.draw, [text]) if text else None for text in negatives]
        away = [None if pieces is None else self.documents([pieces])[0] for pieces in put]
        blank = [i for i, pieces in enumerate(documents) if not pieces]
        wish = Wish("picture", False, 1, part.seed, part.first, known, away=away, blank=blank)
        request = self._request(self.documents(documents), wish, part.sampling, self.writing)
        with packed(self.model):
            yield from mixed.stream(self.model.at(part.spec), request)

    def go_on(
        self, documents: Sequence[Sequence[Piece]], wish: Wish, **settings: Any
    ) -> Iterator[Said | Shown]:
        """Go on with documents of pieces, texts and pictures as they are given."""
        yield from self.events(self.documents(documents), wish, **settings)

    def events(
        self, documents: Sequence[Document], wish: Wish, **settings: Any
    ) -> Iterator[Said | Shown]:
        """Go on with documents of ids and codes."""
        return (e for e in self.paced(documents, wish, **settings) if e is not None)

    @torch.inference_mode()
    def paced(
        self, documents: Sequence[Document], wish: Wish, **settings: Any
    ) -> Iterator[Said | Shown | None]:
        """What `events` gives, and None for a pass of which there is nothing to tell: who computes
        several in turn goes on with another there."""
        spec, words = self.model.spec, self.words
        every = wish.every if self.draws and self.tokenizer.placed else None
        behind = set[int]()  # rows whose next text does not begin what is written
        request = self._request(documents, wish, *self.settings(settings))
        with packed(self.model):
            for event in mixed.stream(self.model, request):
                if isinstance(event, mixed.Wrote):
                    text = words.write(event.ids, False, event.row not in behind)
                    yield Said(event.row, text, False, ids=len(event.ids))
                elif isinstance(event, mixed.Drawing):
                    step = event.step
                    if not every or step.done % every or step.done == step.total:
                        yield None
                        continue
                    images = preview(self.tokenizer, step, spec)
                    for row, image in zip(event.rows, images, strict=True):
                        yield Shown(row, image, False, step.done, step.total)
                elif event.part.spec is None:
                    ids = event.part.content.tolist()
                    text = words.write(ids, True, event.row not in behind)
                    yield Said(event.row, text, True, event.cut, len(ids))
                else:
                    behind.add(event.row)
                    (image,) = to_pil(self.decode(event.part.content[None], spec))
                    yield Shown(event.row, image, True, 1, 1)

    def documents(self, documents: Sequence[Sequence[Piece]]) -> list[Document]:
        """Documents of pieces as ids and codes, or what the eye sees."""
        return [parts_of(pieces, self.model, self.words, self._given) for pieces in documents]

    def room(self, pieces: Sequence[Piece]) -> int:
        """How many ids of text may follow on a document of pieces; below 1 it is too long to be
        answered. Pictures are counted and not encoded."""
        blank = mixed.picture_of(self.model)
        if self.eye is not None:
            blank = seen_part(self.eye.sight.spec.empty(1)[0], self.eye.sight.spec)
        document = parts_of(pieces, self.model, self.words, lambda _: blank)
        return mixed.room(self.model, document, self.length)

    def _given(self, picture: Any) -> sequence.Part:
        """A picture that is given, as the model reads it."""
        if self.phrases.margin:
            size = (self.eye or self.tokenizer).size
            picture = framed(
                to_rgb(opened(picture, "the image"), "the image"), size, self.phrases.margin
            )
        if self.eye is None:
            return picture_part(self.encode(picture)[0].cpu(), self.model.spec)
        return seen_part(encoded(self.eye, picture)[0].cpu(), self.eye.sight.spec)

    def _request(
        self, documents: Sequence[Document], wish: Wish, sampling: Sampling, writing: Writing
    ) -> mixed.MixedRequest:
        count, device = len(documents), self.device
        if wish.first == "picture":
            self.require_drawing()
        written = torch.zeros(self.model.vocab, dtype=torch.bool)
        written[: self.words.vocab] = self.words.written
        written &= self.model.written
        noise = Noise.request(wish.seed, count, wish.number, device)
        known = wish.known and _each(wish.known, count, device)
        how = Request(
            Cond(labels=torch.arange(count, device=device)),
            noise,
            sampling.guidance,
            sampling.filters,
            sampling.solver,
            sampling.revealed(self.model),
            sampling.refresh,
            known,
            orders=sampling.orders(self.model, noise, known),
        )
        return mixed.MixedRequest(
            documents,
            how,
            written,
            self.model.marks.stops,
            writing.filters,
            writing.penalty,
            writing.words if wish.text else 0,
            wish.pictures if self.draws else 0,
            wish.first,
            self.length,
            wish.away,
            wish.blank,
        )

    def settings(self, changes: Mapping[str, Any]) -> tuple[Sampling, Writing]:
        """The pipeline's own with some changed. Raises ValueError for a name that is none, and for
        settings that mean nothing to the model."""
        drawing, writing = settings_of(Sampling), settings_of(Writing)
        refuse_unknown(changes, [*drawing, *writing], ())
        sampling = self.sampling.changed(**fitted(changes, drawing))
        sampling.check(self.model)
        rest = {name: value for name, value in changes.items() if name in writing}
        return sampling, changed(self.writing, rest, "writing")


def _each(known: Known, count: int, device: torch.device) -> Known:
    """What is known, on a device. Raises ValueError unless it has a row for each document."""
    if any(len(given) != count for given in known):
        raise ValueError(
            f"known codes and their mask must have {count} rows, a document each, got "
            f"{' and '.join(str(len(given)) for given in known)}"
        )
    return Known(*(given.to(device) for given in known))
