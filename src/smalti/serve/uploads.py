"""Pictures that come over the network: known by their first bytes, and small enough before a pixel
of them is decoded."""

from __future__ import annotations

import base64
import binascii
import io
import re
from collections.abc import Mapping
from typing import Any

from PIL import Image

from smalti.data.decode import upright
from smalti.serve.errors import Refused, invalid

FORMATS = ("PNG", "JPEG", "WEBP")
"""All others of Pillow's readers stay shut."""
MOST_PIXELS = 16_000_000
DATA = re.compile(r"data:image/[a-z+.-]+;base64,", re.ASCII)


def picture(data: bytes, param: str, most: int = MOST_PIXELS) -> Image.Image:
    """Read a PNG, a JPEG or a WEBP; of an animation, the first frame. Names and types that a client
    gave tell nothing. It stands upright, as people see it, so that a mask that was painted over
    what is seen fits it. Raises Refused for anything else, and for more than `most` pixels."""
    large = Refused(400, "image_too_large", f"{param} may have {most:,} pixels", param)
    if not data:
        raise Refused(400, "image_unreadable", f"{param} is empty", param)
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            if width * height > most:
                raise large
            image.load()
            image.info.pop("icc_profile", None)
            found = upright(image).copy()
            found.format = image.format  # forgotten by a copy; older Pillows give 16 bits as 32
            return found
    except Refused:
        raise
    except Image.DecompressionBombError:
        raise large from None
    except Exception as error:  # whatever a broken file makes of its reader
        raise Refused(
            400,
            "image_unreadable",
            f"{param} must be a PNG, a JPEG or a WEBP, and whole",
            param,
        ) from error


def brought(
    fields: Mapping[str, Any], files: Mapping[str, bytes], name: str, most: int
) -> Image.Image | None:
    """A picture of a form, or of an object as base64; None if there is none. Raises Refused as
    `picture` does, and for what is none, or several."""
    if name in files:
        return picture(files[name], name, most)
    given = fields.get(name)
    if given is None:
        return None
    if isinstance(given, list) and len(given) == 1:
        given = given[0]
    if isinstance(given, Mapping):
        given = given.get("image_url")
    if not isinstance(given, str):
        raise invalid(f"{name} must be one picture: a file, base64 or an image_url", name)
    return picture(from_text(given, name), name, most)


def from_text(text: str, param: str) -> bytes:
    """The bytes of a picture in base64, alone or as a `data:` address. Raises Refused for any other
    address: nothing is fetched for a client."""
    found = DATA.match(text[:100])
    if found is None and "://" in text[:100]:
        raise invalid(f"{param}: addresses are not fetched; send the picture", param)
    try:
        return base64.b64decode(text[found.end() if found else 0 :], validate=True)
    except (binascii.Error, ValueError):
        raise Refused(400, "image_unreadable", f"{param} is no base64", param) from None
