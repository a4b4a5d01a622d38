import json

import numpy as np
import pytest
import torch
from PIL import Image

from smalti.data.drawn_shapes import Attributes, Shapes, draw
from smalti.data.loader import Images
from smalti.data.open import open_source
from smalti.data.transforms import Transform
from smalti.eval.conditioning import ClassifierConfig, class_accuracy, learn, shapes
from smalti.eval.matching import hits, wanted
from smalti.eval.sets import open_set

COLOURS = {"blue": (30, 40, 220), "green": (40, 200, 60), "red": (230, 30, 20)}
QUICK = ClassifierConfig(pixels=16, channels=8, steps=40, batch=16)


def write_set(path, pixels, labels=None, **about):
    arrays = {"arr_0": np.stack(pixels)} | ({} if labels is None else {"arr_1": np.array(labels)})
    np.savez(path, **arrays)
    path.with_suffix(".json").write_text(json.dumps(about))
    return open_set(path)


@pytest.fixture(scope="module")
def colours(tmp_path_factory):
    """A class for each colour, with noise: folder:PATH, as data."""
    folder, rng = tmp_path_factory.mktemp("colours"), np.random.default_rng(0)
    for name in COLOURS:
        (folder / name).mkdir()
        for i in range(30):
            Image.fromarray(tinted(name, rng)).save(folder / name / f"{i}.png")
    return f"folder:{folder}"


def tinted(name, rng):
    return np.clip(rng.normal(COLOURS[name], 60, (16, 16, 3)), 0, 255).astype(np.uint8)


# -- shapes


def shares(pictures):
    found = shapes(pictures)
    return {name: right.mean() for name, right in found.items()} | {"images": len(found["all"])}


def test_real_shapes_match_their_captions():
    found = shares(open_set("shapes:40"))
    assert found == {"colour": 1, "shape": 1, "size": 1, "position": 1, "all": 1, "images": 40}


def test_shapes_drawn_from_classes_are_judged_by_colour_and_shape(tmp_path):
    source = Shapes(30)
    pixels = [np.asarray(source[i].image) for i in range(30)]
    labels = np.array([source.label(i) for i in range(30)])
    right = write_set(tmp_path / "a.npz", pixels, labels, class_names=source.classes)
    assert shares(right) == {"colour": 1, "shape": 1, "all": 1, "images": 30}
    moved = labels.copy()
    moved[:6] = (moved[:6] + 6) % 30  # the next shape of the same colour
    wrong = write_set(tmp_path / "b.npz", pixels, moved, class_names=source.classes)
    assert shares(wrong) == {"colour": 1, "shape": 0.8, "all": 0.8, "images": 30}


def test_prompts_in_turn_are_what_was_asked_for(tmp_path):
    texts = ["a small red star in the centre", "a large blue heart at the top left"]
    pixels = [np.asarray(draw(Attributes("red", "star", "small", "in the centre")))] * 5
    found = shares(write_set(tmp_path / "a.npz", pixels, text=texts, first=1))
    assert (found["all"], found["colour"], found["images"]) == (2 / 5, 2 / 5, 5)


def test_a_set_that_does_not_say_what_was_asked_for(tmp_path):
    pixels = np.zeros((2, 32, 32, 3), np.uint8)
    with pytest.raises(ValueError, match=r"a.npz does not say what picture 0 is to show"):
        shapes(write_set(tmp_path / "a.npz", pixels))
    with pytest.raises(ValueError, match="classes like 'red circle', got 'cat'"):
        shapes(write_set(tmp_path / "b.npz", pixels, [0, 0], class_names=["cat"]))


def test_what_texts_say():
    assert wanted("orange heart") == {"colour": "orange", "shape": "heart"}
    assert wanted("a large blue star in the centre")["size"] == "large"
    for text in ("red", "heart red", "red  heart", ""):
        with pytest.raises(ValueError, match="captions must be like"):
            wanted(text)
    with pytest.raises(ValueError, match="there are no pictures"):
        hits([])


# -- classes


def test_accuracy_stands_beside_that_of_real_pictures(tmp_path, colours):
    rng = np.random.default_rng(1)
    names = list(COLOURS)
    labels = [i % 3 for i in range(60)]
    pixels = [tinted(names[label], rng) for label in labels]
    right = write_set(tmp_path / "a.npz", pixels, labels, class_names=names)
    drawn, unseen = class_accuracy(right, colours, QUICK)
    assert (drawn.share(), len(drawn.labels)) == (1, 60)
    assert (unseen.share(), len(unseen.labels)) == (1, 9)
    assert drawn.interval(20, 0) == (1, 1)
    # every class 2 is drawn as class 0: a mean over classes, whatever their numbers
    kept = [i for i in range(60) if labels[i] == 0 or i < 9]
    shown = [tinted(names[labels[i] % 2], rng) for i in kept]
    wrong = write_set(tmp_path / "b.npz", shown, [labels[i] for i in kept])
    assert class_accuracy(wrong, colours, QUICK)[0].share() == pytest.approx(2 / 3)


def test_equal_seeds_give_equal_numbers_and_leave_torchs_alone(tmp_path, colours):
    pixels, labels = np.random.default_rng(2).integers(0, 256, (30, 16, 16, 3)), [0, 1, 2] * 10
    pictures = write_set(tmp_path / "a.npz", pixels.astype(np.uint8), labels)
    short = ClassifierConfig(pixels=16, channels=8, steps=5, batch=16)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, two = (class_accuracy(pictures, colours, short) for _ in range(2))
    for x, y in zip(one, two, strict=True):
        assert (x.right == y.right).all() and (x.labels == y.labels).all()
    unnamed = write_set(tmp_path / "b.npz", pixels.astype(np.uint8))
    with pytest.raises(ValueError, match="does not say what class its pictures are of"):
        class_accuracy(unnamed, colours, short)
    assert (
        class_accuracy(unnamed, colours, short, labels=one[0].labels)[0].right == one[0].right
    ).all()
    assert torch.equal(torch.get_rng_state(), before)
    images = Images(open_source(colours), range(30), Transform(16), 8)
    weights = [
        learn(images, 3, ClassifierConfig(16, 8, 2, seed=seed)).head.weight for seed in (0, 0, 1)
    ]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_larger_pictures_are_brought_down(tmp_path, colours):
    labels, rng = [0, 1, 2] * 4, np.random.default_rng(3)
    names = list(COLOURS)
    small = [tinted(names[label], rng) for label in labels]
    large = [p.repeat(4, 0).repeat(4, 1) for p in small]  # halving twice gives them back
    one = write_set(tmp_path / "a.npz", small, labels)
    two = write_set(tmp_path / "b.npz", large, labels)
    weak = ClassifierConfig(pixels=16, channels=4, steps=25, batch=8)
    found = [class_accuracy(pictures, colours, weak)[0].share() for pictures in (one, two)]
    assert found[0] == found[1] and 1 / 3 < found[0]


def test_classes_that_are_not_those_of_the_data(tmp_path, colours):
    pixels = np.zeros((3, 16, 16, 3), np.uint8)
    for name, labels, about, words in (
        ("a", None, {}, "does not say what class"),
        ("b", [0, 1, 3], {}, "has other classes"),
        ("c", [0, 1, 2], {"class_names": ["x", "y", "z"]}, r"has other classes \(x, y, z\)"),
    ):
        with pytest.raises(ValueError, match=words):
            class_accuracy(write_set(tmp_path / f"{name}.npz", pixels, labels, **about), colours)
    wide = write_set(tmp_path / "d.npz", np.zeros((3, 16, 8, 3), np.uint8), [0, 1, 2])
    with pytest.raises(ValueError, match=r"must be square, .* \(16, 8\)"):
        class_accuracy(wide, colours)
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        ClassifierConfig(steps=0)
