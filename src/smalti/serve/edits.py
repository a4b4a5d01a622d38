"""What requests do to a picture that they bring: paint a part anew, go on beyond its edges, or draw
something like it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image

from smalti.data.decode import to_rgb
from smalti.engine.step import Known
from smalti.pipeline.editing import Extend, edit, known_positions
from smalti.pipeline.request import Drawing, Wanted, divided
from smalti.pipeline.unified import UnifiedPipeline
from smalti.sampling.noise import Noise
from smalti.serve.errors import Refused, invalid, missing
from smalti.serve.orders import Drawer, Order, plain, text_of
from smalti.serve.shared import Guest
from smalti.serve.talker import Listener
from smalti.serve.uploads import brought

OPAQUE = 255


@dataclass(frozen=True)
class Edit:
    """A part of a picture that is painted anew, or what is added at its sides."""

    image: Image.Image
    mask: Image.Image | None
    extend: dict[str, int] | None
    keep_pixels: bool
    map: Image.Image | None = field(default=None, kw_only=True)
    """Of the picture, for a pipeline that draws from maps; until it is codes of the order."""

    fields: ClassVar[tuple[str, ...]] = ("image", "mask", "extend", "keep_pixels")
    """What is read of a request here."""

    def drawing(self, pipeline: Drawer, order: Order) -> Drawing:
        """What is asked for. Raises ValueError for settings that cannot be."""
        return pipeline.edits(Wanted(**order.wanted))

    def run(self, guest: Guest | Listener, order: Order) -> Iterator[Image.Image]:
        """The pictures, in the thread of a guest. Raises ValueError as `pipeline.editing.edit`
        does."""
        yield from edit(
            guest,
            self.image,
            self.mask,
            extend=self.extend,
            keep_pixels=self.keep_pixels,
            n=order.n,
            first=order.first,
            **order.wanted,
        )


@dataclass(frozen=True)
class Variation(Edit):
    """Pictures that share some of their codes with another, at random places."""

    strength: float = 0.5
    """The share of codes that is drawn anew."""

    fields: ClassVar[tuple[str, ...]] = ("image", "strength")

    def run(self, guest: Guest | Listener, order: Order) -> Iterator[Image.Image]:
        (part,) = guest.edits(Wanted(**order.wanted)).parts(order.n, order.first, None)
        codes, spec = guest.encode(self.image), guest.tokenizer.spec
        rows, (h, w) = len(part.asked), spec.grids[-1]
        noise = Noise.request(order.seed ^ SHUFFLED, rows, order.first)
        keep = noise.uniform(torch.arange(h * w)).view(rows, h, w) >= self.strength
        known = Known(
            codes.expand(rows, *codes.shape[1:]),
            known_positions(spec, keep).to(codes.device),
        )
        drawn = guest.drawn(part, known)
        yield from guest.tagged(
            guest.shown(drawn, part), part, variation={"strength": self.strength}
        )


@dataclass(frozen=True)
class Told:
    """A picture that a pipeline of text and pictures draws of a text, or as it says of another."""

    image: Image.Image | None = None
    map: Image.Image | None = None

    fields: ClassVar[tuple[str, ...]] = Edit.fields

    def drawing(self, pipeline: Drawer, order: Order) -> Drawing:
        """What is asked for: of a text alone at any size that the model draws. Raises ValueError
        for settings that cannot be."""
        if self.image is not None:  # an instruction leads away from no text
            wanted: dict[str, Any] = order.wanted | {"negative": ""}
            return pipeline.edits(Wanted(**wanted))
        asked, how = divided(Wanted(**order.wanted))
        return pipeline.drawing(pipeline.asked(**asked), **how)

    def run(self, guest: Guest | Listener, order: Order) -> Iterator[Image.Image]:
        """The pictures, in the thread of a guest."""
        assert isinstance(guest, Listener)
        for part in self.drawing(guest.talker.pipeline, order).parts(order.n, order.first, 1):
            codes = guest.drawn(part, image=self.image)
            edit: dict[str, Any] = {}
            if self.image is not None:
                edit["edit"] = {"instruct": part.asked[0].get("text", "")}
            yield from guest.tagged(guest.decode(codes, part.spec), part, **edit)


@dataclass(frozen=True)
class Mapped:
    """A picture that is drawn from a map, as generations are."""

    map: Image.Image

    fields: ClassVar[tuple[str, ...]] = Edit.fields


Task = Edit | Told


SHUFFLED = 0x5DEECE66D
"""Of a seed, so that the places that are kept tell nothing about the codes that are drawn."""


def edit_of(
    fields: Mapping[str, Any], files: Mapping[str, bytes], most: int, pipeline: Drawer
) -> Task | Mapped:
    """Read what an edit does; pictures have at most so many pixels.

    A mask's transparent pixels are painted, or its white ones if none is transparent; without a
    mask, what is transparent in the picture itself. Where neither is, and nothing is added at the
    sides, the prompt is an instruction of a pipeline of text and pictures, and to one that draws
    from maps the picture is the map. Raises Refused for what is missing or cannot be, so that a
    mask is never left out.
    """
    image, map = _pictures(fields, files, most)
    mask, extend = brought(fields, files, "mask", most), _extend(fields)
    if mask is None and _holes(image):
        mask = image
    if mask is None and extend is None:
        return _whole(fields, image, map, pipeline)
    if mask is not None and mask.size != image.size:
        raise Refused(400, "mask_mismatch", _sizes("mask", mask, image), "mask")
    if map is not None and extend is not None:
        raise invalid("extend needs no map: none is known beyond the image", "map")
    keep = plain(fields.get("keep_pixels", False))
    if not isinstance(keep, bool):
        raise invalid("keep_pixels must be true or false", "keep_pixels")
    return Edit(image, mask, extend, keep, map=map)


def variation_of(
    fields: Mapping[str, Any], files: Mapping[str, bytes], most: int, pipeline: Drawer
) -> Variation:
    """Read what a variation does. Raises Refused as `edit_of` does."""
    image, map = _pictures(fields, files, most)
    strength = plain(fields.get("strength", 0.5))
    if isinstance(strength, bool) or not isinstance(strength, int | float) or not 0 < strength < 1:
        raise invalid("strength must be between 0 and 1", "strength")
    return Variation(to_rgb(image, "the image"), None, None, False, float(strength), map=map)


def _pictures(
    fields: Mapping[str, Any], files: Mapping[str, bytes], most: int
) -> tuple[Image.Image, Image.Image | None]:
    """The picture of a request, and its map, which has the same size."""
    image, map = (brought(fields, files, name, most) for name in ("image", "map"))
    if image is None:
        raise missing("image")
    if map is not None and map.size != image.size:
        raise Refused(400, "map_mismatch", _sizes("map", map, image), "map")
    return image, map


def _sizes(name: str, other: Image.Image, image: Image.Image) -> str:
    mine, its = ("{}x{}".format(*p.size) for p in (other, image))
    return f"the {name} is {mine}, the image {its}"


def _whole(
    fields: Mapping[str, Any], image: Image.Image, map: Image.Image | None, pipeline: Drawer
) -> Told | Mapped:
    """What is done to a picture of which no part is named."""
    told = isinstance(pipeline, UnifiedPipeline)
    if not told and (pipeline.map is None or map is not None):
        raise Refused(
            400,
            "mask_required",
            "say what is to be painted: give a mask, a picture with transparent parts, or extend, "
            "such as left=16",
            "mask",
        )
    if told and text_of(fields, "prompt") is None:
        raise missing("prompt")
    if fields.get("keep_pixels") is not None:
        raise invalid("keep_pixels needs a mask, or extend", "keep_pixels")
    return Told(image, map) if told else Mapped(image)


def _holes(image: Image.Image) -> bool:
    """Whether any pixel is transparent."""
    if "A" not in image.getbands() and "transparency" not in image.info:
        return False
    return bool(np.asarray(image.convert("RGBA").getchannel("A")).min() < OPAQUE // 2 + 1)


def _extend(fields: Mapping[str, Any]) -> dict[str, int] | None:
    given = fields.get("extend")
    if isinstance(given, str) and not given.startswith("{"):
        try:
            return Extend.parse(given)
        except ValueError as error:
            raise invalid(str(error), "extend") from None
    given = plain(given)
    if given is not None and not isinstance(given, dict):
        raise invalid("extend is like left=16,top=8", "extend")
    return given
