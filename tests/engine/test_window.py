"""How many slots a pass has: by the share of right guesses, and by what a slot costs."""

import pytest

from smalti.engine.window import MOST, START, Window
from smalti.sampling.parallel import Parallel


def of(mode: str, came: int, seconds=lambda width: 1.0, window: int = 0) -> list[int]:
    """The widths of 30 passes of one row, of each of which so many codes are final."""
    found, left, sizes = Window(Parallel(mode, window), 1000), 1000, []
    for _ in range(30):
        width = found.width(left)
        found.see(width, [min(width, came)], seconds(width))
        sizes.append(width)
    return sizes


def test_the_window_follows_what_was_right():
    assert of("exact", 1)[0] == of("exact", MOST)[0] == START
    assert of("exact", 1)[-1] == 1 and of("exact", MOST)[-1] == MOST
    assert of("exact", 2)[-1] < of("exact", 4)[-1] < of("exact", 8)[-1]


def test_a_window_that_is_asked_for_stays():
    assert set(of("exact", 1, window=5)) == set(of("speculative", 1, window=5)) == {5}
    assert set(of("speculative", 1)) == {START}


@pytest.mark.parametrize("price", [0.0, 0.02, 0.2, 1.0])
def test_auto_draws_in_turn_where_a_slot_costs_too_much(price):
    sizes = of("auto", 2, lambda width: 1 + price * (width - 1))
    assert sizes[:3] == [1, 1, 1] and sizes[3] == START
    assert (sizes[-1] == 1) == (price >= 0.5)


def test_the_last_pass_has_no_more_slots_than_are_left():
    assert Window(Parallel("exact"), 1000).width(3) == Window(Parallel("exact", 9), 3).width(3) == 3
