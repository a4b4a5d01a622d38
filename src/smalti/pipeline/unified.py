"""A pipeline of text and pictures: a model that reads and writes both, and its two tokenizers.

    pipe = smalti.load("runs/shapes/pipeline")
    images = pipe("a small red heart in the centre", n=4, seed=1)
    pipe.ask("photo.png", "what colour is it?")
    pipe.caption(["a.png", "b.png"])
    pipe.instruct("photo.png", "make the circle blue")
    for event in pipe.chat([Turn("user", ["draw a red heart"])]): ...

The folder holds `pipeline.json`, `tokenizer/` of pictures, `words/` of text, `eye/` where the model
reads pictures in another form than it draws them, and `model/`, which stores the fingerprints of
these; parts that do not match are refused. A model that only reads pictures has no `tokenizer/`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Unpack

import torch
from PIL import Image
from torch import Tensor

from smalti.arguments import refuse_unknown, whole
from smalti.codes import Cond, Known
from smalti.config import changed, settings_of, to_dict
from smalti.engine import mixed
from smalti.engine.step import Request
from smalti.files import filling, write_json
from smalti.models.eye import Eye
from smalti.models.unified import Unified
from smalti.modules import coder, fingerprint, name_of, write_module
from smalti.nn.finite import require_finite_weights
from smalti.nn.linear import packed
from smalti.pictures import to_pil
from smalti.pipeline.card import write_card
from smalti.pipeline.coded import CodedPipeline, encoded, preview, short
from smalti.pipeline.conversation import (
    PLACE,
    Phrases,
    Piece,
    Turn,
    Writing,
    as_picture,
    parts_of,
    picture_part,
    placed,
    said,
    seen_part,
)
from smalti.pipeline.facts import Facts, Json
from smalti.pipeline.pipeline import check_pipeline
from smalti.pipeline.request import (
    Asked,
    Conditions,
    Drawing,
    How,
    Part,
    Texts,
    Wanted,
    divided,
    nothing,
    prompted,
    unguided,
)
from smalti.pipeline.sampling import Sampling, fitted
from smalti.sampling.noise import Noise
from smalti.text import sequence
from smalti.text.sequence import Document
from smalti.text.words import Words
from smalti.tokenizers.base import ImageTokenizer


class Said(NamedTuple):
    """A text so far, or whole."""

    row: int
    text: str
    whole: bool


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


class UnifiedPipeline(CodedPipeline):
    """Draws, describes, answers, changes pictures and talks. See `smalti.load`.

    Settings are those of `Sampling` for pictures and of `Writing` for text, side by side. Arguments
    and settings that cannot be raise ValueError naming what is allowed.
    """

    def __init__(
        self,
        tokenizer: ImageTokenizer | None,
        model: Unified,
        words: Words,
        sampling: Sampling | None = None,
        writing: Writing | None = None,
        phrases: Phrases | None = None,
        info: Mapping[str, Json] | None = None,
        eye: Eye | None = None,
    ) -> None:
        check_tokenizer(model, tokenizer)
        if words.vocab > model.vocab:
            raise ValueError(
                f"the text tokenizer has {words.vocab} ids, the model knows {model.vocab}"
            )
        check_eye(model, eye)
        self.tokenizer: Any = tokenizer  # None where nothing is drawn, which `_request` refuses
        self.model, self.words, self.eye = model, words, eye
        self.sampling, self.writing = sampling or Sampling(), writing or Writing()
        self.phrases, self.info = phrases or Phrases(), Facts(info or {})

    @property
    def classes(self) -> list[str]:
        """None: it draws from texts."""
        return []

    def __repr__(self) -> str:
        """What it is, with what, and where."""
        count = sum(p.numel() for p in self.model.parameters())
        seen, drawn, spec = "", "", self.model.spec
        if self.eye is not None:
            seen = f"  pictures that are given as {self.eye.sight.words}, by {name_of(self.eye)}\n"
        if self.draws:
            height, width = self.tokenizer.size
            drawn = (
                f"  pictures of {width} x {height} pixels as {spec.positions} codes {spec.words}, "
                f"by {name_of(self.tokenizer)}\n"
            )
        return (
            f"UnifiedPipeline of {name_of(self.model)}, {count:,} parameters, {self.words.vocab} "
            f"ids of text\n{drawn}{seen}  on {self.device} in {short(self.dtype)}"
        )

    @property
    def task(self) -> str:
        return "any-to-any" if self.draws else "image-text-to-text"

    def example(self, name: str) -> str:
        use = 'pipe("a red flower")[0].save("picture.png")'
        use = use if self.draws else 'print(pipe.caption("picture.png"))'
        load = "from smalti.loading import load_unified\npipe = load_unified"
        return f'{load}("{name}")\n{use}'

    @property
    def draws(self) -> bool:
        """Whether it draws pictures; else it reads them and writes text."""
        return self.model.config.drawing

    def require_drawing(self) -> None:
        """Raise ValueError if it draws no pictures."""
        if not self.draws:
            raise ValueError(
                f"a pipeline of {name_of(self.model)} reads pictures and writes text, it draws "
                "none: ask, caption and chat are for it"
            )

    @property
    def length(self) -> int:
        """Positions of a document, at most."""
        return int(self.model.config.length)

    # -- what people ask for

    def __call__(
        self,
        text: Texts | None = None,
        n: int | None = None,
        *,
        first: int = 0,
        batch: int = 16,
        known: Known | None = None,
        **wanted: Any,
    ) -> list[Image.Image]:
        """Draw n images of the given texts, in turn; None draws one of each.

        Image i is image first + i of the request `seed`. `known` are codes that are given, (n, N,
        ...) and a mask. Each image says in `info["smalti"]` how it was drawn.
        """
        images = list[Image.Image]()
        given, how = divided({"text": text, **wanted})  # type: ignore[typeddict-item]
        for part in self.drawing(self.asked(**given), **how).parts(n, first, batch):
            images += self.tagged(self.decode(self.drawn(part, part.rows(known))), part)
        return images

    def drawn(self, part: Part, known: Known | None = None) -> Tensor:
        """Codes (B, N, ...) of a part of a request for pictures of texts; an empty text is none."""
        texts = [asked["text"] for asked in part.asked if "text" in asked]
        return self._drawn([self.phrases.put(self.phrases.draw, [t]) for t in texts], part, known)

    def edits(self, wanted: Wanted) -> Drawing:
        """What is asked for of a part of a picture, which may be nothing. Raises ValueError for
        settings that cannot be, and for guidance that has no text to lead to."""
        given, how = divided({**wanted})
        if given.get("text") is not None:
            return self.drawing(self.asked(**given), **how)
        _refuse_others(given)
        return unguided(self.drawing(nothing(True), **how), how, "a text")

    def asked(self, **given: Unpack[Conditions]) -> list[Asked]:
        """The texts of a request, in turn. Raises ValueError for other conditions."""
        _refuse_others(given)
        return prompted(given.get("text"))

    def drawing(self, asked: list[Asked], **how: Unpack[How]) -> Drawing:
        """Texts, and how they are to be drawn. Raises ValueError for a size, and as `settings` and
        `require_drawing` do."""
        self.require_drawing()
        changes = dict[str, Any](how)
        if (size := changes.pop("size", None)) is not None:
            raise ValueError(f"a pipeline of text and pictures takes no size, got {size!r}")
        seed = whole(changes.pop("seed", 0), "seed")
        return Drawing(asked, seed, self.settings(changes)[0])

    def ask(
        self, images: Piece | Sequence[Piece], question: str, *, seed: int = 0, **settings: Any
    ) -> str:
        """Answer a question about one picture or several; where the question says `<image>` they
        stand there, else before it. Raises ValueError if it names another number of them."""
        given = images if isinstance(images, list | tuple) else [images]
        some = [as_picture(image) for image in given]
        if PLACE in question:
            pieces = self.phrases.put(self.phrases.ask, placed(question, some))
        else:
            pieces = self.phrases.put(self.phrases.ask, [question], some)
        return self.answers([pieces], seed=seed, **settings)[0]

    def caption(
        self, images: Sequence[Piece], *, batch: int = 16, seed: int = 0, **settings: Any
    ) -> list[str]:
        """Describe each picture."""
        found = list[str]()
        for at in range(0, len(images), batch):
            some = [as_picture(image) for image in images[at : at + batch]]
            asked = [self.phrases.put(self.phrases.caption, pictures=[image]) for image in some]
            found += self.answers(asked, seed=seed, first=at, **settings)
        return found

    def instruct(
        self,
        image: Piece,
        instruction: str,
        n: int = 1,
        *,
        seed: int = 0,
        first: int = 0,
        **settings: Any,
    ) -> list[Image.Image]:
        """Change a picture as an instruction says, n times."""
        asked = self.phrases.put(self.phrases.edit, [instruction], [as_picture(image)])
        return self._pictures([asked] * n, [instruction] * n, seed, first, settings)

    def chat(
        self, turns: Sequence[Turn], *, seed: int = 0, pictures: int = 1, **settings: Any
    ) -> Iterator[Said | Shown]:
        """Reply in a conversation, in text and with at most so many pictures, streaming: texts as
        they grow, pictures as they become clear. Raises ValueError for a conversation that is
        longer than the model reads."""
        wish = Wish(pictures=whole(pictures, "pictures", 0), seed=seed, every=16)
        return self.go_on([said(turns, self.phrases)], wish, **settings)

    def answers(
        self,
        documents: Sequence[Sequence[Piece]],
        *,
        seed: int = 0,
        first: int = 0,
        **settings: Any,
    ) -> list[str]:
        """The text that follows on each document of pieces, without blanks around it."""
        found = [""] * len(documents)
        for event in self.go_on(documents, Wish(seed=seed, number=first), **settings):
            if isinstance(event, Said) and event.whole:
                found[event.row] = event.text.strip()
        return found

    def follow(
        self,
        documents: Sequence[Sequence[Piece]],
        picture: bool,
        *,
        seed: int = 0,
        first: int = 0,
        **settings: Any,
    ) -> list[str] | list[Image.Image]:
        """The text, or the picture, that follows on each document of pieces, which are put to the
        model as they are."""
        if not picture:
            return self.answers(documents, seed=seed, first=first, **settings)
        return self._pictures(documents, [""] * len(documents), seed, first, settings)

    def _pictures(
        self,
        documents: Sequence[Sequence[Piece]],
        asked: Sequence[str],
        seed: int,
        first: int,
        settings: dict[str, Any],
    ) -> list[Image.Image]:
        """The picture that follows on each document, with what was asked and how it was drawn."""
        each: list[Asked] = [{"text": text} for text in asked]
        part = Part(0, first, each, seed, self.settings(settings)[0])
        return self.tagged(self.decode(self._drawn(documents, part)), part)

    def _drawn(
        self, documents: Sequence[Sequence[Piece]], part: Part, known: Known | None = None
    ) -> Tensor:
        """Codes (B, N, ...) of the picture that follows on each document."""
        found = {
            event.row: event.part.content
            for event in self.passes(documents, part, known)
            if isinstance(event, mixed.Finished)
        }
        return torch.stack([found[i] for i in range(len(documents))])

    @torch.inference_mode()
    def passes(
        self, documents: Sequence[Sequence[Piece]], part: Part, known: Known | None = None
    ) -> Iterator[mixed.Event]:
        """Draw the picture that follows on each document of pieces, an event of each pass."""
        wish = Wish("picture", False, 1, part.seed, part.first, known)
        request = self._request(self.documents(documents), wish, part.sampling, self.writing)
        with packed(self.model):
            yield from mixed.stream(self.model, request)

    # -- documents

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
                    yield Said(
                        event.row, words.write(event.ids, False, event.row not in behind), False
                    )
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
                    yield Said(event.row, words.write(ids, True, event.row not in behind), True)
                else:
                    behind.add(event.row)
                    (image,) = to_pil(self.decode(event.part.content[None], spec))
                    yield Shown(event.row, image, True, 1, 1)

    def documents(self, documents: Sequence[Sequence[Piece]]) -> list[Document]:
        """Documents of pieces as ids and codes, or what the eye sees."""
        return [parts_of(pieces, self.model, self.words, self._given) for pieces in documents]

    def _given(self, picture: Any) -> sequence.Part:
        """A picture that is given, as the model reads it."""
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
        known = wish.known and Known(*(given.to(device) for given in wish.known))
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

    # -- files

    @property
    def fingerprint(self) -> str:
        """A hash of both tokenizers, the model and its eye."""
        if "fingerprint" not in self.info:
            marks = [fingerprint(self.model), self.words.fingerprint()]
            marks = [fingerprint(self.tokenizer), *marks] if self.draws else marks
            marks += [] if self.eye is None else [fingerprint(self.eye)]
            self.info["fingerprint"] = "-".join(marks)
        return str(self.info["fingerprint"])

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the pipeline's folder: a new or empty one, or that of another pipeline, of which
        smalti's files are replaced and all others stay.

        Raises ValueError, naming what is there, for a folder of something else, and naming the
        weights if some are NaN or infinite.
        """
        folder = Path(folder).expanduser()
        check_pipeline(folder)
        parts = {"tokenizer": self.tokenizer, "eye": self.eye}
        parts = {name: part for name, part in parts.items() if part is not None}
        for part in (self.model, *parts.values()):
            require_finite_weights(part.state_dict(), f"{folder} is not written")
        with filling(folder) as temporary:
            marks = {name: write_module(part, temporary / name) for name, part in parts.items()}
            words = self.words.fingerprint()
            self.words.save(temporary / "words")
            learned: dict[str, Any] = {n: fingerprint(coder(part)) for n, part in parts.items()}
            model = write_module(self.model, temporary / "model", words=words, **learned)
            first = [marks[name] for name in parts if name == "tokenizer"]
            whole = [*first, model, words, *(marks[name] for name in parts if name == "eye")]
            told = ("source", "holdout", "credit", "files", "init", "card")
            about = {
                "format": 1,
                "kind": "unified",
                "fingerprint": "-".join(whole),
                "sampling": to_dict(self.sampling),
                "writing": to_dict(self.writing),
                "phrases": to_dict(self.phrases),
            }
            write_json(
                temporary / "pipeline.json",
                about | {k: v for k, v in self.info.items() if k in told},
            )
            write_card(self, temporary, folder)


def check_tokenizer(model: Unified, tokenizer: ImageTokenizer | None) -> None:
    """Raise ValueError unless a model has the tokenizer whose codes it draws, or draws none."""
    if model.config.drawing == (tokenizer is None):
        what = "draws pictures, got no" if tokenizer is None else "draws no pictures: it takes no"
        raise ValueError(f"the model {what} tokenizer of pictures")
    if tokenizer is not None and tokenizer.spec != model.spec:
        raise ValueError(
            f"tokenizer and model speak of other codes: {tokenizer.spec}, {model.spec}"
        )


def check_eye(model: Unified, eye: Eye | None) -> None:
    """Raise ValueError unless a model has the eye that it reads pictures by, or needs none."""
    if model.sight is None and eye is not None:
        raise ValueError("the model reads pictures as the codes that it draws: it takes no eye")
    if model.sight is not None:
        if eye is None:
            raise ValueError(f"the model reads pictures by an eye, {model.sight.words}; got none")
        model.sight.require(eye.sight)


def _refuse_others(given: Conditions) -> None:
    """Raise ValueError for conditions that are no text."""
    for name in ("classes", "negative", "map", "style"):
        if (value := given.get(name)) is not None:
            raise ValueError(f"a pipeline of text and pictures takes no {name}, got {value!r}")
