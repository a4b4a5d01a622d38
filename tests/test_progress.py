import io

import pytest
from rich.console import Console
from rich.progress import Progress

from smalti import progress


@pytest.fixture(autouse=True)
def nothing_chosen(monkeypatch):
    """What commands that other tests called without `main` left to be said is not said here."""
    monkeypatch.setattr(progress, "_CHOSEN", [])


def test_lines_say_how_far_it_is_where_there_is_no_terminal(monkeypatch, capsys):
    clock = iter(range(0, 1000, 20))  # an item takes 20 s
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    assert list(progress.track(range(6), "drawing", scale=4)) == list(range(6))
    assert capsys.readouterr().err.splitlines() == [
        "drawing: 8 of 24, about 80 s left",
        "drawing: 16 of 24, about 40 s left",
        "drawing: 24 of 24, about 0 s left",
    ]
    assert list(progress.track(iter("ab"), "of unknown number")) == ["a", "b"]
    assert capsys.readouterr().err == ""


def test_the_last_item_may_hold_fewer_things(monkeypatch, capsys):
    clock = iter(range(0, 4000, 40))  # an item takes 40 s
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    list(progress.track(range(0, 495, 128), "drawing", scale=128, of=495))
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines] == [
        f"drawing: {done} of 495" for done in (128, 256, 384, 495)
    ]


def test_steps_of_one_item_are_told_too(monkeypatch, capsys):
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    progress.within(1, 4)  # nothing is tracked
    for _ in progress.track(range(0, 5, 4), "drawing", scale=4, of=5):
        for step in range(1, 101):
            clock[0] += 1.0
            progress.within(step, 100)
    assert capsys.readouterr().err.splitlines() == [
        "drawing: 1 of 5, step 31 of 100, about 94 s left",
        "drawing: 2 of 5, step 62 of 100, about 63 s left",
        "drawing: 3 of 5, step 93 of 100, about 32 s left",
        "drawing: 4 of 5, step 24 of 100, about 22 s left",
        "drawing: 4 of 5, step 55 of 100, about 15 s left",
        "drawing: 4 of 5, step 86 of 100, about 5 s left",
    ]
    progress.within(1, 4)
    assert capsys.readouterr().err == ""


def test_a_bar_shows_the_steps_of_an_item(monkeypatch):
    clock, file = [0.0], io.StringIO()
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    make = lambda **_: Console(file=file, width=100, force_terminal=True, color_system=None)  # noqa: E731
    monkeypatch.setattr("rich.console.Console", make)
    for _ in progress.track([0], "drawing"):
        for step in range(1, 51):
            clock[0] += 1.0
            progress.within(step, 50)
        progress._TRACKED[-1].bar.refresh()
    assert "step 49 of 50" in file.getvalue() and "0/1" in file.getvalue()


@pytest.mark.parametrize("width", [60, 80, 200])
def test_the_time_left_is_never_cut(width):
    file = io.StringIO()
    console = Console(file=file, width=width, force_terminal=True, color_system=None)
    numbers = "loss 0.01234  psnr 24.761  usage 0.93 (1x1 0.51, 2x2 0.72)  images_per_s 123.4"
    with Progress(*progress.columns(), console=console, auto_refresh=False) as bar:
        task = bar.add_task("tokenizer", total=400_000, completed=1200, numbers=numbers)
        bar.tasks[task].start_time = 0.0
        console.print(bar.make_tasks_table([bar.tasks[task]]))
    lines = [line for line in file.getvalue().splitlines() if "1200/400000" in line]
    for line in lines:
        assert "tokenizer " in line and " left -:--:--" in line
        assert ("loss 0.01234" in line) == (width >= 80)
        assert ("images_per_s 123.4" in line) == (width == 200)
    assert lines
