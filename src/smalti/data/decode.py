"""Any image file to an 8-bit RGB image: upright, over white, or an error that names the file."""

from __future__ import annotations

import contextlib
import functools
import io
import warnings
from collections.abc import Generator
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageFile, ImageOps
from torch import Tensor

from smalti.pictures import from_array
from smalti.progress import say_once

Picture = Image.Image | str | Path | bytes | io.IOBase | np.ndarray | Tensor
"""A picture as people have it; a text is the name of a file."""

ADDRESSES = ("data:", "http:", "https:", "ftp:", "s3:", "gs:")
"""Beginnings of names that are no files; of //, a path keeps one stroke."""
LARGEST = 178_956_970
"""Pixels of a picture at most: Pillow takes one of more for a bomb."""
# complaints about what is used all the same: large pictures, broken EXIF blocks
warnings.filterwarnings("ignore", module=r"PIL\.")


def decode(data: bytes | Path, where: str) -> Image.Image:
    """Decode the bytes or the file into an RGB image; of an animation, the first frame.

    `where` names the image in the error. The first image with more frames, and the first that is
    dark because it does not fill its 16 bits, are named on standard error. Raises ValueError if it
    cannot be read or decoded, and if it has more than 179 million pixels, which may be a bomb.
    """
    with _named(where), _open(data) as image:
        deep = _deep(image)  # its tiles are gone once it is loaded
        image.load()
        rgb = to_rgb(image, where)
        if _has_frames(image):
            say_once(
                f"{where} has several frames: of it, and of others that do, the first is used",
                about="frames",
            )
        if deep and (most := int(np.asarray(rgb).max())) < DARK:
            say_once(
                f"{where} holds 16 bits, of which it fills {most / 255:.1%}, so it is dark; "
                "pixels of 10, 12 or 14 bits must be scaled to 16 (others like it are not named)",
                about="dark",
            )
        return rgb


DARK = 64
"""An image of 16 bits whose pixels are all below this after the cut to 8 holds at most 14."""


def _deep(image: Image.Image) -> bool:
    """Whether a file that is not loaded yet holds 16 bits, whatever Pillow makes of them."""
    tiles = str(getattr(image, "tile", [])[:1])
    return image.mode.startswith("I") or ";16" in tiles or "65535" in tiles


def _has_frames(image: Image.Image) -> bool:
    """Whether a file is an animation or has pages. What else MPO and PSD files hold are previews
    and layers."""
    if image.format in ("MPO", "PSD"):
        return False
    try:
        return getattr(image, "is_animated", False)
    except Exception:  # a later frame is broken, which does not matter
        return False


@functools.cache
def suffixes() -> frozenset[str]:
    """The suffixes, in lower case, of the files whose pixels Pillow can read."""
    Image.init()
    formats = {f for f, (factory, _) in Image.OPEN.items() if not _only_named(factory)}
    return frozenset(s for s, f in Image.registered_extensions().items() if f in formats)


def _only_named(factory: object) -> bool:
    """Whether Pillow recognises files of a format, but has nothing to read them with."""
    stub = isinstance(factory, type) and issubclass(factory, ImageFile.StubImageFile)
    return stub or getattr(factory, "format", "") == "MPEG"


def is_picture(path: str, suffix: str) -> bool:
    """Whether a file is meant as a picture: by its suffix, in lower case, or if that is '' by its
    first bytes."""
    if suffix:
        return suffix in suffixes()
    try:
        with Image.open(path, formats=_marked()):
            return True
    except Exception:  # not a picture, unreadable, or a plugin stumbled over what is none
        return False


@functools.cache
def _marked() -> list[str]:
    """Formats that their first bytes give away."""
    Image.init()
    known = Image.OPEN.items()
    return [f for f, (factory, accept) in known if accept and not _only_named(factory)]


def opened(picture: Picture, what: str) -> Image.Image:
    """A picture in any form upright, in the mode that it has: transparency stays.

    `what` names one that is no file in errors. Raises ValueError for what is no picture, for a
    missing file and for an address.
    """
    if isinstance(picture, np.ndarray | Tensor):
        return from_array(picture, what)
    if isinstance(picture, str | Path):
        what = str(picture)
        if "://" in what or what.startswith(ADDRESSES):
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
        turned = upright(image)
        turned.format = image.format  # a copy forgets it
        return turned


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


SIXTEEN = ("PNG", "PPM")
"""Formats of which Pillow gives 16 bits as 32, scaled to [0, 65535]."""
TRANSPARENT = ("RGBA", "RGBa", "LA", "La", "PA")


def to_rgb(image: Image.Image, where: str) -> Image.Image:
    """The image as RGB: EXIF orientation applied, transparency over white, 16 bits cut to 8.

    Raises ValueError for float and 32 bit images, whose range is not known.
    """
    kind = {"F": "float", "I": "32 bit"}.get(image.mode)
    if kind and image.format not in SIXTEEN:
        raise ValueError(
            f"{where} holds {kind} pixels, whose range is not known; smalti reads 8 and 16 bit "
            "images"
        )
    image = upright(image)
    if image.mode.startswith("I"):  # 16 bits, or 16 bits in 32: keep the high byte, as for RGB
        pixels = np.asarray(image).astype(np.int64)
        high = np.clip(pixels, 0, 65535) >> 8
        if isinstance(clear := image.info.get("transparency"), int):
            high[pixels == clear] = 255
        return Image.fromarray(high.astype(np.uint8)).convert("RGB")
    palette = image.palette.mode if image.mode == "P" and image.palette else ""
    if image.mode in TRANSPARENT or "transparency" in image.info or palette.endswith("A"):
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    # a copy of our own in any case: the caller's image may belong to a file about to be closed
    return image.copy() if image.mode == "RGB" else image.convert("RGB")


def numbers_of(image: Image.Image, where: str) -> Image.Image:
    """A picture whose pixels are numbers, grey or places in a palette, as one with a palette (mode
    P): of such ones pixels are never averaged. Transparency does not matter.

    Raises ValueError for a picture in colours and for numbers above 255.
    """
    if image.mode in ("LA", "PA"):
        image = image.getchannel(0)
    pixels = np.asarray(image if image.mode[0] in "PL1I" else image.convert("RGB"))
    numbers = pixels if pixels.ndim == 2 else pixels[..., 0]
    if pixels.ndim == 3 and (pixels != numbers[..., None]).any():
        raise ValueError(
            f"{where} is in colours, whose numbers are not known; pixels of a segmentation are the "
            "numbers of kinds, as greys or in a palette"
        )
    if int(numbers.max()) > 255:
        raise ValueError(f"{where}: numbers must be in [0, 256), got {int(numbers.max())}")
    found = Image.fromarray(np.ascontiguousarray(numbers, np.uint8))
    found.putpalette([level for level in range(256) for _ in range(3)])
    return found


def upright(image: Image.Image) -> Image.Image:
    """A picture as its EXIF orientation says that it stands."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # a broken EXIF block is common and harmless: the pixels stand as they are
        return image


TURNED = (5, 6, 7, 8)
"""EXIF orientations by which height and width change places."""


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Width and height of a picture that stands upright, of its header: no pixels are read."""
    orientation = None
    with contextlib.suppress(Exception):  # a broken EXIF block, as above
        # what PNG files have in the place of this method reads all pixels
        orientation = Image.Image.getexif(image).get(ExifTags.Base.Orientation)
    turned = orientation in TURNED and image.format != "TIFF"  # those open upright
    return (image.height, image.width) if turned else image.size
