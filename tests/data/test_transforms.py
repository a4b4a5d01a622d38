import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from smalti.data.transforms import (
    Transform,
    center_crop,
    halve,
    random_crop,
    resize,
    shifted,
    ten_crop,
    to_float,
    to_uint8,
)


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_center_crop_of_a_picture_of_the_right_height_is_a_slice():
    pixels = noise(16, 25)
    assert (center_crop(pixels, 16) == pixels[:, 4:20]).all()


def test_center_crop_halves_by_box():
    pixels = noise(32, 32)
    mean = pixels.reshape(16, 2, 16, 2, 3).mean((1, 3))
    assert np.abs(center_crop(pixels, 16) - mean).max() <= 1  # Pillow rounds after each axis


sides = st.integers(9, 90)


@settings(max_examples=30, deadline=None)
@given(sides, sides, st.integers(4, 40), st.integers(0, 99))
def test_every_crop_has_the_size_asked_for(height, width, size, seed):
    image = Image.fromarray(noise(height, width, seed))
    for crop in ("center", "random", "ten"):
        view = Transform(size, crop, flip=True)(image, np.random.default_rng(seed))
        assert view.shape == (3, size, size) and view.dtype == np.uint8


@settings(max_examples=30, deadline=None)
@given(
    sides,
    sides,
    st.integers(4, 20),
    st.integers(0, 99),
    st.sampled_from("center random ten".split()),
)
def test_preparing_changes_no_view(height, width, size, seed, crop):
    image = Image.fromarray(noise(height, width, seed))
    transform = Transform(size, crop)
    prepared = transform.prepare(image)
    assert prepared.width <= image.width
    for rng in (None, seed):
        views = [transform(i, rng and np.random.default_rng(rng)) for i in (image, prepared)]
        assert (views[0] == views[1]).all()


def test_random_crop_is_a_slice_when_the_fraction_is_one():
    pixels, seen = noise(16, 25), set()
    for seed in range(40):
        crop = random_crop(pixels, 16, np.random.default_rng(seed), 1.0, 1.0)
        left = [x for x in range(10) if (crop == pixels[:, x : x + 16]).all()]
        assert len(left) == 1
        seen.update(left)
    assert {0, 9} <= seen


def test_random_crop_stays_within_its_fractions():
    """On a horizontal ramp the range of values tells how much of the width a crop shows."""
    ramp = np.repeat(np.linspace(0, 255, 64)[None, :, None], 64, 0).repeat(3, 2).astype(np.uint8)
    parts = [np.ptp(random_crop(ramp, 32, np.random.default_rng(s))) / 255 for s in range(60)]
    assert 0.74 < min(parts) < 0.85 and 0.95 < max(parts) <= 1


def test_ten_crop_order():
    pixels = noise(22, 22)
    ten = ten_crop(pixels, 20)
    for k, (y, x) in enumerate([(0, 0), (0, 2), (2, 0), (2, 2), (1, 1)]):
        assert (ten[k] == pixels[y : y + 20, x : x + 20]).all()
        assert (ten[k + 5] == pixels[:, ::-1][y : y + 20, x : x + 20]).all()


def test_fixed_views():
    image = Image.fromarray(noise(30, 40))
    one, two = Transform(16).views(image), Transform(16, flip=True).views(image)
    assert one.shape == (1, 3, 16, 16) and two.shape == (2, 3, 16, 16)
    assert (two[0] == one[0]).all() and (two[1] == one[0][:, :, ::-1]).all()
    assert (Transform(16)(image, None) == one[0]).all()
    ten = Transform(16, "ten")
    assert ten.views(image).shape == (10, 3, 16, 16)
    assert (ten(image, None) == ten.views(image)[4]).all()
    counts = [Transform(16, c, f).view_count for c in ("center", "ten", "random") for f in (0, 1)]
    assert counts == [1, 2, 10, 10, 0, 0]
    with pytest.raises(ValueError, match="random.*no fixed views"):
        Transform(16, "random").views(image)


def test_flips_are_half():
    image = Image.fromarray(noise(16, 16))
    transform, plain = Transform(16, flip=True), center_crop(noise(16, 16), 16).transpose(2, 0, 1)
    flipped = 0
    for seed in range(100):
        view = transform(image, np.random.default_rng(seed))
        mirrored = (view == plain[:, :, ::-1]).all()
        assert mirrored or (view == plain).all()
        flipped += mirrored
    assert 35 < flipped < 65


def test_shifts_move_and_fill_with_the_edge():
    pixels = np.arange(12).reshape(1, 3, 4)
    assert shifted(pixels, 0, 0).tolist() == pixels.tolist()
    assert shifted(pixels, 1, -2).tolist() == [[[2, 3, 3, 3], [2, 3, 3, 3], [6, 7, 7, 7]]]
    image, found = Image.fromarray(noise(16, 16)), set()
    transform, plain = Transform(16, shift=2), noise(16, 16).transpose(2, 0, 1)
    for seed in range(100):
        view = transform(image, np.random.default_rng(seed))
        (move,) = [
            (down, right)
            for down in range(-2, 3)
            for right in range(-2, 3)
            if (view == shifted(plain, down, right)).all()
        ]
        found.add(move)
    assert len(found) > 20 and (transform(image, None) == plain).all() and not transform.view_count
    with pytest.raises(ValueError, match="shift 2 has no fixed views to encode"):
        transform.views(image)
    for shift, crop in ((-1, "center"), (16, "random"), (1, "ten")):
        with pytest.raises(ValueError, match=f"shift must be in 0 ... 15, .* got {shift} of"):
            Transform(16, crop, shift=shift)


def test_halve():
    assert halve(noise(40, 100), 10).size == (25, 10)
    assert halve(noise(39, 100), 20).size == (100, 39)


def test_pixel_ranges():
    levels = torch.arange(256, dtype=torch.uint8)
    x = to_float(levels)
    assert (x[0], x[255]) == (-1, 1) and x.dtype == torch.float32
    assert torch.equal(to_uint8(x), levels)  # adding a half before truncation is rounding
    given = torch.tensor([-2.0, -1, 0, 0.999, 1, 2])
    assert to_uint8(given).tolist() == [0, 0, 128, 255, 255, 255]


def test_resize():
    x = torch.full((1, 3, 8, 6), 0.25)
    assert resize(x, 4).shape == (1, 3, 4, 4)
    torch.testing.assert_close(resize(x, 4), torch.full((1, 3, 4, 4), 0.25))
    square = torch.rand(1, 3, 4, 4)
    assert resize(square, 4) is square


def test_errors():
    with pytest.raises(ValueError, match="size must be at least 1, got 0"):
        Transform(0)
    with pytest.raises(ValueError, match="center, random or ten, got 'middle'"):
        Transform(8, "middle")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="ratio must be at least 1, got 0.5"):
        ten_crop(noise(8, 8), 8, 0.5)
    with pytest.raises(ValueError, match="got 0.9 and 0.8"):
        random_crop(noise(8, 8), 8, np.random.default_rng(0), 0.9, 0.8)


@pytest.mark.parametrize("shape", [(1, 5000), (5000, 1), (2, 60_000)])
def test_extremely_thin_pictures(shape):
    """As if enlarged whole and cut, without the memory that would take."""
    pixels = noise(*shape)
    crop = center_crop(pixels, 64)
    short = min(shape)
    start = (max(shape) - 32 * short) // 2
    axis = int(np.argmax(shape))
    near = np.take(pixels, range(start, start + 32 * short), axis)
    assert crop.shape == (64, 64, 3) and (crop == center_crop(near, 64)).all()
    for kind in ("random", "ten"):
        view = Transform(64, kind)(Image.fromarray(pixels), np.random.default_rng(0))
        assert view.shape == (3, 64, 64)


def test_only_extremely_thin_pictures_are_cut():
    pixels = noise(4, 128)
    whole = Image.fromarray(pixels).resize((512, 16), Image.Resampling.BICUBIC)
    assert (center_crop(pixels, 16) == np.asarray(whole)[:, 248:264]).all()
