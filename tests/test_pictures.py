"""Grids with names: which image stands where, what is written above, what stays as it was."""

import numpy as np
import pytest
from PIL import Image, ImageFont

from smalti.pictures import FONT, _lines, grid, named_grid


def pictures(count):
    return [Image.new("RGB", (32, 20), (i, 255 - i, 7)) for i in range(count)]


def names(*turns, count):
    return [turns[i % len(turns)] for i in range(count)]


def below(sheet, rows, zoom=1):
    """The part of a sheet under its names."""
    return np.asarray(sheet)[sheet.height - (rows * (20 * zoom + 2) + 2) :]


@pytest.mark.parametrize(("turns", "count"), [(10, 30), (10, 10), (3, 3), (3, 7), (16, 20), (2, 9)])
def test_names_in_turn_get_a_column_each(turns, count):
    asked = names(*(f"class {i}" for i in range(turns)), count=count)
    sheet = named_grid(pictures(count), asked, zoom=2)
    plain = grid(pictures(count), turns, zoom=2)
    assert sheet.width == plain.width == turns * 66 + 2
    assert np.array_equal(below(sheet, -(-count // turns), 2), np.asarray(plain))
    head = np.asarray(sheet)[: sheet.height - plain.height]
    assert len(head) == FONT + 2 + 2
    for i in range(turns):  # each place has ink, and what is between them has none
        assert head[:, 2 + 66 * i : 66 + 66 * i].min() < 128
        assert (head[:, 66 * i : 66 * i + 2] == 255).all()


def test_a_name_that_repeats_among_others_keeps_the_columns():
    sheet = named_grid(pictures(6), ["a", "a", "b"] * 2)
    assert sheet.width == 3 * 34 + 2


def test_more_names_stand_above_each_image():
    asked = [f"picture number {i}" for i in range(25)]
    sheet = named_grid(pictures(25), asked)
    assert sheet.width == 5 * 34 + 2
    head = (sheet.height - 5 * (22 + 2)) // 5
    pixels = np.asarray(sheet)
    for i in range(25):
        y, x = (i // 5) * (head + 24), 2 + 34 * (i % 5)
        assert pixels[y : y + head, x : x + 32].min() < 128
        assert (pixels[y + head + 2 : y + head + 22, x : x + 32] == (i, 255 - i, 7)).all()


def test_one_name_stands_above_all_and_none_changes_nothing():
    sheet, plain = named_grid(pictures(9), ["a long name"] * 9), grid(pictures(9), 3)
    assert np.array_equal(below(sheet, 3), np.asarray(plain)) and sheet.height > plain.height
    assert named_grid(pictures(9), [""] * 9).tobytes() == plain.tobytes()


def test_long_names_are_cut_with_an_ellipsis():
    font = ImageFont.load_default(FONT)
    text = "a small red heart in the centre of a very large field, and behind it the sea"
    lines = _lines(text, font, 64)
    assert len(lines) == 3 and lines[-1].endswith("…")
    assert all(font.getlength(line) <= 64 for line in lines)
    assert text.startswith(" ".join(lines).removesuffix("…"))
    assert _lines("word " * 100_000, font, 64)[-1].endswith("…")
    assert _lines("Activities", font, 64) == ["Activities"]
    assert _lines("", font, 64) == []
