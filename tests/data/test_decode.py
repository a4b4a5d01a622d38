import io
import re
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

from smalti import progress
from smalti.data.decode import check_header, decode, is_picture, opened, suffixes, to_rgb


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


@pytest.mark.parametrize("format", ["TIFF", "PNG", "PPM"])
def test_sixteen_bits_keep_the_high_byte(format, capsys):
    pixels = np.full((2, 2), 0x8123, dtype="uint16")
    assert first(png(Image.fromarray(pixels), format=format)) == (0x81,) * 3
    assert first(b"P5 2 2 4095\n" + np.full((2, 2), 2048, ">u2").tobytes()) == (128,) * 3
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "pixels, kind",
    [
        (np.zeros((2, 2), "float32"), "float"),
        (np.full((2, 2), 200, "int32"), "32 bit"),
        (np.full((2, 2), 0x8123, "int32"), "32 bit"),
    ],
)
def test_pixels_without_a_range_are_refused(pixels, kind):
    for image in (Image.fromarray(pixels), Image.fromarray(pixels).transpose(0)):
        with pytest.raises(ValueError, match=f"test holds {kind} pixels"):
            to_rgb(image, "test")
        with pytest.raises(ValueError, match=f"test holds {kind} pixels.*8 and 16 bit"):
            decode(png(image, format="TIFF"), "test")


@pytest.fixture
def nothing_said(monkeypatch):
    monkeypatch.setattr(progress, "_SAID", set())


def deep_rgb(value):
    """A PNG of 16 bits a channel, of which Pillow makes 8."""

    def chunk(kind, data):
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    rows = b"".join(b"\0" + np.full((2, 3), value, ">u2").tobytes() for _ in range(2))
    header = struct.pack(">IIBBBBB", 2, 2, 16, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize(
    "data",
    [
        png(Image.fromarray(np.full((2, 2), 1200, "uint16"))),
        png(Image.fromarray(np.full((2, 2), 16_000, "uint16")), format="TIFF"),
        b"P5 2 2 65535\n" + np.full((2, 2), 1200, ">u2").tobytes(),
        b"P6 2 2 65535\n" + np.full((2, 2, 3), 1200, ">u2").tobytes(),
        deep_rgb(1200),
    ],
    ids=range(5),
)
def test_twelve_bits_in_sixteen_are_never_black_without_a_word(data, nothing_said, capsys):
    decode(data, "first.png")
    decode(data, "second.png")
    (line,) = capsys.readouterr().err.splitlines()
    assert re.match(r"first.png holds 16 bits, of which it fills \d+.\d%, so it is dark; ", line)


def test_eight_bits_may_be_dark(nothing_said, capsys):
    assert first(png(Image.new("RGB", (2, 2), (3, 3, 3)))) == (3, 3, 3)
    assert first(deep_rgb(0x8123)) == (0x81,) * 3
    assert capsys.readouterr().err == ""


def test_transparency_of_palettes_and_of_sixteen_bits():
    palette = Image.new("RGBA", (4, 4), (255, 0, 0, 0)).quantize(4, method=2)
    assert (palette.mode, palette.palette.mode) == ("P", "RGBA")
    assert to_rgb(palette, "test").getpixel((0, 0)) == (255, 255, 255)
    grey = Image.fromarray(np.full((2, 2), 0x8123, "uint16"))
    assert first(png(grey, transparency=0x8123)) == (255, 255, 255)
    assert first(png(grey, transparency=7)) == (0x81,) * 3
    assert first(png(Image.new("PA", (2, 2)), format="TIFF")) == (255, 255, 255)


@pytest.mark.parametrize("format", ["GIF", "WEBP", "TIFF", "PNG"])
def test_the_first_frame_is_used_and_said_to_be(format, nothing_said, capsys):
    frames = [Image.new("RGB", (4, 4), c) for c in ("red", "blue", "lime")]
    data = png(frames[0], format=format, save_all=True, append_images=frames[1:])
    assert decode(data, "a.gif").getpixel((0, 0))[0] > 250
    decode(data, "b.gif")
    said = "a.gif has several frames: of it, and of others that do, the first is used\n"
    assert capsys.readouterr().err == said


def test_what_pillow_reads(tmp_path):
    assert {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"} <= suffixes()
    assert {".jfif", ".ppm", ".pgm", ".avif", ".jp2", ".tga", ".ico"} <= suffixes()
    assert not suffixes() & {".txt", ".mp4", ".mpg", ".h5", ".pdf", ".json", ".parquet"}
    Image.new("RGB", (4, 4)).save(tmp_path / "photo", "JPEG")
    (tmp_path / "LICENSE").write_text("You may.")
    (tmp_path / "empty").touch()
    (tmp_path / "noise").write_bytes(np.random.default_rng(0).bytes(2000))
    found = [p for p in sorted(tmp_path.iterdir()) if is_picture(str(p), p.suffix)]
    assert found == [tmp_path / "photo"]


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


@pytest.mark.slow
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
