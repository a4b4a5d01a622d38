"""What a pipeline is asked for: conditions in turn, a seed and settings, cut into batches.

Image i of a request is decided by its conditions, its seed and its settings, and by nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, TypedDict

import numpy as np
import torch
from torch import Tensor

from smalti.arguments import by, sides, whole
from smalti.codes import Cond, TokenSpec
from smalti.data.decode import LARGEST, Picture
from smalti.engine.step import Known
from smalti.models.generator import Generator
from smalti.models.unified import Unified
from smalti.modules import name_of
from smalti.pipeline.sampling import Sampling, Settings
from smalti.text.encoders import TextEncoder, read_each
from smalti.text.prompts import checked
from smalti.tokenizers.base import ImageTokenizer

Classes = int | str | Sequence[int | str] | np.ndarray | Tensor
"""Numbers and names."""
Texts = str | Sequence[str] | np.ndarray
"""One text or several."""
Size = int | str | Sequence[int] | np.ndarray | Tensor
"""Height and width in pixels, one number for both, or a text such as "48x32"."""
Maps = Picture | Sequence[Picture] | Sequence[list[int]]
"""Maps, or pictures whose edges are taken: one or several; or the codes of each."""
Asked = TypedDict(
    "Asked",
    {
        "class": int | None,
        "class_name": str,
        "text": str,
        "negative": str,
        "map": list[int] | None,
    },
    total=False,
)
"""The condition of one image, as its metadata say it: class and class_name, or the codes of a map,
or text and, where one was given, negative. A class or a map of None is no condition, as an empty
text is."""


class Conditions(TypedDict, total=False):
    """What images are drawn for, as calls name it."""

    classes: Classes | None
    """Numbers or names, in turn; None takes all classes."""
    text: Texts | None
    """Prompts, in turn, of a pipeline that draws from texts."""
    negative: Texts | None
    """What guidance leads away from, for all prompts or one for each."""
    map: Maps | None
    """Maps, in turn, of a pipeline that draws from maps; or, if it draws from edges, pictures."""
    style: str | None
    """What stands behind each prompt, of a pipeline that knows styles."""


class How(Settings, total=False):
    """How images are drawn, as calls name it: settings of drawing, a seed, and a size."""

    seed: int
    """A whole number; 0 if it is not given."""
    size: Size | None
    """Height and width in pixels; None is the pipeline's own."""


class Wanted(Conditions, How, total=False):
    """All that decides what the images of a call are, as calls name it."""


ARGUMENTS = (
    *("classes", "text", "map", "negative", "style", "n", "seed", "size"),
    *("first", "batch", "known", "image", "mask", "extend", "keep_pixels"),
)
"""What calls take beside settings of drawing."""


def divided(wanted: Wanted) -> tuple[Conditions, How]:
    """The conditions of a call, and how it draws them."""
    conditions = Conditions(
        classes=wanted.pop("classes", None),
        text=wanted.pop("text", None),
        negative=wanted.pop("negative", None),
        map=wanted.pop("map", None),
        style=wanted.pop("style", None),
    )
    return conditions, wanted


class Part(NamedTuple):
    """Images drawn together."""

    offset: int
    """Place of the first in the call."""
    first: int
    """Number of the first in the request."""
    asked: list[Asked]
    seed: int
    sampling: Sampling
    spec: TokenSpec | None = None
    """The codes of another size than the pipeline's own."""

    def rows(self, known: Known | None) -> Known | None:
        """The known codes of these images."""
        if known is None:
            return None
        end = self.offset + len(self.asked)
        return Known(known.codes[self.offset : end], known.mask[self.offset : end])


@dataclass(frozen=True)
class Drawing:
    """A request: image i has the condition i modulo their number."""

    asked: list[Asked]
    seed: int
    sampling: Sampling
    spec: TokenSpec | None = None
    """The codes of another size than the pipeline's own."""

    def parts(self, n: int | None, first: int, batch: int | None) -> list[Part]:
        """Images first ... first + n - 1, in batches.

        n None is one of each condition, batch None all at once. Raises ValueError for bad numbers.
        """
        n = len(self.asked) if n is None else whole(n, "n", 1)
        first, batch = whole(first, "first", 0), n if batch is None else whole(batch, "batch", 1)
        if not self.asked:
            raise ValueError("the number of classes or prompts must be at least 1, got 0")
        turns = [self.asked[(first + i) % len(self.asked)] for i in range(n)]
        return [
            Part(i, first + i, turns[i : i + batch], self.seed, self.sampling, self.spec)
            for i in range(0, n, batch)
        ]


def spec_of(
    tokenizer: ImageTokenizer, model: Generator | Unified, size: Size | None
) -> TokenSpec | None:
    """The codes of pictures of this size; None if it is the tokenizer's own, or is not given.

    Raises ValueError, naming the sizes that there are, if both do not have it, and for a picture
    of more pixels than are read.
    """
    if size is None or (pixels := sides(size, "size")) == tokenizer.size:
        return None
    if not model.any_grid and not model.windows:
        one = f"{by(tokenizer.size)}, the only one that {name_of(model)} draws"
        raise ValueError(f"size must be {one}, got {by(pixels)}")
    if pixels[0] * pixels[1] > LARGEST:
        raise ValueError(f"size may be {LARGEST:,} pixels, height times width, got {by(pixels)}")
    return model.draws(tokenizer.spec_of(pixels))


def at_own_size(drawing: Drawing, tokenizer: ImageTokenizer) -> Drawing:
    """A request for a part of a picture. Raises ValueError if it is for another size than the
    model's own."""
    if drawing.spec is not None:
        own, asked = (by(tokenizer.size_of(spec)) for spec in (None, drawing.spec))
        raise ValueError(f"pictures are edited at size {own}, the model's own, got {asked}")
    return drawing


def prompted(
    text: Classes | Texts | None, negative: Texts | None = None, empty: bool = False
) -> list[Asked]:
    """A prompt or several, with one negative prompt for all or one for each, which may be `empty`.
    Raises ValueError for what is no text."""
    if text is None:
        raise ValueError("this pipeline draws from texts: give it a prompt")
    return _with(checked(text), negative, empty)


def nothing(
    texts: bool, negative: Texts | None = None, maps: bool = False, empty: bool = False
) -> list[Asked]:
    """No class; or, of a pipeline that draws from `texts` or `maps`, none of these. A negative
    prompt may be `empty`."""
    if texts:
        return _with([""], negative, empty)
    if maps and negative is None:
        return [{"map": None}]
    if negative is not None:
        raise ValueError(f"this pipeline draws classes, not texts, got {negative!r}")
    return [{"class": None}]


def unguided(drawing: Drawing, how: How, what: str) -> Drawing:
    """A request for nothing without guidance, as there is nothing to lead to. Raises ValueError if
    guidance is asked for; `what` it would need."""
    if (guidance := how.get("guidance", 1.0)) != 1.0:
        raise ValueError(f"guidance {guidance} needs {what} to lead to")
    return replace(drawing, sampling=drawing.sampling.changed(guidance=1.0, guidance_pictures=None))


def _with(texts: list[str], negative: Texts | None, empty: bool) -> list[Asked]:
    """Texts with the negative prompts; if all of these are empty, there are none."""
    plain: list[Asked] = [{"text": t} for t in texts]
    if negative is None:
        return plain
    negatives = checked(negative, "negative prompt", empty)
    if len(negatives) not in (1, len(texts)):
        raise ValueError(
            f"give one negative prompt or one for each of the {len(texts)} prompts, "
            f"got {len(negatives)}"
        )
    if not any(negatives):
        return plain
    negatives = negatives * len(texts) if len(negatives) == 1 else negatives
    return [{"text": t, "negative": u} for t, u in zip(texts, negatives, strict=True)]


def read_conditions(
    asked: list[Asked],
    encoder: TextEncoder | None,
    device: torch.device,
    map: TokenSpec | None = None,
) -> tuple[Cond, Cond | None]:
    """The condition of a batch as a model takes it, read by the `encoder` of a pipeline that draws
    from texts, or codes of a `map`; and the negative one where there are negative prompts."""
    if map is not None:
        return _of_maps([a.get("map") for a in asked], map, device), None
    if encoder is None:
        ids = [-1 if a["class"] is None else a["class"] for a in asked if "class" in a]
        return Cond.of_labels(torch.tensor(ids, device=device)), None
    texts = [a["text"] for a in asked if "text" in a]
    negatives = [a["negative"] for a in asked if "negative" in a]
    cond = _read(texts, encoder, device)
    return cond, _read(negatives, encoder, device) if negatives else None


def _of_maps(codes: list[list[int] | None], spec: TokenSpec, device: torch.device) -> Cond:
    """The condition of codes of maps, all of one size; None is no map. Raises ValueError for codes
    that are none of a map."""
    given = [row for row in codes if row is not None]
    length = len(given[0]) if given else spec.positions
    if any(len(row) != length for row in given) or any(
        not 0 <= code < spec.vocab for row in given for code in row
    ):
        raise ValueError(f"a map must be {length} codes in [0, {spec.vocab})")
    rows = [[0] * length if row is None else row for row in codes]
    drop = torch.tensor([row is None for row in codes], device=device)
    return Cond(map=torch.tensor(rows, device=device), drop=drop)


def _read(texts: list[str], encoder: TextEncoder, device: torch.device) -> Cond:
    """The condition of texts. An empty one is no condition, though a frozen encoder gives it an end
    mark."""
    features, mask = read_each(encoder, texts, device)
    told = torch.tensor([[bool(t)] for t in texts], device=device)  # (B, 1)
    return Cond.of_text(features, mask & told)
