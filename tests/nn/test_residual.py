"""Dropout by 16 bits a number."""

import pytest
import torch

from smalti.nn.residual import drop, dropped


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.999])
def test_as_many_are_dropped_as_asked_and_the_mean_stays(rate):
    torch.manual_seed(0)
    count = 1_000_003  # that four does not divide
    y = drop(torch.ones(count), rate)
    gone = (y == 0).double().mean().item()
    assert gone == pytest.approx(rate, abs=5 * (rate * (1 - rate) / count) ** 0.5 + 2**-16)
    assert len(y.unique()) == 2
    kept = y.max().item()
    assert kept * (1 - int(rate * 2**16) / 2**16) == pytest.approx(1, rel=1e-6)


def test_places_are_independent():
    """The four numbers that one draw decides, and rows."""
    torch.manual_seed(0)
    gone = (drop(torch.ones(200_000, 8), 0.25) == 0).double()
    together = gone.T @ gone / len(gone)
    expected = torch.full((8, 8), 0.25**2, dtype=torch.float64).fill_diagonal_(0.25)
    torch.testing.assert_close(together, expected, atol=0.005, rtol=0)


def test_the_gradient_goes_where_the_numbers_went():
    torch.manual_seed(0)
    x = torch.randn(5, 7, 3, requires_grad=True)
    y = drop(x, 0.5)
    (grad,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(y, x * grad)
    assert set(grad.unique().tolist()) == {0.0, 2.0}


def test_masks_are_seeded():
    x, made = torch.ones(40), list[torch.Tensor]()
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        made.append(drop(x, 0.5))
    assert torch.equal(made[0], made[1]) and not torch.equal(made[0], made[2])


def test_nothing_is_dropped_without_a_rate_or_in_evaluation():
    x = torch.randn(4)
    assert drop(x, 0.0) is x
    assert drop(x, 0.5, training=False) is x
    assert torch.equal(drop(x, 1.0), torch.zeros(4))


def test_dtype_and_shape_stay():
    for shape in ((0, 3), (3,), (2, 3, 5)):
        y = dropped(torch.ones(shape, dtype=torch.bfloat16), 0.5, 0.0)
        assert y.shape == shape and y.dtype == torch.bfloat16
