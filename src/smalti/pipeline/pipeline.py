"""A pipeline: a tokenizer, a generator, and how to draw from them, as one folder.

    pipe = smalti.load("demo/pipeline")
    images = pipe(classes=["Food & Drink"], n=8, guidance=2.0, seed=1)

The folder holds `pipeline.json`, `tokenizer/` and `model/`, `text/` if it draws from texts, and
`map/` if it draws from maps. The model stores the fingerprints of the parts whose codes or features
it learned; parts that do not match are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, NamedTuple, Unpack

from PIL import Image
from torch import Tensor

from smalti.arguments import choose_number, refuse_unknown, several, whole
from smalti.codes import TokenSpec
from smalti.config import settings_of, to_dict
from smalti.engine import stream
from smalti.engine.step import Known, Request
from smalti.files import expand, filling, write_json
from smalti.models.generator import Generator
from smalti.modules import fingerprint, name_of, write_module
from smalti.nn.finite import require_finite_weights
from smalti.pipeline.card import write_card
from smalti.pipeline.coded import CodedPipeline, preview, short
from smalti.pipeline.facts import Facts, Json
from smalti.pipeline.fits import check_map, check_text, check_told
from smalti.pipeline.folders import check_pipeline, keep_parts
from smalti.pipeline.maps import coded_maps
from smalti.pipeline.request import (
    ARGUMENTS,
    Asked,
    Classes,
    Drawing,
    How,
    Maps,
    Part,
    Size,
    Texts,
    Wanted,
    at_own_size,
    divided,
    nothing,
    prompted,
    read_conditions,
    spec_of,
    unguided,
)
from smalti.pipeline.sampling import Sampling, Settings, fitted
from smalti.pipeline.wording import KEYS, Wording
from smalti.progress import within
from smalti.sampling.noise import Noise
from smalti.text.encoders import TextEncoder
from smalti.text.prompts import warn_of_long
from smalti.tokenizers.base import ImageTokenizer, check_levels


class Partial(NamedTuple):
    """Images of which a part is drawn, or all of it in the last one of a stream."""

    images: list[Image.Image]
    """What is not drawn yet is grey."""
    step: int
    """Number of steps that are done."""
    total: int
    """Number of steps of the whole drawing."""


class Pipeline(CodedPipeline):
    """Draws images. See `smalti.load`, `__call__`, `stream` and `edit`.

    Conditions are classes, by name or number, or the prompts of a pipeline that draws from texts:
    one or several, in a list, an array or a tensor. Wherever a number is taken, those of numpy and
    torch are taken too. Impossible arguments and settings raise ValueError, which names what is
    allowed.
    """

    model: Generator
    from_pretrained: ClassVar[Callable[..., Pipeline]]
    """`smalti.load` of such a pipeline, set where that is."""

    def __init__(
        self,
        tokenizer: ImageTokenizer,
        model: Generator,
        classes: Sequence[str] = (),
        sampling: Sampling | None = None,
        info: Mapping[str, Json] | None = None,
        text: TextEncoder | None = None,
        map: ImageTokenizer | None = None,
    ) -> None:
        if tokenizer.spec != model.spec:
            raise ValueError(
                f"tokenizer and model speak of other codes: {tokenizer.spec}, {model.spec}"
            )
        check_text(model, text)
        check_told(tokenizer, model, text)
        check_map(model, map)
        self.tokenizer, self.model, self.text, self.map = tokenizer, model, text, map
        self.classes = list(classes) or [str(i) for i in range(model.reads.classes)]
        self.sampling, self.info = sampling or Sampling(), Facts(info or {})
        self.wording = Wording.of(self.info)

    def __repr__(self) -> str:
        """What it draws, with what, and where."""
        count = sum(p.numel() for p in self.model.parameters())
        some = ", ".join(self.classes[:6]) + (", ..." if len(self.classes) > 6 else "")
        of = "texts" if self.text is not None else f"{len(self.classes)} classes ({some})"
        of = of if self.map is None else f"from maps ({self.map.map})"
        (height, width), spec = self.tokenizer.size, self.model.spec
        return (
            f"Pipeline of {name_of(self.model)}, {count:,} parameters, draws {of}\n"
            f"  {width} x {height} pixels as {spec.positions} codes {spec.words}, by "
            f"{name_of(self.tokenizer)}\n"
            f"  on {self.device} in {short(self.dtype)}"
        )

    @property
    def task(self) -> str:
        if self.text is not None:
            return "text-to-image"
        return "unconditional-image-generation" if self.map is None else "image-to-image"

    def example(self, name: str) -> str:
        what = '"a red flower"' if self.text is not None else 'map="map.png"'
        what = f"classes=[{self.classes[0]!r}]" if self.classes else what
        return f'pipe = smalti.load("{name}")\npipe({what}, n=1)[0].save("picture.png")'

    # -- drawing

    def __call__(
        self,
        conditions: Classes | Texts | None = None,
        n: int | None = None,
        *,
        first: int = 0,
        batch: int = 64,
        known: Known | None = None,
        **wanted: Unpack[Wanted],
    ) -> list[Image.Image]:
        """Draw n images of the given classes or prompts, in turn.

        Args:
            conditions: what the pipeline draws from, without saying its name: `classes`, `text` or
                `map`.
            n: number of images; None draws one of each class or prompt given.
            classes: names or numbers; None takes all classes. A pipeline that draws from texts and
                knows the classes of what it learned (`wording`) draws their names.
            text: prompts, for a pipeline that draws from texts.
            style: words that are put behind each prompt, for a pipeline that knows styles.
            map: maps, for a pipeline that draws from maps: pictures of depths or of numbers of
                kinds or, if it draws from edges, pictures whose edges are taken. A map of another
                size than what is drawn is resized and cropped to its middle.
            negative: a text that guidance leads away from, one for all prompts or one for each;
                with None guidance leads away from no text at all.
            size: height and width in pixels, for a pipeline that draws other sizes than its own.
            seed, first: image i of this call is image first + i of the request `seed`; it is the
                same whatever n and batch are.
            batch: number of images that are drawn at a time.
            known: codes that are given, (n, N, ...), and a mask of where they are.
            guidance, temperature, top_k, top_p, ...: any field of `Settings`; what is not given is
                the pipeline's own.
        Each image carries in `info["smalti"]` what is needed to draw it again. Raises ValueError,
        which names what is allowed.
        """
        images: list[Image.Image] = []
        for part in self._drawing(conditions, wanted).parts(n, first, batch):
            codes = self.drawn(part, part.rows(known))
            images += self.tagged(self.shown(codes, part), part)
        return images

    def stream(
        self,
        conditions: Classes | Texts | None = None,
        n: int | None = None,
        *,
        first: int = 0,
        every: int | None = None,
        depth: int | None = None,
        known: Known | None = None,
        **wanted: Unpack[Wanted],
    ) -> Iterator[Partial]:
        """Draw the images of `__call__` in one batch, and yield them every so many steps (`every`)
        and at the end.

        The default of `every` is a scale, or 16 codes. Images whose codes have no places are
        yielded at the end alone, and `every` raises ValueError for them. Images on the way are made
        of the first `depth` codes of each position, or scales, or of all of them if it is None.
        """
        placed = self.tokenizer.placed
        if every is not None:
            self.tokenizer.require_places("a picture on the way")
        else:
            every = 16 if len(self.model.spec.grids) == 1 else 1
        every = whole(every, "every", 1)
        if depth is not None:
            check_levels(depth, self.tokenizer.levels)
        (part,) = self._drawing(conditions, wanted).parts(n, first, batch=None)
        done = 0
        for step in stream(self.model, self._request(part, known)):
            before, done = done, step.done
            if done == step.total:
                images = self.shown(step.drawn, part)
                yield Partial(self.tagged(images, part), done, done)
            elif placed and done // every > before // every:
                yield Partial(preview(self.tokenizer, step, part.spec, depth), done, step.total)

    def codes(
        self,
        asked: Sequence[Asked] | Classes | Texts,
        *,
        first: int = 0,
        known: Known | None = None,
        **how: Unpack[How],
    ) -> Tensor:
        """Draw what `decode` takes, in one batch: codes (B, N, ...), or vectors (B, N, C) that
        stand for them. Those of another size than the pipeline's own are decoded with its
        `spec_of(size)`.

        Args:
            asked: B conditions, one for each image: as `self.asked` gives them, or classes or
                prompts themselves.
            first, and seed, size and settings of drawing: as of `__call__`.
            known: codes that are given, (B, N, ...) and a mask.
        """
        each = several(asked)
        if not all(isinstance(condition, dict) for condition in each):
            each = self.asked(each, size=how.get("size"))
        (part,) = self.drawing(each, **how).parts(None, 0, None)
        return self.drawn(part._replace(first=whole(first, "first", 0)), known)

    def drawn(self, part: Part, known: Known | None = None) -> Tensor:
        """What `codes` gives, of a part of a request; `known` are the codes of its images."""
        codes = self.model.draws(part.spec).empty(len(part.asked), self.device)
        for step in stream(self.model, self._request(part, known)):
            codes = step.drawn
            within(step.done, step.total)
        return codes

    def _request(self, part: Part, known: Known | None) -> Request:
        reads = self.model.reads.map
        cond, negative = read_conditions(part.asked, self.text, self.device, reads)
        noise = Noise.request(part.seed, len(part.asked), part.first, self.device)
        return part.sampling.request(self.model, cond, noise, known, negative, part.spec)

    # -- what is asked

    def _drawing(self, conditions: Classes | Texts | None, wanted: Wanted) -> Drawing:
        given, how = divided(wanted)
        return self.drawing(self.asked(conditions, size=how.get("size"), **given), **how)

    def drawing(
        self,
        asked: list[Asked],
        seed: int = 0,
        size: Size | None = None,
        **sampling: Unpack[Settings],
    ) -> Drawing:
        """Conditions, and how they are to be drawn. Raises ValueError as `settings` and `spec_of`
        do."""
        spec = spec_of(self.tokenizer, self.model, size)
        return Drawing(asked, whole(seed, "seed"), self.settings(sampling), spec)

    def asked(
        self,
        conditions: Classes | Texts | None = None,
        *,
        classes: Classes | None = None,
        text: Texts | None = None,
        negative: Texts | None = None,
        map: Maps | None = None,
        style: str | None = None,
        size: Size | None = None,
    ) -> list[Asked]:
        """The conditions of a request, in turn; image i has condition i modulo their number. Maps
        are brought to the `size` that is drawn."""
        if conditions is not None and (classes is not None or text is not None):
            raise ValueError(f"classes or texts are given twice: {conditions!r} and by name")
        if self.map is not None:
            others = {"classes": classes, "text": text, "negative": negative, "style": style}
            for name, value in others.items():
                if value is not None:
                    raise ValueError(f"this pipeline draws from maps, not {name}, got {value!r}")
            spec, maps = self.spec_of(size), map if conditions is None else conditions
            own = spec == self.model.spec
            spec = self.map.spec if own else replace(self.map.spec, grids=spec.grids)
            return coded_maps(self.map, maps, spec)
        if map is not None:
            draws = "from texts" if self.text is not None else "classes"
            raise ValueError(f"this pipeline draws {draws}, not maps")
        if self.text is not None:
            given = text if conditions is None else conditions
            asked = prompted(self.wording.prompts(given, classes, style), negative)
            texts = (t for a in asked for t in (a.get("text"), a.get("negative")))
            warn_of_long([t for t in texts if t is not None], self.text)
            return asked
        for given in (text, negative, style):
            if given is not None:
                raise ValueError(f"this pipeline draws classes, not texts, got {given!r}")
        named = classes if conditions is None else conditions
        each = range(len(self.classes)) if named is None else several(named)
        numbers = [self.class_id(name) for name in each]
        return [{"class": i, "class_name": self.classes[i]} for i in numbers]

    def class_id(self, name: int | str) -> int:
        """The number of a class: a text is its exact name, or else its number, or else its name in
        other case; an integer is its number."""
        return choose_number(name, self.classes, "class")

    def edits(self, wanted: Wanted) -> Drawing:
        """What is asked for of a part of a picture, which may be nothing.

        Raises ValueError for settings that cannot be, for another size than the model's, and for
        guidance that would lead away from nothing to nothing.
        """
        given, how = divided(wanted)
        negative, style = given.get("negative"), given.get("style")
        conditioned = any(given.get(name) is not None for name in ("classes", "text", "map"))
        if style is not None and not conditioned:
            raise ValueError(f"style {style!r} needs a text or a class to stand behind")
        nil = nothing(self.text is not None, negative, self.map is not None)
        asked = self.asked(**given) if conditioned else nil
        drawing = at_own_size(self.drawing(asked, **how), self.tokenizer)
        drawing.sampling.check(self.model)
        if conditioned or negative is not None:
            return drawing
        what = "a map" if self.map is not None else "a class" if self.text is None else "a text"
        return unguided(drawing, how, what)

    def settings(self, changes: Settings) -> Sampling:
        """The pipeline's own with some changed. Raises ValueError for a name that is none and for
        what is no number where one is wanted."""
        known = settings_of(Sampling)
        refuse_unknown(changes, list(known), ARGUMENTS)
        return self.sampling.changed(**fitted({**changes}, known))

    # -- codes and images

    def spec_of(self, size: Size | None) -> TokenSpec:
        """The codes of pictures of a height and width in pixels; None is the pipeline's own size.

        Raises ValueError, naming the sizes that there are, if it does not draw this one.
        """
        return spec_of(self.tokenizer, self.model, size) or self.model.spec

    # -- files

    @property
    def fingerprint(self) -> str:
        """A hash of the tokenizer, the model and what reads the condition."""
        if "fingerprint" not in self.info:
            every = (self.tokenizer, self.model, self.text, self.map)
            parts = [p for p in every if p is not None]
            self.info["fingerprint"] = "-".join(fingerprint(part) for part in parts)
        return str(self.info["fingerprint"])

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the pipeline's folder: a new or empty one, or that of another pipeline, of which
        smalti's files are replaced and all others stay.

        Raises ValueError, naming what is there, for a folder of something else, and naming the
        weights if some are NaN or infinite.
        """
        folder = expand(folder)
        check_pipeline(folder)
        for part in (self.tokenizer, self.text, self.map, self.model):
            if part is not None:  # before anything is written
                require_finite_weights(part.state_dict(), f"{folder} is not written")
        with filling(folder) as temporary:
            mark = write_module(self.tokenizer, temporary / "tokenizer")
            text = None if self.text is None else write_module(self.text, temporary / "text")
            map = None if self.map is None else write_module(self.map, temporary / "map")
            learned = {"tokenizer": fingerprint(self.tokenizer.coder), "text": text}
            learned |= {} if self.map is None else {"map": fingerprint(self.map.coder)}
            model = write_module(self.model, temporary / "model", **learned)
            told = ("source", "holdout", "files", "credit", "init", "card", *KEYS)
            kept = {k: v for k, v in self.info.items() if k in told}
            write_json(
                temporary / "pipeline.json",
                {
                    "format": 1,
                    "fingerprint": "-".join(m for m in (mark, model, text, map) if m is not None),
                    "classes": self.classes,
                    "sampling": to_dict(self.sampling),
                    **kept,
                },
            )
            write_card(self, temporary, folder)
        read = {"text": text, "map": map}
        keep_parts(folder, {"tokenizer", "model", *(name for name in read if read[name])})
