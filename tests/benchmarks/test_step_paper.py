"""What an operator costs: its calls and bytes, forward and backward, views for nothing."""

import itertools
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(str(ROOT / "benchmarks"))
    import step_paper


def test_operators_are_counted_forward_and_backward():
    x, w = torch.randn(8, 4), torch.randn(4, 4, requires_grad=True)
    ticks = itertools.count()
    with step_paper.Operators(lambda: float(next(ticks))) as mode:
        (x @ w.t()).sin().sum().backward()
    costs = mode.costs
    assert costs["mm"].calls == 2, "forward, and for the weight"
    assert costs["mm"].seconds == 2
    assert costs["mm"].bytes == 2 * 4 * (8 * 4 + 4 * 4 + 8 * 4)
    assert costs["t"].calls > 0 and costs["t"].bytes == 0, "a view reads nothing"
    assert costs["sin"].bytes == 4 * 2 * 8 * 4


def test_products_have_one_limit_and_the_rest_their_bytes(monkeypatch):
    monkeypatch.setattr(step_paper, "copying", lambda: 1e6)
    monkeypatch.setattr(step_paper.rates, "product_rate", lambda device: 1e9)
    cost = step_paper.Cost
    costs = {"add": cost(2, 1.0, 4000), "mm": cost(2, 3.0, 10), "addmm": cost(2, 2.0, 10)}
    rows = step_paper.lines(costs, 2, 3.0, 5e8)
    assert [row["case"] for row in rows] == ["mm", "addmm", "add"]
    assert [row["limit_ms"] for row in rows] == [500, 0, 2]
    assert [row["share"] for row in rows] == [0.5, pytest.approx(1 / 3), pytest.approx(1 / 6)]
