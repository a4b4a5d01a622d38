"""A pipeline of text and pictures: a model that reads and writes both, and its two tokenizers.

    pipe = smalti.load("runs/shapes/pipeline")
    images = pipe("a small red heart in the centre", n=4, seed=1)
    pipe.ask("photo.png", "what colour is it?")
    pipe.caption(["a.png", "b.png"])
    pipe.instruct("photo.png", "make the circle blue")
    pipe.recaption("a heart in the colour of the sea", "{} is {}.")
    for event in pipe.chat([Turn("user", ["draw a red heart"])]): ...

The folder holds `pipeline.json`, `tokenizer/` of pictures, `words/` of text, `eye/` where the model
reads pictures in another form than it draws them, and `model/`, which stores the fingerprints of
these; parts that do not match are refused. A model that only reads pictures has no `tokenizer/`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Unpack

import torch
from PIL import Image
from torch import Tensor

from smalti.arguments import whole
from smalti.codes import Known, TokenSpec
from smalti.config import to_dict
from smalti.engine import mixed
from smalti.files import filling, write_json
from smalti.models.eye import Eye
from smalti.models.unified import Unified
from smalti.modules import coder, fingerprint, name_of, write_module
from smalti.nn.finite import require_finite_weights
from smalti.pipeline.card import write_card
from smalti.pipeline.coded import short
from smalti.pipeline.conversation import (
    PLACE,
    Phrases,
    Piece,
    Turn,
    Writing,
    as_picture,
    placed,
    said,
)
from smalti.pipeline.facts import Facts, Json
from smalti.pipeline.fits import check_eye, check_tokenizer
from smalti.pipeline.folders import check_pipeline, keep_parts
from smalti.pipeline.going_on import GoingOn, Said, Shown, Wish
from smalti.pipeline.request import (
    Asked,
    Conditions,
    Drawing,
    How,
    Part,
    Size,
    Texts,
    Wanted,
    at_own_size,
    divided,
    nothing,
    prompted,
    spec_of,
    unguided,
)
from smalti.pipeline.sampling import Sampling
from smalti.progress import within
from smalti.text.prompts import checked
from smalti.text.words import Words
from smalti.tokenizers.base import ImageTokenizer


class UnifiedPipeline(GoingOn):
    """Draws, describes, answers, changes pictures and talks. See `smalti.load`.

    Settings are those of `Sampling` for pictures and of `Writing` for text, side by side.
    Impossible arguments and settings raise ValueError, which names what is allowed.
    """

    from_pretrained: ClassVar[Callable[..., UnifiedPipeline]]
    """`smalti.load` of such a pipeline, set where that is."""

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
        use = use if self.draws else 'print(pipe.caption(["picture.png"])[0])'
        return f'pipe = smalti.load("{name}")\n{use}'

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
        """Draw n images of the given texts, in turn; None draws one of each. Guidance leads away
        from `negative`, one text for all or one for each; '' is nothing, as the model has it, and
        None what the pipeline's own phrases have. `size` is height and width in pixels, of a model
        that draws other sizes than its own.

        Image i is image first + i of the request `seed`. `known` are codes that are given, (n, N,
        ...) and a mask. Each image says in `info["smalti"]` how it was drawn.
        """
        images = list[Image.Image]()
        given, how = divided({"text": text, **wanted})  # type: ignore[typeddict-item]
        for part in self.drawing(self.asked(**given), **how).parts(n, first, batch):
            codes = self.drawn(part, part.rows(known))
            images += self.tagged(self.decode(codes, part.spec), part)
        return images

    def drawn(self, part: Part, known: Known | None = None) -> Tensor:
        """Codes (B, N, ...) of a part of a request for pictures of texts; an empty text is none."""
        texts = [asked["text"] for asked in part.asked if "text" in asked]
        put = [self.phrases.put(self.phrases.draw, [t]) if t else [] for t in texts]
        return self._drawn(put, part, known)

    def edits(self, wanted: Wanted) -> Drawing:
        """What is asked for of a part of a picture, which may be nothing. Raises ValueError for
        settings that cannot be, and for guidance that has no text to lead to."""
        given, how = divided({**wanted})
        _refuse_others(given)
        text, negative = given.get("text"), given.get("negative")
        asked = nothing(True, negative, empty=True) if text is None else self.asked(**given)
        drawing = at_own_size(self.drawing(asked, **how), self.tokenizer)
        led = text is not None or any(one.get("negative") for one in asked)
        return drawing if led else unguided(drawing, how, "a text")

    def asked(self, *, size: Size | None = None, **given: Unpack[Conditions]) -> list[Asked]:
        """The texts of a request, in turn, and the negative ones, '' for none, and for None those
        of the pipeline; they are the same at every `size`. Raises ValueError for other conditions,
        and for a text with a place for a picture."""
        _refuse_others(given)
        own, negative = self.phrases.negative, given.get("negative")
        asked = prompted(given.get("text"), own if negative is None else negative, empty=True)
        for one in asked:
            if own:  # what was drawn says whether its own was left out
                one.setdefault("negative", "")
            placed([one.get("text", "")])
            placed([one.get("negative", "")])
        return asked

    def drawing(self, asked: list[Asked], **how: Unpack[How]) -> Drawing:
        """Texts, and how they are to be drawn. Raises ValueError for a size that the model does not
        draw, and as `settings` and `require_drawing` do."""
        self.require_drawing()
        changes = dict[str, Any](how)
        spec = spec_of(self.tokenizer, self.model, changes.pop("size", None))
        seed = whole(changes.pop("seed", 0), "seed")
        return Drawing(asked, seed, self.settings(changes)[0], spec)

    def spec_of(self, size: Size | None) -> TokenSpec:
        """The codes of pictures of a height and width in pixels; None is the pipeline's own size.

        Raises ValueError, naming the sizes that there are, if it does not draw this one.
        """
        return spec_of(self.tokenizer, self.model, size) or self.model.spec

    def ask(
        self, images: Piece | Sequence[Piece], question: str, *, seed: int = 0, **settings: Any
    ) -> str:
        """Answer a question about one picture or several; where the question says `<image>` they
        stand there, else before it. Raises ValueError if it names another number of them."""
        given = images if isinstance(images, list | tuple) else [images]
        some = [as_picture(image) for image in given]
        asked = self._about(self.phrases.ask, question, some)
        return self.answers([asked], seed=seed, **settings)[0]

    def _about(self, phrase: str, text: str, pictures: Sequence[Piece]) -> list[Piece]:
        """A phrase with a text about pictures: they stand where the text says `<image>`, else where
        the phrase has them."""
        if PLACE in text:
            return self.phrases.put(phrase, placed([*pictures, text]))
        return self.phrases.put(phrase, [text], pictures)

    def caption(
        self,
        images: Sequence[Piece],
        *,
        first: int = 0,
        batch: int = 16,
        seed: int = 0,
        **settings: Any,
    ) -> list[str]:
        """Describe each picture; picture i is number first + i of the request `seed`."""
        found = list[str]()
        for at in range(0, len(images), batch):
            some = [as_picture(image) for image in images[at : at + batch]]
            asked = [self.phrases.put(self.phrases.caption, pictures=[image]) for image in some]
            found += self.answers(asked, seed=seed, first=first + at, **settings)
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
        """Change a picture as an instruction says, n times; it stands where the instruction says
        `<image>`, else before it."""
        asked = self._about(self.phrases.edit, instruction, [as_picture(image)])
        edit: Json = {"instruct": instruction}
        return self._pictures([asked] * n, [instruction] * n, seed, first, settings, edit=edit)

    def recaption(
        self,
        texts: Texts,
        phrase: str,
        *,
        first: int = 0,
        batch: int = 16,
        seed: int = 0,
        **settings: Any,
    ) -> list[str]:
        """Say texts to draw in other words, as the model completes a phrase such as "{} is {}.":
        each text stands in the first {}, the model writes the second, up to what stands behind it
        or as far as it writes.

        Text i is number first + i of the request `seed`. Raises ValueError for a phrase without
        two {}, for a text that `pipe` would refuse, and if the model writes nothing.
        """
        if phrase.count("{}") != 2:
            raise ValueError(
                "recaption must hold {} twice, for the text and for other words of it, such as "
                f'"{{}} is {{}}.", got {phrase!r}'
            )
        asked, found = checked(texts), list[str]()
        for text in asked:
            placed([text])
        before, between, end = phrase.split("{}")
        documents = [[f"{before}{text}{between}".rstrip(" ")] for text in asked]
        for at in range(0, len(asked), whole(batch, "batch", 1)):
            some = documents[at : at + batch]
            found += self.answers(some, seed=seed, first=first + at, end=end, **settings)
        if "" in found:
            raise ValueError(f"the model wrote no other words of {asked[found.index('')]!r}")
        return found

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
        end: str = "",
        **settings: Any,
    ) -> list[str]:
        """The text that follows on each document of pieces, up to `end` if that is given, without
        blanks around it."""
        found, done = [""] * len(documents), [False] * len(documents)
        for event in self.go_on(documents, Wish(seed=seed, number=first), **settings):
            if isinstance(event, Said):
                text, ended, _ = event.text.lstrip().partition(end) if end else (event.text, "", "")
                found[event.row], done[event.row] = text.strip(), event.whole or bool(ended)
                if all(done):  # what a model writes behind the end is of no use
                    break
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
        **more: Json,
    ) -> list[Image.Image]:
        """The picture that follows on each document, with what was asked, how it was drawn, and
        `more`."""
        each: list[Asked] = [{"text": text} for text in asked]
        part = Part(0, first, each, seed, self.settings(settings)[0])
        return self.tagged(self.decode(self._drawn(documents, part)), part, **more)

    def _drawn(
        self, documents: Sequence[Sequence[Piece]], part: Part, known: Known | None = None
    ) -> Tensor:
        """Codes (B, N, ...) of the picture that follows on each document."""
        found = dict[int, Tensor]()
        for event in self.passes(documents, part, known):
            if isinstance(event, mixed.Drawing):
                within(event.step.done, event.step.total)
            elif isinstance(event, mixed.Finished):
                found[event.row] = event.part.content
        return torch.stack([found[i] for i in range(len(documents))])

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
        keep_parts(folder, {*parts, "model", "words"})


def _refuse_others(given: Conditions) -> None:
    """Raise ValueError for conditions that are no text."""
    for name in ("classes", "map", "style"):
        if (value := given.get(name)) is not None:
            raise ValueError(f"a pipeline of text and pictures takes no {name}, got {value!r}")
