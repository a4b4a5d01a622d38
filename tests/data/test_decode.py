import io

import numpy as np
import pytest
from PIL import Image

from smalti.data.decode import decode


def png(image, **options):
    file = io.BytesIO()
    image.save(file, options.pop("format", "PNG"), **options)
    return file.getvalue()


def first(data):
    image = decode(data, "test")
    assert image.mode == "RGB"
    return image.getpixel((0, 0))


def test_modes():
    assert first(png(Image.new("RGB", (2, 2), (1, 2, 3)))) == (1, 2, 3)
    assert first(png(Image.new("L", (2, 2), 77))) == (77, 77, 77)
    assert first(png(Image.new("1", (2, 2), 1))) == (255, 255, 255)
    palette = Image.new("RGB", (2, 2), (200, 10, 20)).quantize(4)
    assert palette.mode == "P" and first(png(palette)) == (200, 10, 20)
    cmyk = first(png(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), format="TIFF"))
    assert cmyk[0] > 200 and max(cmyk[1:]) < 60


def test_transparency_is_over_white():
    assert first(png(Image.new("RGBA", (2, 2), (0, 0, 0, 0)))) == (255, 255, 255)
    assert first(png(Image.new("RGBA", (2, 2), (255, 0, 0, 128)))) == (255, 127, 127)
    assert first(png(Image.new("LA", (2, 2), (0, 51)))) == (204, 204, 204)
    palette = Image.new("P", (2, 2), 0)
    palette.putpalette([9, 9, 9, 40, 50, 60])
    assert first(png(palette, transparency=0)) == (255, 255, 255)
    assert first(png(palette, transparency=1)) == (9, 9, 9)


@pytest.mark.parametrize("dtype", ["uint16", "int32"])
def test_sixteen_bits_keep_the_high_byte(dtype):
    pixels = np.full((2, 2), 0x8123, dtype=dtype)
    assert first(png(Image.fromarray(pixels), format="TIFF")) == (0x81,) * 3


def test_float_pixels_are_refused():
    with pytest.raises(ValueError, match="test.*float pixels"):
        decode(png(Image.new("F", (2, 2)), format="TIFF"), "test")


def test_exif_orientation():
    image = Image.new("RGB", (16, 8), (0, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated a quarter
    assert decode(png(image, format="JPEG", exif=exif), "test").size == (8, 16)


@pytest.mark.parametrize("cut", [0, 10, 60])
def test_corrupt_image_names_the_file(tmp_path, cut):
    data = png(Image.effect_noise((32, 32), 50))
    (tmp_path / "bad.png").write_bytes(data[:cut])
    with pytest.raises(ValueError, match="bad.png"):
        decode(tmp_path / "bad.png", str(tmp_path / "bad.png"))


def test_first_frame_of_an_animation():
    frames = [Image.new("RGB", (4, 4), c) for c in ("red", "blue")]
    assert first(png(frames[0], format="GIF", save_all=True, append_images=frames[1:])) == (
        255,
        0,
        0,
    )
