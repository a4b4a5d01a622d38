from smalti import progress


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
