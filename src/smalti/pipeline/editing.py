"""Editing: paint a part of a picture anew, or go on beyond its edges, with any pipeline.

The picture is encoded, codes of what stays are given to the loop as known, the others are drawn.
In-painting does so once. Out-painting does it in windows of the model's size, one for each side and
each corner, each of which sees what earlier ones drew. `docs/decisions/0008-editing.md` says why.

B pictures, H and W pixels of the model's size, h and w patches of its last grid, N positions.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from smalti.arguments import plain
from smalti.codes import TokenSpec
from smalti.config import did_you_mean
from smalti.data.decode import Picture, opened, to_rgb
from smalti.data.transforms import center_part
from smalti.engine.step import Known
from smalti.pipeline.coded import CodedPipeline
from smalti.pipeline.facts import Json
from smalti.pipeline.request import Part, Wanted
from smalti.tokenizers.base import ImageTokenizer

ALWAYS_KNOWN = 3
"""A coarse scale of so few positions is known entirely, as VAR has it: it is a mean colour."""


def edit(
    pipe: CodedPipeline,
    image: Picture,
    mask: Picture | None = None,
    *,
    extend: Mapping[str, int] | None = None,
    keep_pixels: bool = False,
    n: int | None = None,
    first: int = 0,
    batch: int = 64,
    **wanted: Unpack[Wanted],
) -> list[Image.Image]:
    """Paint a part of a picture anew, or go on beyond its edges; the other arguments are those of
    `Pipeline.__call__`.

    Args:
        image: a PIL image, a file or its bytes, or an array or tensor of uint8 or of floats in
            [0, 1]. One of another size than the model's is resized and cropped to its middle, as in
            training, and the mask with it.
        mask: of the image's size. Where it has transparency, what is transparent (alpha below 128)
            is painted anew, whatever its colours; of any other mask what is white (above 127, or
            True). A patch with any such pixel is drawn.
        extend: pixels to add at left, right, top and bottom, at the model's size.
        keep_pixels: what is kept comes back as it is, with a seam inside the painted part, instead
            of as the tokenizer's reconstruction.
        classes, text, map: None draws without a condition. A map has the image's size, and none is
            known beyond its edges.
    Raises ValueError naming what is allowed.
    """
    if (map := wanted.get("map")) is not None:
        check_map(map, image, extend)
    drawing = pipe.edits(wanted)
    task = plan(pipe.tokenizer, image, mask, extend, keep_pixels)
    images: list[Image.Image] = []
    for part in drawing.parts(n, first, batch):
        images += pipe.tagged(paint(pipe, task, part), part, edit=task.tag())
    return images


def check_map(map: Any, image: Picture, extend: Mapping[str, int] | None) -> None:
    """Raise ValueError for maps of another size than the image, and if it is to be extended."""
    if extend:
        raise ValueError(f"extend needs no map: none is known beyond the image, got {dict(extend)}")
    picture = opened(image, "the image")
    for one in map if isinstance(map, list | tuple) else [map]:
        if (
            not isinstance(one, list | int)
            and (size := opened(one, "the map")).size != picture.size
        ):
            raise ValueError(f"the map has {_size(size)} pixels, the image {_size(picture)}")


@dataclass(frozen=True)
class Extend:
    """Pixels to add at each side of a picture of the model's size."""

    left: int = 0
    right: int = 0
    top: int = 0
    bottom: int = 0

    @staticmethod
    def of(sides: Mapping[str, int] | None) -> Extend:
        """Raises ValueError for an unknown side and for what is no number of pixels."""
        names = [field.name for field in fields(Extend)]
        if not isinstance(sides, Mapping | None):
            raise ValueError(f"extend is like {{'left': 16, 'top': 8}}, got {sides!r}")
        sides = {side: plain(pixels) for side, pixels in (sides or {}).items()}
        for side, pixels in sides.items():
            if side not in names:
                near = did_you_mean(side, names)
                raise ValueError(f"extend has {', '.join(names)}, got {side!r}{near}")
            if type(pixels) is not int or pixels < 0:
                raise ValueError(f"extend {side} must be 0 or more pixels, got {pixels!r}")
        return Extend(**sides)

    @staticmethod
    def parse(text: str) -> dict[str, int]:
        """left=16,top=8 as a dictionary. Raises ValueError for anything else."""
        sides: dict[str, int] = {}
        for part in text.split(","):
            side, _, pixels = (word.strip() for word in part.partition("="))
            if not pixels.isdecimal() or side in sides:
                raise ValueError(f"extend is like left=16,top=8, each side once, got {text!r}")
            sides[side] = int(pixels)
        return sides

    def windows(self) -> list[tuple[int, int]]:
        """(top, left) of the windows to draw, from the picture's own corner: sides before corners,
        and what adds least first, so that each sees as much as possible."""
        down, across = (0, -self.top, self.bottom), (0, -self.left, self.right)
        # the first 0 is the picture; another is a side without an extension
        places = {(y, x): None for y, x in itertools.product(down, across) if y or x}
        return sorted(places, key=lambda p: (bool(p[0] and p[1]), abs(p[0]) + abs(p[1])))


@dataclass(frozen=True)
class Edit:
    """What is to be done to a picture. Made by `plan`."""

    pixels: Tensor
    """The picture at the model's size, uint8 (1, 3, H, W)."""
    painted: Tensor
    """(H, W) bool, True where it is painted anew."""
    extend: Extend
    keep_pixels: bool
    patch: tuple[int, int]
    """Height and width of a patch in pixels."""

    def tag(self) -> dict[str, Json]:
        """What a picture's metadata say of its edit; image and mask by their hash."""
        found = {"image": _hash(self.pixels)}
        found |= {"mask": _hash(self.painted)} if self.painted.any() else {}
        return {**found, "extend": asdict(self.extend), "keep_pixels": self.keep_pixels}


def plan(
    tokenizer: ImageTokenizer,
    image: Picture,
    mask: Picture | None,
    extend: Mapping[str, int] | None,
    keep_pixels: bool,
) -> Edit:
    """Bring image and mask to the tokenizer's size as training does: resized, cut to the middle.

    Raises ValueError for pictures that cannot be read, that are too small or do not fit each other,
    for a mask of nothing or of everything, for an extension beyond what the model has, and for
    codes that have no places in the picture.
    """
    tokenizer.require_places("an edit")
    size, (h, w) = tokenizer.size, tokenizer.spec.grids[-1]
    patch, sides = (size[0] // h, size[1] // w), Extend.of(extend)
    _check_extend(sides, size, patch)
    as_is = opened(image, "the image")
    if mask is None and sides == Extend():
        holes = _alpha(as_is)
        also = "; its transparent parts are one if it is given as mask too" if _hole(holes) else ""
        raise ValueError(f"nothing to edit: give a mask, an extension, or both{also}")
    picture = to_rgb(as_is, _named(image, "the image"))
    if picture.height < patch[0] or picture.width < patch[1]:
        raise ValueError(
            f"the image is smaller than a patch of the model: {_size(picture)} pixels, "
            f"a patch has {patch[1]} x {patch[0]}"
        )
    painted = np.zeros(size, bool)
    if mask is not None:
        try:
            levels = _levels(opened(mask, "the mask"), _named(mask, "the mask"))
        except ValueError as error:  # a type that is no mask: say the image's too
            raise ValueError(f"{error}; the image is of mode {as_is.mode}") from None
        painted = _painted(levels, picture, size)
    pixels = torch.from_numpy(center_part(picture, size).transpose(2, 0, 1).copy())
    edit = Edit(pixels[None], torch.from_numpy(painted), sides, keep_pixels, patch)
    if not whole_cells(~edit.painted, patch).any():
        raise ValueError(
            f"the mask leaves no whole patch of {patch[1]} x {patch[0]} pixels; "
            "to draw all of a picture use smalti sample"
        )
    return edit


def _levels(mask: Image.Image, what: str) -> Image.Image:
    """How much each pixel is to be painted, mode L, painted above 127: the transparency of a mask
    that has any, else its brightness."""
    if "transparency" in mask.info and mask.mode.startswith("I"):
        raise ValueError(f"{what} has 16 bits and a transparent colour: save it with 8")
    alpha = _alpha(mask)
    if alpha is not None and _hole(alpha):
        return alpha.point(lambda a: 255 - a)
    return to_rgb(mask, what).convert("L")


def _alpha(image: Image.Image) -> Image.Image | None:
    """The alpha of a picture of at most 8 bits, mode L; None if it has none."""
    if image.mode.startswith("I"):
        return None
    premultiplied = {"La": "LA", "RGBa": "RGBA"}
    palette = image.palette.mode if image.mode == "P" and image.palette else ""
    modes = ("RGBA", "LA", "PA", *premultiplied)
    if image.mode in modes or "transparency" in image.info or palette.endswith("A"):
        image = image.convert(premultiplied.get(image.mode, image.mode))
        return image.convert("RGBA").getchannel("A")
    return None


def _hole(alpha: Image.Image | None) -> bool:
    """Whether anything is transparent."""
    return alpha is not None and bool(np.asarray(alpha).min() < 255)


def _painted(levels: Image.Image, picture: Image.Image, size: tuple[int, int]) -> np.ndarray:
    """(H, W) bool: above 127 in a mask's levels. A pixel of several is painted if any of them
    is."""
    if levels.size != picture.size:
        raise ValueError(f"the mask has {_size(levels)} pixels, the image {_size(picture)}")
    white = np.asarray(levels) > 127
    if not white.any():
        raise ValueError(
            "the mask covers nothing: what is to be painted anew must be white, above 127 of 255, "
            "or transparent, alpha below 128; "
            f"its largest value is {levels.getextrema()[1]}"
        )
    if white.all():
        raise ValueError(
            "the mask covers everything (transparent counts as white); "
            "to draw all of a picture use smalti sample"
        )
    share = Image.fromarray(white.astype(np.float32))  # floats: averages never round to nothing
    painted = center_part(share, size, Image.Resampling.BOX) > 0
    if not painted.any():
        raise ValueError(
            "the mask covers nothing of the middle part that the model sees, "
            f"which has the shape of {size[1]} x {size[0]} pixels"
        )
    return painted


def _check_extend(extend: Extend, size: tuple[int, ...], patch: tuple[int, int]) -> None:
    for side, pixels in asdict(extend).items():
        axis = 1 if side in ("left", "right") else 0
        if pixels > (most := size[axis] - patch[axis]):
            raise ValueError(
                f"extend {side} can be {most} pixels at most, got {pixels}: the model's "
                f"{size[axis]} pixels have to hold a patch of what is known"
            )


def _named(picture: Picture, what: str) -> str:
    return str(picture) if isinstance(picture, str | Path) else what


def _size(picture: Image.Image) -> str:
    return f"{picture.width} x {picture.height}"


def _hash(x: Tensor) -> str:
    return hashlib.sha256(x.numpy().tobytes()).hexdigest()[:16]


def paint(pipe: CodedPipeline, edit: Edit, part: Part) -> Tensor:
    """Carry out an edit for B images: uint8 (B, 3, top + H + bottom, left + W + right)."""
    start, painted = edit.pixels.to(pipe.device), edit.painted.to(pipe.device)
    if painted.any():
        images = _redraw(start, ~painted, pipe, part)
    else:
        images = pipe.decode(pipe.encode(start)).expand(len(part.asked), -1, -1, -1)
    if edit.keep_pixels:
        images = seam(images, start, ~painted, _width(edit))
    e, (height, width) = edit.extend, start.shape[2:]
    # what is not drawn yet repeats the edge, which disturbs the codes beside it least
    margins = (e.left, e.right, e.top, e.bottom)
    images = F.pad(images.float(), margins, mode="replicate").byte()  # (B, 3, H', W')
    known = F.pad(torch.ones_like(painted), margins)  # (H', W')
    for number, (y, x) in enumerate(e.windows(), 1):
        place = (slice(e.top + y, e.top + y + height), slice(e.left + x, e.left + x + width))
        window, keep = images[..., *place], known[place]
        again = part._replace(seed=window_seed(part.seed, number))
        drawn = _redraw(window, keep, pipe, again)
        images[..., *place] = seam(drawn, window, keep, _width(edit))
        known[place] = True
    return images


def _redraw(images: Tensor, keep: Tensor, pipe: CodedPipeline, part: Part) -> Tensor:
    """Images (B or 1, 3, H, W) with all patches drawn anew but those that lie in `keep` (H, W),
    (B, 3, H, W)."""
    spec, count = pipe.tokenizer.spec, len(part.asked)
    h, w = spec.grids[-1]
    cells = whole_cells(keep, (keep.shape[0] // h, keep.shape[1] // w))
    # each alone: a batch would round otherwise, and a code could depend on the others
    codes = torch.cat([pipe.encode(image[None]) for image in images])
    mask = known_positions(spec, cells[None])
    known = Known(codes.expand(count, *codes.shape[1:]), mask.expand(count, -1))
    return torch.cat([pipe.decode(row[None]) for row in pipe.drawn(part, known)])


def _width(edit: Edit) -> int:
    """Pixels of a seam: half a patch, a few at least."""
    return max(2, min(edit.patch) // 2)


def window_seed(seed: int, window: int) -> int:
    """The seed of a window's noise: the picture's own part has that of the request."""
    return (seed + window * 0x9E3779B97F4A7C15 + 2**63) % 2**64 - 2**63


def whole_cells(keep: Tensor, patch: tuple[int, int]) -> Tensor:
    """Which patches are kept whole: (H, W) bool pixels to (h, w) bool."""
    return keep.unflatten(1, (-1, patch[1])).unflatten(0, (-1, patch[0])).all(3).all(1)


def known_positions(spec: TokenSpec, keep: Tensor) -> Tensor:
    """Patches of the last grid that are kept, (B, h, w) bool, to known positions (B, N) bool.

    A position of a coarser scale is known where most of it is kept, as VAR (Tian et al., 2024,
    arXiv:2404.02905) does in its notebook: a bilinear resize of the mask above 0.5, and a scale of
    at most 3 positions entirely.
    """
    if tuple(keep.shape[1:]) != spec.grids[-1] or keep.dtype != torch.bool:
        raise ValueError(
            f"keep must be (B, {', '.join(map(str, spec.grids[-1]))}) bool, "
            f"got {tuple(keep.shape)} {keep.dtype}"
        )
    parts = list[Tensor]()
    for h, w in spec.grids[:-1]:
        share = F.interpolate(keep[:, None].float(), (h, w), mode="bilinear")[:, 0]  # (B, h, w)
        parts.append((share > 0.5) | (h * w <= ALWAYS_KNOWN))
    return torch.cat([part.flatten(1) for part in (*parts, keep)], 1)


def seam(drawn: Tensor, given: Tensor, keep: Tensor, width: int) -> Tensor:
    """Given pixels where `keep`, drawn ones elsewhere, without an edge between them: uint8.

    Along the border drawn and given pixels differ (a tokenizer loses something). This difference is
    carried outwards from the kept pixels, averaged over neighbours, and fades over `width` pixels;
    nothing of what stood in the painted part comes back.
    Args: drawn and given (B, 3, H, W) uint8; keep (H, W) bool.
    """
    near = keep.float().expand_as(drawn[:, :1])  # (B, 1, H, W), 1 where the difference is known
    difference = (given.float() - drawn.float()) * near
    result = drawn.float() + difference
    for distance in range(1, width + 1):
        total = F.avg_pool2d(near, 3, 1, 1)
        mean = F.avg_pool2d(difference, 3, 1, 1) / total.clamp(min=1e-3)
        ring = (near == 0) & (total > 0)
        difference = torch.where(ring, mean, difference)
        near = near + ring
        result = result + ring * difference * (1 - distance / (width + 1))
    return torch.where(keep, given, result.round().clamp(0, 255).byte())


CodedPipeline.edit = edit
