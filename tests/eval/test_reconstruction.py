"""SSIM and L1 against their formulas written out, and their laws."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from smalti.eval.reconstruction import WINDOWS, l1, ssim, ssim_map

NAMES = ("uniform7", "gauss11", "gauss11_sample")


def pictures(seed: int, h: int, w: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (2, 3, h, w), dtype=torch.uint8, generator=generator)


def slow(x: np.ndarray, y: np.ndarray, name: str) -> float:
    """SSIM of two channels (H, W) in [0, 1], window by window."""
    row = [1.0] * 7 if name == "uniform7" else [math.exp(-(i**2) / 4.5) for i in range(-5, 6)]
    n = len(row)
    weights = np.outer(row, row) / np.outer(row, row).sum()
    unbiased = 1.0 if name == "gauss11" else n * n / (n * n - 1)
    found = []
    for top in range(x.shape[0] - n + 1):
        for left in range(x.shape[1] - n + 1):
            a, b = (v[top : top + n, left : left + n] for v in (x, y))
            ma, mb = (weights * a).sum(), (weights * b).sum()
            va, vb, vab = (
                unbiased * (weights * (p - mp) * (q - mq)).sum()
                for p, q, mp, mq in ((a, a, ma, ma), (b, b, mb, mb), (a, b, ma, mb))
            )
            similar = (2 * ma * mb + 1e-4) * (2 * vab + 9e-4)
            found.append(similar / ((ma**2 + mb**2 + 1e-4) * (va + vb + 9e-4)))
    return float(np.mean(found))


@pytest.mark.parametrize("name", NAMES)
def test_ssim_equals_the_formula(name):
    x = pictures(0, 13, 12)
    y = (x.float() * 0.7 + pictures(1, 13, 12) * 0.3).byte()
    found = ssim(x, y, name)
    assert found.dtype == torch.float64 and 0.1 < found.min() and found.max() < 0.95
    for i in range(2):
        pairs = zip(x[i].numpy() / 255, y[i].numpy() / 255, strict=True)
        assert found[i].item() == pytest.approx(np.mean([slow(a, b, name) for a, b in pairs]))


@given(h=st.integers(11, 20), w=st.integers(11, 20), seed=st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_laws_of_ssim_and_l1(h, w, seed):
    x, y = pictures(seed, h, w), pictures(seed + 1, h, w)
    for name in NAMES:
        similar = ssim(x, y, name)
        assert torch.allclose(ssim(x, x, name), torch.ones(2).double())
        assert torch.allclose(similar, ssim(y, x, name)) and similar.abs().max() <= 1
        assert torch.allclose(similar, ssim(x.flip(3), y.flip(3), name))
        whole = ssim_map(x / 255, y / 255, name, span=1.0)
        size = len(WINDOWS[name].weights) - 1
        assert whole.shape == (2, 3, h - size, w - size)
        assert torch.allclose(whole.double().mean((1, 2, 3)), similar, atol=1e-4)
    assert torch.equal(l1(x, y), l1(y, x)) and l1(x, x).tolist() == [0.0, 0.0]
    assert torch.allclose(l1(x, y), (x.double() - y.double()).abs().mean((1, 2, 3)) / 255)


def test_windows_weigh_one_and_must_fit():
    for window in WINDOWS.values():
        assert sum(window.weights) == pytest.approx(1)
        assert window.weights == pytest.approx(window.weights[::-1])
    with pytest.raises(ValueError, match="images of 11 x 11 pixels or more, got 10 x 30"):
        ssim(pictures(0, 10, 30), pictures(1, 10, 30), "gauss11")
