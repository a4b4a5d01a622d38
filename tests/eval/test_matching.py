import numpy as np
import pytest

from smalti.data.drawn_shapes import COLOURS, Attributes, draw
from smalti.eval.matching import CAPTIONS, matching


def artist(change):
    """Draws what `change` makes of what is asked for; None is a white picture."""

    def pictures(text, n, seed):
        assert n == len(text)
        for caption in text:
            about = change(CAPTIONS[caption])
            yield np.full((64, 64, 3), 255, np.uint8) if about is None else np.asarray(draw(about))

    return lambda **given: list(pictures(**given))


def test_the_captions_are_all_300():
    assert len(CAPTIONS) == 300
    assert CAPTIONS["a small red heart in the centre"] == Attributes(
        "red", "heart", "small", "in the centre"
    )


def test_right_pictures():
    found = matching(artist(lambda about: about))
    assert found == {
        "colour": 1, "shape": 1, "size": 1, "position": 1, "all": 1, "images": 300
    }  # fmt: skip


def test_each_share_counts_its_own_mistakes():
    colours = list(COLOURS)

    def wrong(about):
        if about.colour == "red":
            return None
        if about.colour == "green":
            return about._replace(shape="heart")
        if about.colour == "blue":
            return about._replace(colour=colours[-1])
        return about._replace(size="small") if about.colour == "yellow" else about

    found = matching(artist(wrong))
    assert found["colour"] == pytest.approx(4 / 6)
    assert found["shape"] == pytest.approx(5 / 6 - 4 / 5 / 6)
    assert found["size"] == pytest.approx(5 / 6 - 1 / 2 / 6)
    assert found["position"] == pytest.approx(5 / 6)
    assert found["all"] == pytest.approx((2 + 1 / 5 + 1 / 2) / 6)


def test_captions_of_ones_own():
    some = ["a large blue star at the top left", "a small red heart in the centre"]
    found = matching(artist(lambda a: a._replace(position="in the centre")), some)
    assert (found["position"], found["all"], found["images"]) == (0.5, 0.5, 2)
    with pytest.raises(ValueError, match="captions must be like 'a small red circle.*, got 'a cat"):
        matching(artist(lambda a: a), ["a cat"])
