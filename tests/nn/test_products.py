"""Copies of fewer bits: how far they are from the weight, for few rows and for many."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from smalti.nn.linear import Linear, draw_with, packed
from smalti.nn.products import Halved, Rounded, copied, layouts

ERROR = {"float16": 1e-3, "int8": 0.02, "int4": 0.2}
"""Of a product, over its standard deviation; int4 in groups of 32 has 15 steps for 4 deviations."""
DTYPES = (torch.float32, torch.bfloat16)


def weight(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    torch.manual_seed(0)
    return (torch.randn(128, 256) * torch.logspace(-3, 1, 128)[:, None]).to(dtype)


@pytest.mark.parametrize("rows", (1, 2, 4, 5, 8, 9, 64))
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("weights", ERROR)
def test_products_are_close_whatever_the_rows(weights: str, dtype: torch.dtype, rows: int) -> None:
    w, x = weight(dtype), torch.randn(rows, 256).to(dtype)
    deviation = w.float().norm(dim=1)
    bias = (torch.randn(128) * deviation).to(dtype)
    product = copied(w, weights)
    assert type(product) is (Halved if weights == "float16" else Rounded)
    got, want = product(x, bias), F.linear(x.float(), w.float(), bias.float())
    assert got.dtype == dtype and got.shape == (rows, 128)
    error = ((got.float() - want) / deviation).pow(2).mean().sqrt().item()
    assert error < ERROR[weights] + (0.01 if dtype == torch.bfloat16 else 0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("weights", ("int8", "int4"))
def test_few_rows_and_many_are_of_the_same_numbers(weights: str, dtype: torch.dtype) -> None:
    w, x = weight(dtype), torch.randn(16, 256).to(dtype)
    product = copied(w, weights)
    alone = torch.cat([product(row[None], None) for row in x])
    together, deviation = product(x, None).float(), w.float().norm(dim=1)
    apart = (alone.float() - together).abs()
    assert (apart / deviation).max() < 0.05
    if weights == "int8" or dtype == torch.float32:  # only the last digit of bfloat16 may differ
        assert (apart <= 2**-6 * together.abs() + 1e-4 * deviation).all()


@pytest.mark.parametrize(("weights", "low", "high"), [("int8", -127, 127), ("int4", -8, 7)])
def test_numbers_that_it_can_hold_are_held_exactly(weights: str, low: int, high: int) -> None:
    levels = torch.randint(low, high + 1, (64, 64))
    levels[:, ::32], levels[:, 1::32] = low, high  # so that every scale is 1 / 16
    w, x = levels / 16, torch.randint(-2, 3, (2, 64)).float()
    for given in (x, x.repeat(9, 1)):
        got = copied(w, weights)(given, None)
        torch.testing.assert_close(got, given @ w.t(), rtol=2**-7, atol=2**-7)


def test_a_row_of_zeros_and_odd_widths() -> None:
    w = torch.zeros(64, 64)
    for weights in ERROR:
        assert not copied(w, weights)(torch.randn(2, 64), None).any()
    w, x = torch.randn(40, 50), torch.randn(2, 50)
    for weights in ("int8", "int4"):
        torch.testing.assert_close(copied(w, weights)(x, None), x @ w.t())


def test_a_model_draws_with_what_was_asked_for_and_again_exactly() -> None:
    model, x = nn.Sequential(Linear(64, 64), Linear(64, 64)), torch.randn(2, 64)
    with torch.inference_mode(), packed(model):
        exact = model(x)
    draw_with(model, "int4")
    with torch.inference_mode(), packed(model):
        coarse = model(x)
    draw_with(model, "exact")
    with torch.inference_mode(), packed(model):
        assert torch.equal(model(x), exact) and not torch.allclose(coarse, exact, atol=1e-3)


def test_what_cannot_be_is_refused() -> None:
    model = nn.Sequential(Linear(64, 64))
    with pytest.raises(ValueError, match=r"weights must be one of exact, .*, got 'int2'"):
        draw_with(model, "int2")
    with pytest.raises(ValueError, match="weights int8 are for drawing on a CPU, got device meta"):
        draw_with(model.to("meta"), "int8")
    draw_with(model.to("meta"), "exact")


def test_a_machine_without_the_product_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smalti.nn.products._fbgemm", lambda: False)
    with pytest.raises(ValueError, match="has no product by weights float16"):
        draw_with(nn.Sequential(Linear(64, 64)), "float16")


def test_what_weights_are_multiplied_by_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smalti.nn.products.fast_two_rows", lambda device: True)
    monkeypatch.setattr("smalti.nn.products.fast_halves", lambda device: False)
    for native, fbgemm, word in ((True, True, "order"), (False, True, "16"), (False, False, "32")):
        monkeypatch.setattr("smalti.nn.products._native", lambda dtype, n=native: n)
        monkeypatch.setattr("smalti.nn.products._fbgemm", lambda f=fbgemm: f)
        found = layouts()
        assert "order, but one or two rows by the weights" in found["float32_weights"]
        assert word in found["bfloat16_weights"]
    monkeypatch.setattr("smalti.nn.products.fast_halves", lambda device: True)
    assert "two float16 copies" not in layouts()["float32_weights"], "FBGEMM is missing"
    monkeypatch.setattr("smalti.nn.products._fbgemm", lambda: True)
    assert "two float16 copies" in layouts()["float32_weights"]
    monkeypatch.setattr("smalti.nn.products._onednn", lambda: False)
    assert layouts()["bfloat16_weights"] == "as they are"
