import io
import struct
import subprocess
import sys
import time
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from smalti.data.decode import check_header, decode, opened


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


def test_cmyk_jpeg_whose_inks_are_inverted_as_adobe_does():
    data = png(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), format="JPEG")
    assert b"Adobe" in data
    red = first(data)
    assert red[0] > 200 and max(red[1:]) < 60


def test_a_huge_picture_is_used_without_a_word(tmp_path):
    Image.new("1", (10_000, 9_000), 1).save(tmp_path / "huge.png")
    code = (
        "import sys; from smalti.data.decode import decode; image = decode(sys.argv[1], 'x'); "
        "print(image.size, image.getpixel((9999, 8999)))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "huge.png")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stderr == "" and done.stdout == "(10000, 9000) (255, 255, 255)\n"


def test_a_bomb_is_refused_by_its_header(tmp_path):
    data = bytearray(png(Image.new("1", (8, 8))))
    data[16:24] = struct.pack(">II", 20_000, 20_000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    (tmp_path / "bomb.png").write_bytes(data)
    for refuse in (lambda p: decode(p, str(p)), check_header):
        with pytest.raises(ValueError, match="bomb.png: .*400000000 pixels"):
            refuse(tmp_path / "bomb.png")


def test_a_header_says_nothing_of_the_pixels(tmp_path):
    data = png(Image.effect_noise((64, 64), 50))
    (tmp_path / "cut.png").write_bytes(data[: len(data) // 2])
    check_header(tmp_path / "cut.png")
    with pytest.raises(ValueError, match="cut.png: .*truncated"):
        decode(tmp_path / "cut.png", "cut.png")
    with pytest.raises(ValueError, match="gone.png"):
        check_header(tmp_path / "gone.png")


def small_files():
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (12, 9, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    frames = {"save_all": True, "append_images": [image.rotate(90), image.rotate(180)]}
    return [
        png(image),
        png(image.quantize(8), transparency=0),
        png(image.convert("LA")),
        png(image, format="JPEG", exif=exif),
        png(image, format="JPEG", progressive=True),
        png(image, format="WEBP"),
        png(image, format="WEBP", lossless=True, **frames),
        png(image, format="GIF", **frames),
        png(image, format="BMP"),
        png(image, format="TIFF", compression="tiff_lzw"),
    ]


FILES = small_files()


@pytest.mark.filterwarnings("ignore::UserWarning")  # pytest undoes the filters of decode
@settings(max_examples=400)
@given(st.data())
def test_damaged_bytes_give_a_picture_or_the_error(data):
    """Bytes changed, removed and inserted anywhere: never another exception, never long."""
    content = bytearray(data.draw(st.sampled_from(FILES)))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        kind = data.draw(st.sampled_from(["flip", "set", "cut", "remove", "insert"]))
        if kind == "flip":
            content[at] ^= 1 << data.draw(st.integers(0, 7))
        elif kind == "set":
            content[at] = data.draw(st.sampled_from([0, 1, 127, 128, 255]))
        elif kind == "cut":
            del content[at + 1 :]
        elif kind == "remove":
            del content[at : at + data.draw(st.integers(1, 8))]
            content += b"" if content else b"x"
        else:
            content[at:at] = data.draw(st.binary(min_size=1, max_size=8))
    began = time.monotonic()
    try:
        image = decode(bytes(content), "damaged")
    except ValueError as error:
        assert str(error).startswith("cannot decode image damaged: ")
    else:
        assert image.mode == "RGB" and min(image.size) > 0
        assert np.asarray(image).dtype == np.uint8
    assert time.monotonic() - began < 5


def test_a_picture_opened_as_it_is_keeps_mode_and_format(tmp_path):
    image = Image.new("LA", (3, 2), (9, 7))
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    image.save(tmp_path / "x.png", exif=exif)
    for form in (tmp_path / "x.png", str(tmp_path / "x.png"), (tmp_path / "x.png").read_bytes()):
        found = opened(form, "it")
        assert (found.mode, found.size, found.format) == ("LA", (2, 3), "PNG")
        assert found.getpixel((0, 0)) == (9, 7)
    assert opened(image, "it").size == (3, 2)


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    for read in (lambda path: decode(path, str(path)), lambda path: opened(path, "it")):
        with pytest.raises(ValueError, match=f"^no such file: {tmp_path / 'x.png'}$"):
            read(tmp_path / "x.png")
        with pytest.raises(ValueError, match=f"^{tmp_path} is a folder, not a picture$"):
            read(tmp_path)
