"""Tolerances let rounding pass and mistakes not."""

import numpy as np
import pytest
import torch
from torch import nn

import close

EPS = torch.finfo(torch.float32).eps


def test_terms_are_the_inputs_of_every_product():
    module = nn.Sequential(nn.Embedding(9, 5), nn.Linear(5, 7), nn.LayerNorm(7), nn.Conv2d(7, 2, 3))
    assert close.terms_of(module) == 5 + 7 * 9
    assert close.rounding(module) == close.rounding(68) == EPS * 68**0.5


def test_sums_in_other_orders_pass_and_a_wrong_term_does_not():
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(4096, 512, generator=generator)
    exact = rows.double().sum(1).float()
    for order in (rows.sum(1), rows.flip(1).cumsum(1)[:, -1], rows.view(4096, 8, -1).sum(2).sum(1)):
        close.values(order, exact, 512)
    wrong = exact + 1e-3 * rows[:, 0]
    with pytest.raises(AssertionError):
        close.values(wrong, exact, 512)


def test_clamped_values_have_the_size_they_had_before():
    found, wanted = torch.tensor([1.0, 0.5]), torch.tensor([1.0, 0.5 + 50 * EPS])
    close.values(found, wanted, 100, size=6.0)
    with pytest.raises(AssertionError):
        close.values(found, wanted, 100)


def test_losses_and_sums_are_held_to_shares():
    one, terms = torch.tensor(1.0), 10_000  # a rounding of 100 eps
    close.losses(one + 20 * EPS, one, terms)
    with pytest.raises(AssertionError):
        close.losses(one + 40 * EPS, one, terms)
    close.sums(1.0 + 90 * EPS, 1.0, terms)
    with pytest.raises(AssertionError):
        close.sums(1.0 + 110 * EPS, 1.0, terms)


def test_few_pixels_may_be_one_level_off():
    wanted = np.full((3, 32, 32, 3), 100, dtype=np.uint8)
    allowed = close.flips(wanted.size, 4567)
    assert 0 < allowed < wanted.size // 500
    found = wanted.copy()
    found.reshape(-1)[:allowed] += 1
    close.pixels(found, wanted, 4567)
    found.reshape(-1)[allowed] -= 1
    with pytest.raises(AssertionError, match=f"{allowed + 1} of 9216 pixels differ, {allowed} may"):
        close.pixels(found, wanted, 4567)
    found = wanted.copy()
    found[0, 0, 0, 0] = 98
    with pytest.raises(AssertionError, match="by 2 levels"):
        close.pixels(found, wanted, 4567)
