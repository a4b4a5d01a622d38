"""Any image file to an 8-bit RGB image: upright, over white, or an error that names the file."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Generator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from torch import Tensor

from smalti.pictures import from_array

Picture = Image.Image | str | Path | bytes | io.IOBase | np.ndarray | Tensor
"""A picture as people have it; a text is the name of a file."""

# complaints about what is used all the same: large pictures, broken EXIF blocks
warnings.filterwarnings("ignore", module=r"PIL\.")


def decode(data: bytes | Path, where: str) -> Image.Image:
    """Decode the bytes or the file into an RGB image; of an animation, the first frame.

    `where` names the image in the error. Raises ValueError if it cannot be read or decoded, and if
    it has more than 179 million pixels, which may be a bomb.
    """
    with _named(where), _open(data) as image:
        image.load()
        return to_rgb(image, where)


def opened(picture: Picture, what: str) -> Image.Image:
    """A picture in any form upright, in the mode that it has: transparency stays.

    `what` names one that is no file in errors. Raises ValueError for what is no picture, for a
    missing file and for an address.
    """
    if isinstance(picture, np.ndarray | Tensor):
        return from_array(picture, what)
    if isinstance(picture, str | Path):
        what = str(picture)
        if "://" in what or what.startswith("data:"):
            raise ValueError(f"{what[:80]} is an address: download the picture and give its file")
        picture = Path(picture).expanduser()
    data = picture.read() if isinstance(picture, io.IOBase) else picture
    if not isinstance(data, Image.Image | Path | bytes):
        raise ValueError(
            f"{what} must be a PIL image, a file, bytes, an array or a tensor, "
            f"got {type(picture).__name__}"
        )
    with _named(what), contextlib.ExitStack() as files:
        image = data if isinstance(data, Image.Image) else files.enter_context(_open(data))
        image.load()
        upright = _upright(image)
        upright.format = image.format  # a copy forgets it
        return upright


def check_header(path: Path) -> None:
    """Raise ValueError if the file cannot be read, is no picture or far too large; 40 us."""
    with _named(str(path)), _open(path):
        pass


def _open(data: bytes | Path) -> Image.Image:
    return Image.open(io.BytesIO(data) if isinstance(data, bytes) else data)


@contextlib.contextmanager
def _named(where: str) -> Generator[None]:
    """Whatever goes wrong inside becomes a ValueError about `where`."""
    try:
        yield
    except FileNotFoundError:
        raise ValueError(f"no such file: {where}") from None
    except IsADirectoryError:
        raise ValueError(f"{where} is a folder, not a picture") from None
    except Image.UnidentifiedImageError:
        raise ValueError(f"cannot decode image {where}: not a picture, or empty") from None
    except Exception as error:  # on corrupt files Pillow's plugins raise almost anything
        raise ValueError(f"cannot decode image {where}: {error or type(error).__name__}") from error


def to_rgb(image: Image.Image, where: str) -> Image.Image:
    """The image as RGB: EXIF orientation applied, transparency over white, 16 bits cut to 8.

    Raises ValueError for float images, whose range is not known.
    """
    image = _upright(image)
    if image.mode == "F":
        raise ValueError(f"{where} holds float pixels; smalti reads 8 and 16 bit images")
    if image.mode.startswith("I"):  # 16 bits, or 16 bits in 32: keep the high byte, as for RGB
        high = np.clip(np.asarray(image).astype(np.int64), 0, 65535) >> 8
        return Image.fromarray(high.astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    # a copy of our own in any case: the caller's image may belong to a file about to be closed
    return image.copy() if image.mode == "RGB" else image.convert("RGB")


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # a broken EXIF block is common and harmless: the pixels stand as they are
        return image
