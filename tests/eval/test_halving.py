"""Successive halving by numbers that are known beforehand."""

from typing import Any

import pytest

from smalti.eval.halving import Row, halving


@pytest.mark.parametrize(("better", "kept"), [("lower", [0, 1]), ("higher", [5, 4])])
def test_those_go_on_that_the_metric_likes_better(better, kept):
    tried = [{"a": i} for i in (3, 0, 5, 1, 4, 2)]
    noted, measured = list[int](), list[tuple[int, int]]()

    def score(settings: dict[str, Any], images: int) -> Row:
        measured.append((settings["a"], images))
        return {"value": float(settings["a"]), "images": images}

    plan = [(6, 20), (2, 60), (1, 120)]
    rows = halving(tried, plan, score, better, [], lambda rows: noted.append(len(rows)))
    assert [r["settings"]["a"] for r in rows if r["round"] == 1] == kept
    assert [r["settings"]["a"] for r in rows if r["round"] == 2] == kept[:1]
    assert measured[6:] == [(kept[0], 60), (kept[1], 60), (kept[0], 120)]
    assert noted == list(range(1, 10))
    again = halving(tried, plan, lambda *_: {}, better, rows, lambda rows: None)
    assert again == rows, "what is known is not measured again"
