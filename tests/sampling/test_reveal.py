import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from smalti.sampling.reveal import SCHEDULES, Reveal, least_sure


@pytest.mark.parametrize("schedule", SCHEDULES)
@given(unknown=st.integers(1, 300), share=st.floats(0.0, 1.0))
def test_each_step_reveals_something_and_the_last_one_all(schedule, unknown, share):
    steps = max(1, round(share * unknown))
    left = Reveal(schedule=schedule).left(unknown, steps)
    assert len(left) == steps and left[-1] == 0
    assert all(a > b for a, b in zip([unknown, *left], left, strict=False))


def test_the_published_schedules():
    mar = Reveal().left(256, 64)
    hidden = 256
    for i in range(63):
        share = math.cos(math.pi / 2 * (i + 1) / 64)
        hidden = max(1, min(hidden - 1, math.floor(256 * share)))
        assert mar[i] == hidden
    assert Reveal().left(36, 6) == [34, 31, 25, 18, 9, 0]
    assert Reveal(schedule="meissonic").left(36, 6) == [34, 31, 25, 17, 9, 0]
    assert Reveal(schedule="linear").left(10, 5) == [8, 6, 4, 2, 0]
    assert Reveal(schedule="linear").left(25, 5) == [20, 15, 10, 5, 0]
    assert Reveal(schedule="meissonic-linear").left(25, 5) == [20, 15, 9, 4, 0]
    assert Reveal(schedule="square").left(16, 4) == [15, 12, 7, 0]
    # MaskBit: floor(n * acos(r) / (pi / 2)), in float32: of half of the steps 2 / 3 are hidden
    assert Reveal(schedule="arccos").left(32, 4) == [26, 21, 14, 0]
    assert Reveal(schedule="arccos").left(512, 64)[31] == 341
    assert Reveal(schedule="arccos").left(512, 64)[-2:] == [57, 0]


def test_as_many_steps_as_positions_reveal_one_each():
    assert Reveal(schedule="linear").left(16, 16) == list(range(15, -1, -1))


def test_shares_as_numbers():
    custom = Reveal(schedule="0.9,0.5,0")
    assert custom.count(20) == 3 and custom.left(20, 3) == [18, 10, 0]
    assert Reveal(schedule="0,0,0").left(20, 3) == [2, 1, 0], "each step reveals something"
    assert custom.left(2, 2) == [1, 0], "fewer unknown positions take fewer steps"
    for steps in range(1, 101):  # 7 / 25 * 25 is more than 7
        shares = [1 - (i - 0.1) / steps for i in range(1, steps)] + [0]
        many = Reveal(schedule=",".join(map(str, shares)))
        assert many.left(5 * steps, steps) == list(range(5 * steps - 5, -1, -5))


def test_more_steps_than_unknown_positions_reveal_what_there_is():
    assert Reveal().left(1, 3) == [1, 1, 0]
    assert Reveal().left(0, 3) == [0, 0, 0]


def test_the_noise_on_confidence_falls_to_nothing():
    maskgit, meissonic = Reveal(confidence=4.5), Reveal(schedule="meissonic", confidence=2.0)
    assert [maskgit.weight(i, 3) for i in range(3)] == pytest.approx([3.0, 1.5, 0.0])
    weights = [meissonic.weight(i, 6) for i in range(6)]
    assert weights == pytest.approx([2, 1.6, 1.2, 0.8, 0.4, 0])
    linear = Reveal(schedule="meissonic-linear", confidence=2.0)
    assert [linear.weight(i, 6) for i in range(6)] == weights
    show_o = Reveal(schedule="show-o", confidence=2.0)
    assert [show_o.weight(i, 4) for i in range(4)] == pytest.approx([1.5, 0.75, 0.1875, 0])
    assert Reveal().weight(0, 3) == 0.0


def test_how_many_steps():
    assert Reveal().count(256) == 64 and Reveal().count(16) == 16 and Reveal(8).count(16) == 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"steps": 4, "schedule": "0.5,0"}, "2 shares, one for each step, of which there are 4"),
        (
            {"schedule": "cosin"},
            "cosine, linear, square, arccos, meissonic, meissonic-linear, show-o or shares such as",
        ),
        ({"schedule": "0.5,0.6,0"}, "fall from 1 to 0"),
        ({"schedule": "0.5,0.1"}, "fall from 1 to 0"),
        ({"schedule": "1.5,0"}, "fall from 1 to 0"),
        ({"schedule": "nan,0"}, "fall from 1 to 0"),
        ({"confidence": -1.0}, "confidence must be 0 or more, got -1.0"),
        ({"confidence": math.inf}, "confidence must be 0 or more, got inf"),
    ],
)
def test_bad_settings(arguments, message):
    with pytest.raises(ValueError, match=message):
        Reveal(**arguments)


def test_more_steps_than_positions():
    with pytest.raises(ValueError, match="at most 16, one for each position, got 17"):
        Reveal(17).count(16)


@given(st.integers(0, 11), st.integers(0, 11))
def test_the_least_sure_positions(first, second):
    generator = torch.Generator().manual_seed(first * 12 + second)
    confidence = torch.randn(2, 12, generator=generator)
    hidden = least_sure(confidence, torch.tensor([first, second]))
    for row, count in enumerate((first, second)):
        expected = confidence[row].argsort()[:count]
        assert hidden[row].nonzero().flatten().tolist() == sorted(expected.tolist())
