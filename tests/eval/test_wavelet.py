import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_frechet import by_sqrtm, gaussian

from smalti.eval.wavelet import Wavelets, default_level, fwd, packets


def slow(image: torch.Tensor, path: str) -> torch.Tensor:
    """One packet of an image (C, H, W) by its path, such as "ahd"."""
    for letter in path:
        height, width = (n + n % 2 for n in image.shape[1:])
        rows = [i if i < image.shape[1] else image.shape[1] - 2 for i in range(height)]
        columns = [i if i < image.shape[2] else image.shape[2] - 2 for i in range(width)]
        image = image[:, rows][:, :, columns]
        p, q = image[:, ::2, ::2], image[:, ::2, 1::2]
        r, s = image[:, 1::2, ::2], image[:, 1::2, 1::2]
        signs = {"a": (1, 1, 1, 1), "h": (1, 1, -1, -1), "v": (1, -1, 1, -1), "d": (1, -1, -1, 1)}
        image = sum(sign * x for sign, x in zip(signs[letter], (p, q, r, s), strict=True)) / 2
    return image


def pictures(count: int, size: int = 8, seed: int = 0) -> torch.Tensor:
    """Noise with a gradient: uint8 (N, 3, S, S)."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randint(0, 200, (count, 3, size, size), generator=generator)
    return (noise + torch.arange(size) * (50 // size)).to(torch.uint8)


def test_by_hand():
    block = torch.tensor([[[[1.0, 10.0], [100.0, 1000.0]]]])
    assert packets(block, 1).flatten().tolist() == [555.5, -544.5, -454.5, 445.5]
    assert packets(block, 0).flatten().tolist() == [1, 10, 100, 1000]
    white = torch.full((1, 3, 8, 8), 255, dtype=torch.uint8)
    found = packets(white, 3)
    assert found.shape == (1, 64, 3) and found.dtype == torch.float64
    assert (found[:, 0] == 8).all() and (found[:, 1:] == 0).all()  # each step doubles the mean


shapes = st.tuples(st.integers(1, 21), st.integers(1, 21), st.integers(0, 99))


@given(shapes, st.data())
def test_any_size_and_level(shape, data):
    height, width, seed = shape
    most = min(height, width).bit_length() - 1
    level = data.draw(st.integers(0, min(most, 3)))
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (2, 3, height, width), generator=generator).to(torch.uint8)
    paths = ["".join(path) for path in itertools.product("ahvd", repeat=level)]
    exact = images.double() / 255
    want = torch.stack([torch.stack([slow(x, p).flatten() for p in paths]) for x in exact])
    torch.testing.assert_close(packets(images, level), want, rtol=0, atol=1e-13)
    torch.testing.assert_close(packets(exact, level), want, rtol=0, atol=1e-13)
    assert packets(exact.float(), level).dtype == torch.float32
    if height % 2**level == width % 2**level == 0:  # an orthogonal transform
        energy = packets(exact, level).square().sum()
        torch.testing.assert_close(energy, exact.square().sum(), rtol=1e-12, atol=0)


def test_packets_of_8_bits_are_exact():
    images = torch.randint(0, 256, (2, 3, 64, 64), generator=torch.Generator().manual_seed(0))
    integers = packets(images.to(torch.uint8), 6) * (255 * 2**6)
    assert (integers - integers.round()).abs().max() < 1e-8
    assert torch.equal(integers[:, 0].round().long(), images.sum((2, 3)))


def test_sums_of_many_pixels_are_exact():
    images = torch.randint(200, 256, (1, 3, 512, 512), generator=torch.Generator().manual_seed(0))
    means = packets(images.to(torch.uint8), 9)[:, 0] * (255 * 2**9)
    assert torch.equal(means.round().long(), images.sum((2, 3)))


def test_distance_equals_the_plain_one():
    a, b = pictures(60), pictures(50, seed=1)
    pairs = zip(packets(a, 2).unbind(1), packets(b, 2).unbind(1), strict=True)
    want = [by_sqrtm(gaussian(x), gaussian(y)) for x, y in pairs]
    assert len(want) == 16
    assert fwd(a.split(7), b.split(50), 2) == pytest.approx(sum(want) / 16, rel=1e-9)
    assert fwd(b.split(9), a.split(11), 2) == pytest.approx(sum(want) / 16, rel=1e-9)
    assert fwd([a], a.split(13), 2) == pytest.approx(0, abs=1e-10)


def test_level_0_is_the_distance_of_pixels():
    a, b = pictures(80, 4), pictures(90, 4, seed=1)
    want = by_sqrtm(gaussian(a.flatten(1).double() / 255), gaussian(b.flatten(1).double() / 255))
    assert fwd([a], [b], 0) == pytest.approx(want, rel=1e-9)


def test_wavelets_take_the_level_of_the_size():
    wavelets = Wavelets()
    for part in pictures(20, 32).split(6):
        wavelets.add(part)
    assert wavelets.level == 3 and wavelets.size == (3, 32, 32)
    found = wavelets.gaussian()
    assert found.mean.shape == (64, 48) and found.cov.shape == (64, 48, 48)
    assert found.count == 20
    assert fwd([pictures(9, 32)], [pictures(9, 32, seed=1)]) == pytest.approx(
        fwd([pictures(9, 32)], [pictures(9, 32, seed=1)], 3)
    )


@pytest.mark.parametrize(
    ("size", "level"),
    [
        *((256, 4), (512, 5), (384, 4), (128, 4), (64, 3), (32, 3), (96, 3)),
        *((8, 1), (16, 2), (100, 2), (33, 0), (7, 0), (1, 0), (48, 3)),
    ],
)
def test_default_levels(size, level):
    assert default_level((size, size)) == level
    assert default_level((size, 2 * size)) == default_level((2 * size, size)) == level


def test_refuses():
    with pytest.raises(ValueError, match=r"level must be in 0 ... 3 for images of 8x9, got 4"):
        packets(torch.zeros(1, 3, 8, 9), 4)
    with pytest.raises(ValueError, match="got -1"):
        packets(torch.zeros(1, 3, 8, 8), -1)
    a, b = pictures(5), pictures(5, 16)
    with pytest.raises(ValueError, match=r"size \(3, 8, 8\) of those before, got \(3, 16, 16\)"):
        fwd([a, b], [a])
    with pytest.raises(ValueError, match=r"one size, got \(3, 8, 8\) and \(3, 16, 16\)"):
        fwd([a], [b])
    with pytest.raises(ValueError, match="1 images give no covariance"):
        fwd([a], [a[:1]])
    with pytest.raises(ValueError, match="0 images give no covariance"):
        fwd([], [])
