"""Finite scalars: codes, levels and gradients, and the levels that cannot be."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from smalti.tokenizers.quantize.fsq import MOST, REACH, FiniteScalar

LEVELS = st.lists(st.integers(2, 9), min_size=1, max_size=5).map(tuple)


def latents(levels: tuple[int, ...], scale: float = 3.0) -> torch.Tensor:
    return scale * torch.randn(2, len(levels), 3, 4, generator=torch.Generator().manual_seed(0))


@given(LEVELS)
def test_codes_are_digits_of_levels_and_every_code_is_its_own(levels):
    quantizer, count = FiniteScalar(levels), math.prod(levels)
    codes = torch.arange(count).view(1, 1, count)
    digits = quantizer.split(codes)
    value, base = torch.zeros_like(codes), 1
    for i, n in enumerate(levels):  # the first channel changes fastest
        value, base = value + base * digits[..., i], base * n
        assert digits[..., i].min() == 0 and digits[..., i].max() == n - 1
    assert torch.equal(value, codes) and torch.equal(quantizer.join(digits), codes)
    vectors = quantizer.decode(codes)
    for i, n in enumerate(levels):
        torch.testing.assert_close(vectors[0, i].unique(), torch.linspace(-1, 1, n))


@given(LEVELS)
def test_codes_are_the_nearest_levels_of_what_is_squashed(levels):
    quantizer, z = FiniteScalar(levels), latents(levels)
    out = quantizer(z)
    assert not out.losses and not list(quantizer.parameters())
    assert torch.equal(out.codes, quantizer.encode(z))
    torch.testing.assert_close(out.latent, quantizer.decode(out.codes))
    for i, n in enumerate(levels):
        half = (n - 1) / 2
        shift = 0.0 if n % 2 else math.atanh(0.5 / (half * (1 + REACH)))
        squashed = (z[:, i].double() + shift).tanh() * (1 + REACH)
        steps = torch.linspace(-1, 1, n, dtype=torch.float64)
        nearest = steps[(squashed[..., None] - steps).abs().argmin(-1)]
        near = (squashed[..., None] - steps).abs().sort(-1).values
        sure = near[..., 1] - near[..., 0] > 1e-6
        torch.testing.assert_close(out.latent[:, i][sure].double(), nearest[sure])


@given(LEVELS)
def test_the_gradient_is_that_of_what_is_squashed(levels):
    quantizer, z = FiniteScalar(levels), latents(levels, 1.0).requires_grad_()
    weights = torch.randn(z.shape, generator=torch.Generator().manual_seed(1))
    (found,) = torch.autograd.grad((quantizer(z).latent * weights).sum(), z)
    shifts = [0.0 if n % 2 else math.atanh(1 / ((n - 1) * (1 + REACH))) for n in levels]
    shifted = z.detach().double() + torch.tensor(shifts)[:, None, None]
    slope = (1 + REACH) * (1 - shifted.tanh().square())
    torch.testing.assert_close(found.double(), weights * slope, rtol=1e-4, atol=1e-5)


def test_a_level_lies_at_zero_and_the_outermost_ones_are_reached():
    for n in (2, 3, 4, 5, 8, 100, MOST):
        quantizer = FiniteScalar((n,))
        assert quantizer.encode(torch.zeros(1, 1, 1, 1)).item() == n // 2
        for z, code in ((-100.0, 0), (100.0, n - 1)):
            assert quantizer.encode(torch.full((1, 1, 1, 1), z)).item() == code


def test_of_two_levels_the_upper_one_begins_far_below_zero():
    """The bit of BAR's tokenizer is 1 above -atanh(0.5 / 0.5005), not above 0."""
    edge = -math.atanh(0.5 / 0.5005)
    z = torch.tensor([edge - 1e-2, edge + 1e-2]).view(2, 1, 1, 1)
    assert FiniteScalar((2,)).encode(z).flatten().tolist() == [0, 1]
    assert edge == pytest.approx(-3.8, abs=1e-3)
    # in float32, as the official code computes it, which is 1.6e-5 less
    assert FiniteScalar((2,)).shift == [pytest.approx(3.8006849, abs=3e-6)]


def test_no_entropy_loss():
    with pytest.raises(ValueError, match="finite scalar quantization has no entropy loss"):
        FiniteScalar((3, 2))(latents((3, 2)), entropy=True)


def test_autocast_computes_in_float32():
    quantizer, z = FiniteScalar((8, 5)), latents((8, 5))
    plain = quantizer(z)
    with torch.autocast("cpu", torch.bfloat16):
        cast = quantizer(z)
        assert torch.equal(quantizer.encode(z), plain.codes)
    assert torch.equal(plain.latent, cast.latent) and cast.latent.dtype == torch.float32


@pytest.mark.parametrize("levels", [(), (1,), (8, 0), (MOST + 1,), (512,) * 7])
def test_bad_levels(levels):
    with pytest.raises(ValueError, match=rf"levels must be one or more integers from 2 to {MOST}"):
        FiniteScalar(levels)
