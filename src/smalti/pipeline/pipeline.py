"""A pipeline: a tokenizer, a generator, and how to draw from them, as one folder.

    pipe = smalti.load("demo/pipeline")
    images = pipe(classes=["Food & Drink"], n=8, guidance=2.0, seed=1)

The folder holds `pipeline.json`, `tokenizer/`, `model/` and, if it draws from texts, `text/`. The
model stores the fingerprints of the tokenizer whose codes it learned and of the text encoder whose
features it learned; parts that do not match are refused.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from smalti.arguments import choose_number, fitting, refuse_unknown, several, whole
from smalti.codes import Cond, TokenSpec
from smalti.config import settings_of, to_dict
from smalti.data.decode import Picture, opened, to_rgb
from smalti.data.transforms import center_part, to_float, to_uint8
from smalti.devices.named import cast, is_dtype, named_device, named_dtype
from smalti.engine import stream
from smalti.engine.step import Known, Step
from smalti.files import check_folder, expand, filling, remove_files, write_json
from smalti.models.generator import Generator
from smalti.modules import FILES, check_module, fingerprint, name_of, write_module
from smalti.nn.finite import require_finite_weights
from smalti.pictures import to_pil
from smalti.pipeline.request import Asked, Part, parts, prompted
from smalti.pipeline.sampling import Sampling
from smalti.sampling.noise import Noise
from smalti.text.prompts import warn_of_long

ARGUMENTS = (
    *("classes", "text", "negative", "n", "seed", "first", "batch", "known"),
    *("image", "mask", "extend", "keep_pixels"),
)
"""What calls take beside settings of drawing."""


class Facts(dict[str, Any]):
    """A dictionary that prints one fact a line, long ones cut."""

    def __repr__(self) -> str:
        lines = (f"{name}: {value!r}" for name, value in self.items())
        return "\n".join(line if len(line) <= 100 else f"{line[:97]}..." for line in lines)


class Partial(NamedTuple):
    """Images on the way."""

    images: list[Image.Image]
    """What is not drawn yet is grey."""
    step: int
    """Steps done."""
    total: int


Classes = int | str | Sequence[int | str] | np.ndarray | Tensor
"""Numbers and names."""


class Pipeline:
    """Draws images. See `smalti.load`, `__call__`, `stream` and `edit`.

    Conditions are classes, by name or number, or the prompts of a pipeline that draws from texts:
    one or several, in a list, an array or a tensor. Wherever a number is taken, those of numpy and
    torch are. Arguments and settings that cannot be raise ValueError naming what is allowed.
    """

    edit: ClassVar[Callable[..., list[Image.Image]]]
    """`editing.edit`, which stands above the pipeline and sets this."""
    from_pretrained: ClassVar[Callable[..., Pipeline]]
    """The same as `smalti.load`, which sets this."""

    def __init__(
        self,
        tokenizer: Any,
        model: Any,
        classes: Sequence[str] = (),
        sampling: Sampling | None = None,
        info: dict[str, Any] | None = None,
        text: Any = None,
    ) -> None:
        if tokenizer.spec != model.spec:
            raise ValueError(
                f"tokenizer and model speak of other codes: {tokenizer.spec}, {model.spec}"
            )
        _check_text(model, text)
        self.tokenizer, self.model, self.text = tokenizer, model, text
        self.classes = list(classes) or [str(i) for i in range(model.reads.classes)]
        self.sampling, self.info = sampling or Sampling(), Facts(info or {})

    def __repr__(self) -> str:
        """What it draws, with what, and where."""
        count = sum(p.numel() for p in self.model.parameters())
        some = ", ".join(self.classes[:6]) + (", ..." if len(self.classes) > 6 else "")
        of = "texts" if self.text is not None else f"{len(self.classes)} classes ({some})"
        (height, width), spec = self.tokenizer.config.size, self.model.spec
        codes = f"of {spec.vocab}" if spec.discrete else f"of {spec.channels} numbers"
        return (
            f"Pipeline of {name_of(self.model)}, {count:,} parameters, draws {of}\n"
            f"  {width} x {height} pixels as {spec.positions} codes {codes}, by "
            f"{name_of(self.tokenizer)}\n"
            f"  on {self.device} in {_short(self.dtype)}"
        )

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.model.parameters()).dtype

    def to(
        self,
        *places: Any,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | str | None = None,
    ) -> Pipeline:
        """Move to a device, bring the generator's weights to a dtype, or both; returns itself.

        The tokenizer stays in float32. Names are those of `smalti.load`.
        """
        for place in places:
            if is_dtype(place):
                dtype = place
            else:
                device = place
        weights = named_dtype(dtype)
        where = self.device if device is None else named_device(device)
        if weights is not None and weights != self.dtype:
            _ = self.fingerprint  # of the weights as they were learned
            cast(self.model, weights, self.model.FLOAT32)
            if self.text is not None:
                cast(self.text, weights)
        for part in (self.tokenizer, self.model, self.text):
            if part is not None:
                part.to(where)
        return self

    # -- drawing

    def __call__(
        self,
        conditions: Any = None,
        n: int | None = None,
        *,
        classes: Classes | None = None,
        text: str | Sequence[str] | None = None,
        negative: str | Sequence[str] | None = None,
        seed: int = 0,
        first: int = 0,
        batch: int = 64,
        known: Known | None = None,
        **sampling: Any,
    ) -> list[Image.Image]:
        """Draw n images of the given classes or prompts, in turn.

        Args:
            conditions: what the pipeline draws from: the same as `classes`, or else as `text`.
            classes: names or numbers; None takes all classes.
            n: number of images; None draws one of each class or prompt given.
            text: prompts, of a pipeline that draws from texts.
            negative: what guidance leads away from, for all prompts or one for each; None leads
                away from no text at all.
            seed, first: image i of this call is image first + i of the request `seed`; it is the
                same whatever n and batch are.
            batch: images drawn at a time.
            known: codes that are given, (n, N) and a mask.
            sampling: any field of `Sampling` (guidance, temperature, top_k, top_p, ...), else the
                pipeline's default.
        Each image carries in `info["smalti"]` what is needed to draw it again. Raises ValueError
        naming what is allowed.
        """
        asked = self.asked(conditions, classes=classes, text=text, negative=negative)
        images: list[Image.Image] = []
        for part in parts(asked, n, first, batch):
            place = {"seed": seed, "first": part.first, "known": part.rows(known)}
            codes = self.codes(part.asked, **place, **sampling)
            images += self.tagged(self.decode(codes), part, seed, sampling)
        return images

    def codes(
        self,
        asked: Any,
        *,
        seed: int = 0,
        first: int = 0,
        known: Known | None = None,
        **sampling: Any,
    ) -> Tensor:
        """Draw what `decode` takes, in one batch: codes (B, N, ...), or vectors (B, N, C) that
        stand for them.

        Args:
            asked: B conditions, one for each image: as `self.asked` gives them, or classes or
                prompts themselves.
            seed, first, sampling: as of `__call__`.
            known: codes that are given, (B, N, ...) and a mask.
        """
        asked = several(asked)
        if not all(isinstance(condition, dict) for condition in asked):
            asked = self.asked(asked)
        if not asked:
            raise ValueError("the number of classes or prompts must be at least 1, got 0")
        part = Part(0, whole(first, "first", 0), asked)
        codes = self.model.spec.empty(len(part.asked), self.device)
        for step in self._stream(part, seed, known, sampling):
            codes = step.drawn
        return codes

    def stream(
        self,
        conditions: Any = None,
        n: int | None = None,
        *,
        classes: Classes | None = None,
        text: str | Sequence[str] | None = None,
        negative: str | Sequence[str] | None = None,
        seed: int = 0,
        first: int = 0,
        every: int | None = None,
        known: Known | None = None,
        **sampling: Any,
    ) -> Iterator[Partial]:
        """The images of `__call__`, in one batch, every so many steps and at the end; by default
        every scale, or every 16 codes."""
        if every is None:
            every = 16 if len(self.model.spec.grids) == 1 else 1
        every = whole(every, "every", 1)
        asked = self.asked(conditions, classes=classes, text=text, negative=negative)
        (part,) = parts(asked, n, first, batch=None)
        for step in self._stream(part, seed, known, sampling):
            done = step.done
            if done == step.total:
                images = self.tagged(self.decode(step.drawn), part, seed, sampling)
                yield Partial(images, done, done)
            elif done % every == 0:
                yield Partial(self._preview(step), done, step.total)

    def asked(
        self,
        conditions: Any = None,
        *,
        classes: Classes | None = None,
        text: Any = None,
        negative: Any = None,
    ) -> list[Asked]:
        """The conditions of a request, in turn; image i has condition i modulo their number."""
        if conditions is not None:
            if classes is not None or text is not None:
                raise ValueError(f"classes or texts are given twice: {conditions!r} and by name")
            classes, text = (conditions, None) if self.text is None else (None, conditions)
        if self.text is not None:
            if classes is not None:
                raise ValueError(f"this pipeline draws from texts, not classes, got {classes!r}")
            asked = prompted(text, negative)
            warn_of_long([v for a in asked for v in a.values()], self.text)
            return asked
        if text is not None or negative is not None:
            given = text if text is not None else negative
            raise ValueError(f"this pipeline draws classes, not texts, got {given!r}")
        named = range(len(self.classes)) if classes is None else several(classes)
        numbers = [self.class_id(name) for name in named]
        return [{"class": i, "class_name": self.classes[i]} for i in numbers]

    def class_id(self, name: int | str) -> int:
        """The number of a class: a text is its exact name, or else its number, or else its name in
        other case; an integer is its number."""
        return choose_number(name, self.classes, "class")

    def _stream(
        self,
        part: Part,
        seed: int,
        known: Known | None,
        sampling: dict[str, Any],
    ) -> Iterator[Step]:
        settings, seed = self.settings(sampling), whole(seed, "seed")
        cond, negative = self._conds(part.asked)
        noise = Noise.request(seed, len(part.asked), part.first, self.device)
        yield from stream(self.model, settings.request(self.model, cond, noise, known, negative))

    def _conds(self, asked: list[Asked]) -> tuple[Cond, Cond | None]:
        """The condition of a batch, and the negative one where there are negative prompts."""
        if self.text is None:
            ids = [-1 if a["class"] is None else a["class"] for a in asked]
            return Cond.of_labels(torch.tensor(ids, device=self.device)), None
        cond = self._read([a["text"] for a in asked])
        if "negative" not in asked[0]:
            return cond, None
        return cond, self._read([a["negative"] for a in asked])

    @torch.inference_mode()
    def _read(self, texts: list[str]) -> Cond:
        """Encode texts, equal ones once, and each alone: a batch would round otherwise. An empty
        one is no condition, though a frozen encoder gives it an end mark."""
        read = {t: self.text(self.text.tokenize([t]).to(self.device)) for t in dict.fromkeys(texts)}
        features, masks = zip(*(read[t] for t in texts), strict=True)
        told = torch.tensor([[bool(t)] for t in texts], device=self.device)  # (B, 1)
        return Cond.of_text(torch.cat(features), torch.cat(masks) & told)

    def settings(self, changes: dict[str, Any]) -> Sampling:
        """The pipeline's own with some changed. Raises ValueError for a name that is none and for
        what is no number where one is wanted."""
        known = settings_of(Sampling)
        refuse_unknown(changes, list(known), ARGUMENTS)
        types = {name: typing.get_args(known[name].hint) or (known[name].hint,) for name in changes}
        given = {name: fitting(value, name, types[name]) for name, value in changes.items()}
        return self.sampling.changed(**given)

    # -- codes and images

    @torch.inference_mode()
    def encode(self, images: Tensor | np.ndarray | Picture) -> Tensor:
        """uint8 images (B, 3, H, W) to codes (B, N, ...); or one picture, a PIL image, file or
        array (H, W, 3), resized and cropped to its middle as in training."""
        size = tuple(self.tokenizer.config.size)
        if not isinstance(images, Tensor | np.ndarray) or images.ndim != 4:
            pixels = center_part(to_rgb(opened(images, "the image"), "the image"), size)
            images = torch.from_numpy(pixels.transpose(2, 0, 1).copy())[None]
        images = torch.as_tensor(images)
        if images.dtype != torch.uint8 or tuple(images.shape[1:]) != (3, *size):
            raise ValueError(
                f"images must be uint8 (B, 3, {size[0]}, {size[1]}), "
                f"got {_short(images.dtype)} {tuple(images.shape)}"
            )
        return self.tokenizer.encode(self._for_tokenizer(to_float(images)))

    @torch.inference_mode()
    def decode(self, codes: Tensor | np.ndarray, spec: TokenSpec | None = None) -> Tensor:
        """Codes (B, N, ...), or vectors that stand for them, to uint8 images (B, 3, H, W); `spec`
        says on which grid they are, if not on the model's own."""
        own: TokenSpec = self.model.spec
        codes, spec = torch.as_tensor(codes), spec or own
        vectors = spec.discrete and codes.is_floating_point() and codes.dim() == 3
        if tuple(codes.shape[1:]) != spec.shape(1)[1:] and not vectors:
            wanted = ", ".join(map(str, spec.shape(1)[1:]))
            raise ValueError(f"codes must be (B, {wanted}), got {tuple(codes.shape)}")
        if spec.discrete and not vectors and codes.numel():
            low, high = (int(n) for n in codes.aminmax())
            if low < 0 or high >= spec.vocab:
                raise ValueError(f"codes must be in [0, {spec.vocab}), got {low} to {high}")
        return to_uint8(self.tokenizer.decode(self._for_tokenizer(codes), spec))

    def _for_tokenizer(self, x: Tensor) -> Tensor:
        """On the tokenizer's device, and floats in its dtype, whatever the generator has."""
        weight = next(self.tokenizer.parameters())
        return x.to(weight.device, weight.dtype if x.is_floating_point() else torch.int64)

    @torch.inference_mode()
    def _preview(self, step: Step) -> list[Image.Image]:
        """Decode what there is: the scales so far, or grey over cells that are not drawn yet."""
        if len(self.model.spec.grids) > 1:
            drawn = self._for_tokenizer(step.drawn)
            return to_pil(to_uint8(self.tokenizer.decode(drawn, scales=step.done)))
        images, grid = self.decode(step.drawn), self.model.spec.grids[0]  # (B, 3, H, W)
        drawn = step.ready.view(-1, 1, *grid).float()
        cells = nn.functional.interpolate(drawn, images.shape[2:], mode="nearest")
        return to_pil(torch.where(cells > 0, images, torch.full_like(images, 128)))

    def tagged(
        self, images: Tensor, part: Part, seed: int, sampling: dict[str, Any], **more: Any
    ) -> list[Image.Image]:
        """uint8 images (B, 3, H, W) as pictures that say how they were drawn."""
        pictures, settings = to_pil(images), to_dict(self.settings(sampling))
        for i, (picture, asked) in enumerate(zip(pictures, part.asked, strict=True)):
            picture.info["smalti"] = {
                "pipeline": self.fingerprint,
                "seed": whole(seed, "seed"),
                "index": part.first + i,
                **asked,
                "dtype": _short(self.dtype),
                **settings,
                **more,
            }
        return pictures

    # -- files

    @property
    def fingerprint(self) -> str:
        """A hash of the tokenizer, the model and the text encoder."""
        if "fingerprint" not in self.info:
            parts = [p for p in (self.tokenizer, self.model, self.text) if p is not None]
            self.info["fingerprint"] = "-".join(fingerprint(part) for part in parts)
        return self.info["fingerprint"]

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the pipeline's folder: a new or empty one, or that of another pipeline, of which
        smalti's files are replaced and all others stay.

        Raises ValueError, naming what is there, for a folder of something else, and naming the
        weights if some are NaN or infinite.
        """
        folder = expand(folder)
        check_pipeline(folder)
        for part in (self.tokenizer, self.text, self.model):
            if part is not None:  # before anything is written
                require_finite_weights(part.state_dict(), f"{folder} is not written")
        with filling(folder) as temporary:
            mark = write_module(self.tokenizer, temporary / "tokenizer")
            text = None if self.text is None else write_module(self.text, temporary / "text")
            model = write_module(self.model, temporary / "model", tokenizer=mark, text=text)
            told = ("source", "holdout", "files", "credit", "init")
            kept = {k: v for k, v in self.info.items() if k in told}
            write_json(
                temporary / "pipeline.json",
                {
                    "format": 1,
                    "fingerprint": "-".join(m for m in (mark, model, text) if m is not None),
                    "classes": self.classes,
                    "sampling": to_dict(self.sampling),
                    **kept,
                },
            )
        if text is None:  # of the pipeline that was there before
            remove_files(folder / "text", *map(re.escape, FILES))

    def push_to_hub(self, repo: str, private: bool = False) -> str:
        """Upload the pipeline to the Hugging Face hub and return its address."""
        import tempfile

        from huggingface_hub import HfApi

        api = HfApi()
        api.create_repo(repo, private=private, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(Path(folder) / "pipeline")
            return str(api.upload_folder(repo_id=repo, folder_path=Path(folder) / "pipeline"))


def check_pipeline(folder: Path) -> None:
    """Raise ValueError, naming what is there, unless a pipeline may be written to the folder."""
    check_folder(folder, "pipeline.json", ("format", "sampling"), "a pipeline")
    for part in ("tokenizer", "model", "text"):
        check_module(folder / part)


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _check_text(model: Generator, text: Any | None) -> None:
    """Raise ValueError unless a model reads what the encoder gives."""
    wanted = model.reads.text
    given = None if text is None else (text.config.length, text.config.dim)
    if wanted != given:
        raise ValueError(
            f"the model reads text features of (length, width) {wanted}, the encoder gives {given}"
        )
