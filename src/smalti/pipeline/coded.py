"""Pictures as codes, and codes as pictures, by the tokenizer of a pipeline; and what all pipelines
have in common.

B pictures, H and W pixels of the tokenizer's size, N positions, C channels of a vector.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from smalti.codes import TokenSpec
from smalti.config import to_dict
from smalti.data.decode import Picture, opened, to_rgb
from smalti.data.transforms import center_part, to_float, to_uint8
from smalti.devices.float32 import set_products
from smalti.devices.named import cast, decoding_dtype, is_dtype, named_device, named_dtype
from smalti.engine.step import Known, Step
from smalti.models.eye import Eye
from smalti.modules import name_of
from smalti.nn.linear import draw_with
from smalti.nn.products import require
from smalti.pictures import to_pil
from smalti.pipeline.card import push
from smalti.pipeline.facts import Json
from smalti.pipeline.request import Drawing, Part, Wanted
from smalti.pipeline.wording import Wording
from smalti.text.encoders import TextEncoder
from smalti.tokenizers.base import ImageTokenizer, reading

DECODED = 1 << 20
"""Pixels that are decoded at a time, or one picture."""
USUAL = {"weights": "exact", "decoder_dtype": "float32"}
"""What pictures leave unsaid of the numbers that they were drawn in."""


OURS = {
    **dict.fromkeys(("cuda", "cpu", "mps"), 'pipe.to("cuda") moves it'),
    **dict.fromkeys(("half", "float", "bfloat16"), 'pipe.to("bfloat16") changes its weights'),
    **dict.fromkeys(("generate", "sample", "draw"), "the pipeline itself is called: pipe(...)"),
    **dict.fromkeys(("save", "save_model"), "pipe.save_pretrained(folder) writes it"),
    **dict.fromkeys(("eval", "train"), "it only draws: smalti train goes on learning from --init"),
    **dict.fromkeys(("img2img", "inpaint"), "pipe.edit(image, mask) paints a part anew"),
}
"""What other libraries call it, and how it is done here."""


class CodedPipeline:
    """A tokenizer, and a model that draws its codes."""

    tokenizer: ImageTokenizer
    model: Any
    text: TextEncoder | None = None
    """What reads prompts, where the model does not do so itself."""
    map: ImageTokenizer | None = None
    """What makes codes of maps, where these are the condition."""
    decoder_dtype: torch.dtype = torch.float32
    """What pictures are decoded in: bfloat16 is for devices that multiply faster in it."""
    eye: Eye | None = None
    """What sees pictures that are given, where the model does not read them as codes."""
    wording: Wording = Wording()
    """What prompts may be made of beside words."""
    weights: str = "exact"
    """What it draws with on a CPU: see `draw_with`."""

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Raises AttributeError, with our way to what another library's name does."""
            ours = f"; {OURS[name]}" if name in OURS else ""
            raise AttributeError(
                f"{type(self).__name__} has no {name!r}{ours}", name=name, obj=self
            )

    edit: ClassVar[Callable[..., list[Image.Image]]]
    """`editing.edit`, which stands above the pipeline and sets this."""

    @property
    def fingerprint(self) -> str:
        """A hash of its parts."""
        raise NotImplementedError

    @property
    def reads_texts(self) -> bool:
        """Whether pictures are drawn from texts."""
        return self.text is not None

    @property
    def draws(self) -> bool:
        """Whether it draws pictures; else it reads them and writes text."""
        return True

    def require_drawing(self) -> None:
        """Raise ValueError if it draws no pictures."""
        if not self.draws:
            raise ValueError(
                f"a pipeline of {name_of(self.model)} reads pictures and writes text, it draws "
                "none: ask, caption and chat are for it"
            )

    @property
    def task(self) -> str:
        """What it does, as the Hugging Face hub calls it."""
        raise NotImplementedError

    def example(self, name: str) -> str:
        """Two lines of Python that load it by a name and use it."""
        raise NotImplementedError

    def push_to_hub(
        self,
        repo: str,
        private: bool = False,
        examples: Sequence[Any] | None = None,
        report: str | Path | None = None,
    ) -> str:
        """Upload the pipeline with its card to the Hugging Face hub and return its address.

        Args:
            repo: owner/name. A README.md there that smalti did not make stays as it is.
            private: whether a new repository is one.
            examples: classes or prompts that are drawn for the card; by default the first four
                classes, [] for none.
            report: file of `smalti eval`, whose numbers the card has.
        What only you know, such as a licence, comes from `info["card"]`: see `pipeline/card.py`.
        """
        return push(self, repo, private, examples, report)

    def drawn(self, part: Part, known: Known | None = None) -> Tensor:
        """Codes (B, N, ...), or vectors that stand for them, of a part of a request; `known` are
        the codes of its images."""
        raise NotImplementedError

    def edits(self, wanted: Wanted) -> Drawing:
        """What is asked for of a part of a picture, which may be nothing. Raises ValueError for
        settings that cannot be."""
        raise NotImplementedError

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.model.parameters()).dtype

    def to(
        self,
        *places: torch.device | torch.dtype | str | int | None,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | str | None = None,
    ) -> Self:
        """Move to a device, bring the model's weights to a dtype, or both; returns itself.

        The tokenizer and the eye stay in float32. Names are those of `smalti.load`.
        """
        for place in places:
            if isinstance(place, torch.dtype) or (isinstance(place, str) and is_dtype(place)):
                dtype = place
            else:
                device = place
        weights = named_dtype(dtype)
        where = self.device if device is None else named_device(device)
        require(self.weights, where)
        set_products(where)
        if weights is not None and weights != self.dtype:
            _ = self.fingerprint  # of the weights as they were learned
            cast(self.model, weights, self.model.FLOAT32)
            if self.text is not None:
                cast(self.text, weights)
        for part in (self.tokenizer, self.model, self.text, self.eye, self.map):
            if part is not None:
                part.to(where)
        return self

    def draw_with(self, weights: str) -> Self:
        """Draw on a CPU with the weights as they are ("exact"), or with copies of fewer bits for
        few rows: "float16", "int8" or "int4" (`nn/products.py`); returns itself. Raises ValueError
        where this device has no such products."""
        draw_with(self.model, weights)
        self.weights = weights
        return self

    def encode(self, images: Tensor | np.ndarray | Picture) -> Tensor:
        """uint8 images (B, 3, H, W) to codes (B, N, ...); or one picture, a PIL image, file or
        array (H, W, 3), resized and cropped to its middle as in training."""
        return encoded(self.tokenizer, images)

    def decode(
        self,
        codes: Tensor | np.ndarray,
        spec: TokenSpec | None = None,
        depth: int | None = None,
        texts: Sequence[str] | None = None,
    ) -> Tensor:
        """Codes (B, N, ...), or vectors that stand for them, to uint8 images (B, 3, H, W); `spec`
        says on which grid they are, if not on the model's own. With `depth` a coarser picture, of
        the first so many codes of each position, or scales. `texts` are B that say what is to be
        seen, for a decoder that reads them, and for no other."""
        place, low = self.device.type, self.decoder_dtype != torch.float32
        with torch.autocast(place, self.decoder_dtype, enabled=low):
            return decoded(self.tokenizer, codes, spec, depth, texts)

    def shown(self, codes: Tensor, part: Part) -> Tensor:
        """Codes of a part of a request to uint8 images (B, 3, H, W); a decoder that reads texts
        reads those that are drawn."""
        texts = [asked.get("text", "") for asked in part.asked] if self.tokenizer.told else None
        return self.decode(codes, part.spec, texts=texts)

    @property
    def precision(self) -> dict[str, Json]:
        """In which numbers it draws and decodes, as pictures say it: without what is `USUAL`."""
        told = {"weights": self.weights, "decoder_dtype": short(self.decoder_dtype)}
        other = {name: value for name, value in told.items() if value != USUAL[name]}
        return {"dtype": short(self.dtype), **other}

    def tagged(self, images: Tensor, part: Part, **more: Json) -> list[Image.Image]:
        """uint8 images (B, 3, H, W) as pictures that say how they were drawn, and `more`."""
        pictures, settings = to_pil(images), to_dict(part.sampling)
        size = {} if part.spec is None else {"size": list(self.tokenizer.size_of(part.spec))}
        for i, (picture, asked) in enumerate(zip(pictures, part.asked, strict=True)):
            picture.info["smalti"] = {
                "pipeline": self.fingerprint,
                "seed": part.seed,
                "index": part.first + i,
                **asked,
                **size,
                **self.precision,
                **settings,
                **more,
            }
        return pictures


@torch.inference_mode()
def encoded(tokenizer: ImageTokenizer | Eye, images: Tensor | np.ndarray | Picture) -> Tensor:
    """uint8 images (B, 3, H, W), or one picture, to codes (B, N, ...), or to what an eye sees."""
    size = tokenizer.size
    if not isinstance(images, Tensor | np.ndarray) or images.ndim != 4:
        pixels = center_part(to_rgb(opened(images, "the image"), "the image"), size)
        images = torch.from_numpy(pixels.transpose(2, 0, 1).copy())[None]
    images = torch.as_tensor(images)
    if images.dtype != torch.uint8 or tuple(images.shape[1:]) != (3, *size):
        raise ValueError(
            f"images must be uint8 (B, 3, {size[0]}, {size[1]}), "
            f"got {short(images.dtype)} {tuple(images.shape)}"
        )
    return tokenizer.encode(_for(tokenizer, to_float(images)))


@torch.inference_mode()
def decoded(
    tokenizer: ImageTokenizer,
    codes: Tensor | np.ndarray,
    spec: TokenSpec | None = None,
    depth: int | None = None,
    texts: Sequence[str] | None = None,
) -> Tensor:
    """Codes (B, N, ...) of a `spec`, by default the tokenizer's own, or vectors (B, N, C) that
    stand for them, to uint8 images (B, 3, H, W); of the first `depth` levels, all if it is None.
    `texts` are B that the decoder reads beside them. Memory is that of `DECODED` pixels, however
    many images there are.

    Raises ValueError for codes that are none, unless there are so many levels, and for texts that
    the decoder does not read, or that are missing.
    """
    codes, spec = torch.as_tensor(codes), tokenizer.spec if spec is None else spec
    vectors = spec.discrete and codes.is_floating_point() and codes.dim() == 3
    if tuple(codes.shape[1:]) != spec.shape(1)[1:] and not vectors:
        wanted = ", ".join(map(str, spec.shape(1)[1:]))
        raise ValueError(f"codes must be (B, {wanted}), got {tuple(codes.shape)}")
    if spec.discrete and not vectors and codes.numel():
        low, high = (int(n) for n in codes.aminmax())
        if low < 0 or high >= spec.vocab:
            raise ValueError(f"codes must be in [0, {spec.vocab}), got {low} to {high}")
    if texts is not None and len(texts) != len(codes):
        raise ValueError(f"give a text for each of {len(codes)} pictures, got {len(texts)}")
    height, width = tokenizer.size_of(spec)
    images, few = list[Tensor](), max(1, DECODED // (height * width))
    with decoding(tokenizer):
        for i, part in enumerate(_for(tokenizer, codes).split(few)):
            if depth is None:
                read = None if texts is None else texts[i * few : (i + 1) * few]
                found = tokenizer.decode(part, spec, **reading(tokenizer, read))
            else:
                found = tokenizer.preview(part, depth, spec)
            images.append(to_uint8(found.float()))
    return torch.cat(images)


@torch.inference_mode()
def preview(
    tokenizer: ImageTokenizer,
    step: Step,
    spec: TokenSpec | None = None,
    depth: int | None = None,
) -> list[Image.Image]:
    """Decode what there is of codes of a `spec`, by default the tokenizer's own: the scales so far,
    grey if there is none, or grey over cells that are not drawn yet. Not more than the first
    `depth` levels, if that is given, are shown. Raises ValueError for codes without places."""
    tokenizer.require_places("a picture on the way")
    grid, *others = grids = tokenizer.gives(spec).grids
    if others:
        codes, sizes = _for(tokenizer, step.drawn), [h * w for h, w in grids]
        ready = step.ready.view(-1, sum(sizes)).all(0).split(sizes)
        whole = sum(bool(part.all()) for part in ready)
        scales = whole if depth is None else min(whole, depth)
        if not scales:
            grey = torch.full((len(codes), 3, *tokenizer.size_of(spec)), 128, dtype=torch.uint8)
            return to_pil(grey)
        with decoding(tokenizer):
            return to_pil(to_uint8(tokenizer.preview(codes, scales, spec).float()))
    images = decoded(tokenizer, step.drawn, spec, depth)  # (B, 3, H, W)
    drawn = step.ready.view(-1, 1, *grid).float()
    cells = nn.functional.interpolate(drawn, images.shape[2:], mode="nearest")
    return to_pil(torch.where(cells > 0, images, torch.full_like(images, 128)))


@contextmanager
def decoding(tokenizer: nn.Module) -> Generator[None]:
    """A context in which a GPU decodes in bfloat16, with channels last. Pictures of trained
    tokenizers are as far from those in float32 as rounding them to 256 values is, 60 dB."""
    device = next(tokenizer.parameters()).device
    half = decoding_dtype(device) != torch.float32
    if half:
        with torch.inference_mode(False):  # else these would be no weights for training any more
            for weight in tokenizer.parameters():
                if weight.dim() == 4:  # those of video have an axis more
                    weight.data = weight.data.contiguous(memory_format=torch.channels_last)
    with torch.autocast(device.type, torch.bfloat16) if half else nullcontext():
        yield


def _for(tokenizer: nn.Module, x: Tensor) -> Tensor:
    """On a module's device, and floats in its dtype, whatever the generator has."""
    weight = next(tokenizer.parameters())
    return x.to(weight.device, weight.dtype if x.is_floating_point() else torch.int64)


def short(dtype: torch.dtype) -> str:
    """A dtype as people write it."""
    return str(dtype).removeprefix("torch.")
