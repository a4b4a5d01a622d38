import itertools

import numpy as np
import pytest
from PIL import Image, ImageFilter

from smalti.data.drawn_shapes import (
    COLOURS,
    POSITIONS,
    SHAPES,
    SIZES,
    Attributes,
    Shapes,
    draw,
    recognise,
)
from smalti.data.open import open_source


@pytest.mark.parametrize("pixels", [32, 64])
def test_the_oracle_reads_clean_pictures_exactly(pixels):
    shapes = Shapes(500, pixels, seed=11)
    wrong = [
        (shapes.attributes(i), seen)
        for i in range(500)
        if (seen := recognise(np.asarray(shapes[i].image))) != shapes.attributes(i)
    ]
    assert wrong == []


def test_the_oracle_reads_every_combination():
    for combination in itertools.product(COLOURS, SHAPES, SIZES, POSITIONS):
        about = Attributes(*combination)
        assert recognise(np.asarray(draw(about))) == about


def test_the_oracle_stands_noise_blur_and_resizing():
    shapes, rng = Shapes(100, seed=5), np.random.default_rng(0)
    for i in range(100):
        image, about = shapes[i].image, shapes.attributes(i)
        noisy = np.asarray(image) + rng.normal(0, 10, (64, 64, 3))
        assert recognise(np.clip(noisy, 0, 255).astype(np.uint8)) == about
        assert recognise(np.asarray(image.filter(ImageFilter.GaussianBlur(1)))) == about
        small = image.resize((32, 32), Image.Resampling.BICUBIC)
        assert recognise(np.asarray(small)) == about


def test_the_oracle_sees_nothing_where_nothing_is():
    rng = np.random.default_rng(0)
    for empty in (0, 128, 250, 255):
        assert recognise(np.full((32, 32, 3), empty, np.uint8)) is None
    assert recognise(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)) is None
    half = np.full((32, 32, 3), 255, np.uint8)
    half[:, :16] = COLOURS["red"]
    assert recognise(half) is None
    two = np.full((32, 32, 3), 255, np.uint8)
    two[3:10, 3:10] = two[20:27, 20:27] = COLOURS["blue"]
    assert recognise(two) is None
    with pytest.raises(ValueError, match=r"\(H, H, 3\), got \(32, 16, 3\)"):
        recognise(half[:, :16])


def test_examples():
    shapes = open_source("shapes:300")
    assert len(shapes) == 300 and len(open_source("shapes")) == 10_000
    assert len(shapes.classes) == 30 and shapes.classes[:2] == ["red circle", "green circle"]
    for i in range(0, 300, 37):
        about = shapes.attributes(i)
        image, label, caption = shapes[i]
        assert shapes.classes[label] == f"{about.colour} {about.shape}"
        assert caption == f"a {about.size} {about.colour} {about.shape} {about.position}"
        assert image.size == (64, 64) and image.mode == "RGB"
    assert Attributes("red", "circle", "small", "at the top left").caption == (
        "a small red circle at the top left"
    )


def test_example_depends_on_seed_and_index_only():
    few, many = Shapes(10), Shapes(1000)
    for i in range(10):
        assert few.attributes(i) == many.attributes(i)
        assert few[i].image.tobytes() == many[i].image.tobytes()
    assert few[3].image.tobytes() != Shapes(10, seed=1)[3].image.tobytes()
    assert few.fingerprint() == Shapes(10).fingerprint() != Shapes(10, seed=1).fingerprint()
    with pytest.raises(IndexError):
        few[10]


def test_all_attributes_are_about_equally_frequent():
    shapes = Shapes(3000)
    labels = np.bincount([shapes.label(i) for i in range(3000)], minlength=30)
    assert labels.min() > 60 and labels.max() < 145


@pytest.mark.parametrize("options", ["0", "-1", "many", "1.5"])
def test_errors(options):
    with pytest.raises(ValueError, match="shapes:COUNT"):
        open_source(f"shapes:{options}")
