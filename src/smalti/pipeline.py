"""A pipeline: a tokenizer, a generator, and how to draw from them, as one folder.

    pipe = smalti.load("demo/pipeline")
    images = pipe(classes=["Food & Drink"], n=8, guidance=2.0, seed=1)

The folder holds `pipeline.json`, `tokenizer/`, `model/` and, if it draws from texts, `text/`. The
model stores the fingerprints of the tokenizer whose codes it learned and of the text encoder whose
features it learned; parts that do not match are refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor, nn

from smalti import editing
from smalti.codes import Cond
from smalti.config import did_you_mean, to_dict
from smalti.data.transforms import to_float, to_uint8
from smalti.engine.step import Known, Step
from smalti.files import check_folder, expand, filling, remove_files, write_json
from smalti.pictures import to_pil
from smalti.request import Asked, Part, nothing, parts, prompted
from smalti.sampling.noise import Noise
from smalti.settings import Sampling
from smalti.storage import FILES, check_module, fingerprint, write_module
from smalti.text.prompts import warn_of_long


class Partial(NamedTuple):
    """Images on the way."""

    images: list[Image.Image]
    """What is not drawn yet is grey."""
    step: int
    """Steps done."""
    total: int


class Pipeline:
    """Draws images. See `smalti.load`, `__call__` and `stream`."""

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
        _check_text(model.config, text)
        self.tokenizer, self.model, self.text = tokenizer, model, text
        self.classes = list(classes) or [str(i) for i in range(model.config.classes)]
        self.sampling, self.info = sampling or Sampling(), info or {}

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.model.parameters()).dtype

    def to(self, device: torch.device | str) -> Pipeline:
        self.tokenizer.to(device)
        self.model.to(device)
        if self.text is not None:
            self.text.to(device)
        return self

    # -- drawing

    def __call__(
        self,
        classes: Sequence[int | str] | None = None,
        n: int | None = None,
        *,
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
            classes: ids or names; None takes all classes.
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
        images: list[Image.Image] = []
        for part in parts(self.asked(classes, text, negative), n, first, batch):
            codes = self.tokenizer.spec.empty(len(part.asked), self.device)
            for step in self._stream(part, seed, part.rows(known), sampling):
                codes = step.drawn
            images += self._tag(self.decode(codes), part, seed, sampling)
        return images

    def stream(
        self,
        classes: Sequence[int | str] | None = None,
        n: int | None = None,
        *,
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
        if every < 1:
            raise ValueError(f"every must be at least 1, got {every}")
        (part,) = parts(self.asked(classes, text, negative), n, first, batch=None)
        for step in self._stream(part, seed, known, sampling):
            done = step.done
            if done == step.total:
                yield Partial(self._tag(self.decode(step.drawn), part, seed, sampling), done, done)
            elif done % every == 0:
                yield Partial(self._preview(step), done, step.total)

    def edit(
        self,
        image: editing.Picture,
        mask: editing.Picture | None = None,
        *,
        classes: Sequence[int | str] | None = None,
        text: str | Sequence[str] | None = None,
        negative: str | Sequence[str] | None = None,
        extend: Mapping[str, int] | None = None,
        keep_pixels: bool = False,
        n: int | None = None,
        seed: int = 0,
        first: int = 0,
        batch: int = 64,
        **sampling: Any,
    ) -> list[Image.Image]:
        """Paint a part of a picture anew, or go on beyond its edges; the other arguments are those
        of `__call__`.

        Args:
            image: a PIL image or a file. One of another size than the model's is resized and
                cropped to its middle, as in training, and the mask with it.
            mask: white (above 127; transparent counts as white) is painted anew, black is kept; of
                the image's size, any mode. A patch with any white pixel is drawn.
            classes, text: None draws without a condition.
            extend: pixels to add at left, right, top and bottom, at the model's size.
            keep_pixels: what is kept comes back as it is, with a seam inside the painted part,
                instead of as the tokenizer's reconstruction.
        Raises ValueError naming what is allowed.
        """
        self.settings(sampling).check(self.model)
        if classes is None and text is None:
            asked = nothing(self.text is not None, negative)
            if negative is None:  # guidance away from nothing leads nowhere
                if sampling.get("guidance", 1.0) != 1.0:
                    what = "a class" if self.text is None else "a text"
                    raise ValueError(f"guidance {sampling['guidance']} needs {what} to lead to")
                sampling |= {"guidance": 1.0}
        else:
            asked = self.asked(classes, text, negative)
        edit = editing.plan(self.tokenizer, image, mask, extend, keep_pixels)
        images: list[Image.Image] = []
        for part in parts(asked, n, first, batch):

            def draw(known: Known, window: int, part: Part = part) -> Tensor:
                *_, last = self._stream(part, editing.window_seed(seed, window), known, sampling)
                return last.drawn

            drawn = editing.paint(edit, self, draw, len(part.asked))
            images += self._tag(drawn, part, seed, sampling, edit=edit.tag())
        return images

    def asked(
        self, classes: Sequence[int | str] | None = None, text: Any = None, negative: Any = None
    ) -> list[Asked]:
        """The conditions of a request, in turn; image i has condition i modulo their number."""
        if self.text is not None:
            if classes is not None:
                raise ValueError(f"this pipeline draws from texts, not classes, got {classes!r}")
            asked = prompted(text, negative)
            warn_of_long([v for a in asked for v in a.values()], self.text)
            return asked
        if text is not None or negative is not None:
            given = text if text is not None else negative
            raise ValueError(f"this pipeline draws classes, not texts, got {given!r}")
        ids = range(len(self.classes)) if classes is None else [self.class_id(c) for c in classes]
        return [{"class": i, "class_name": self.classes[i]} for i in ids]

    def class_id(self, name: int | str) -> int:
        """The id of a class given by id or name (case does not matter)."""
        if isinstance(name, int) or name.isdecimal():
            if 0 <= int(name) < len(self.classes):
                return int(name)
        else:
            lower = [c.lower() for c in self.classes]
            if name.lower() in lower:
                return lower.index(name.lower())
        names = ", ".join(self.classes[:12]) + (", ..." if len(self.classes) > 12 else "")
        near = did_you_mean(str(name), self.classes)
        raise ValueError(
            f"class must be one of 0 ... {len(self.classes) - 1} or {names}, got {name!r}{near}"
        )

    def _stream(
        self,
        part: Part,
        seed: int,
        known: Known | None,
        sampling: dict[str, Any],
    ) -> Iterator[Step]:
        settings, (cond, negative) = self.settings(sampling), self._conds(part.asked)
        noise = Noise.request(seed, len(part.asked), part.first, self.device)
        yield from settings.stream(self.model, cond, noise, known, negative)

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
        """The pipeline's own with some changed. Raises ValueError for a name that is none."""
        try:
            return replace(self.sampling, **changes)
        except TypeError:
            known = ", ".join(asdict(self.sampling))
            raise ValueError(f"sampling has {known}, got {', '.join(changes)}") from None

    # -- codes and images

    @torch.inference_mode()
    def encode(self, images: Tensor) -> Tensor:
        """uint8 images (B, 3, H, W) to codes (B, N, ...)."""
        return self.tokenizer.encode(to_float(images.to(self.device)))

    @torch.inference_mode()
    def decode(self, codes: Tensor) -> Tensor:
        """Codes (B, N, ...), or vectors that stand for them, to uint8 images (B, 3, H, W)."""
        return to_uint8(self.tokenizer.decode(codes))

    @torch.inference_mode()
    def _preview(self, step: Step) -> list[Image.Image]:
        """Decode what there is: the scales so far, or grey over cells that are not drawn yet."""
        if len(self.model.spec.grids) > 1:
            return to_pil(to_uint8(self.tokenizer.decode(step.drawn, scales=step.done)))
        images, grid = self.decode(step.drawn), self.model.spec.grids[0]  # (B, 3, H, W)
        drawn = step.ready.view(-1, 1, *grid).float()
        cells = nn.functional.interpolate(drawn, images.shape[2:], mode="nearest")
        return to_pil(torch.where(cells > 0, images, torch.full_like(images, 128)))

    def _tag(
        self, images: Tensor, part: Part, seed: int, sampling: dict[str, Any], **more: Any
    ) -> list[Image.Image]:
        pictures, settings = to_pil(images), to_dict(self.settings(sampling))
        for i, (picture, asked) in enumerate(zip(pictures, part.asked, strict=True)):
            picture.info["smalti"] = {
                "pipeline": self.fingerprint,
                "seed": seed,
                "index": part.first + i,
                **asked,
                "dtype": str(self.dtype).removeprefix("torch."),
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

        Raises ValueError, naming what is there, for a folder of something else.
        """
        folder = expand(folder)
        check_pipeline(folder)
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
                    "sampling": asdict(self.sampling),
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


def _check_text(config: Any, text: Any | None) -> None:
    """Raise ValueError unless a model of this configuration reads what the encoder gives."""
    wanted = (config.text_length, config.text_dim) if getattr(config, "text_length", 0) else None
    given = None if text is None else (text.config.length, text.config.dim)
    if wanted != given:
        raise ValueError(
            f"the model reads text features of (length, width) {wanted}, the encoder gives {given}"
        )
