import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import sqrtm

from smalti.eval import frechet
from smalti.eval.frechet import Gaussian, Moments, distance, too_few


def rows_of(count: int, dim: int, seed: int = 0, spread: float = 1.0) -> torch.Tensor:
    """Correlated rows (N, D) float64 with a mean."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(dim, dim, generator=generator, dtype=torch.float64)
    rows = torch.randn(count, dim, generator=generator, dtype=torch.float64) @ mix * spread
    return rows + torch.randn(dim, generator=generator, dtype=torch.float64)


def gaussian(rows: torch.Tensor) -> Gaussian:
    """The plain way, all rows at once."""
    return Gaussian(rows.mean(0), torch.atleast_2d(rows.T.cov()), len(rows))


def by_sqrtm(a: Gaussian, b: Gaussian) -> float:
    """The published formula."""
    root = torch.from_numpy(sqrtm((a.cov @ b.cov).numpy()).real)
    return ((a.mean - b.mean).square().sum() + (a.cov + b.cov - 2 * root).trace()).item()


def by_rows(x: torch.Tensor, y: torch.Tensor) -> float:
    """From the rows themselves: no covariance and no root, so singular sets are exact."""
    (x, mx), (y, my) = ((z - z.mean(0), z.mean(0)) for z in (x, y))
    n, m = len(x) - 1, len(y) - 1
    cross = torch.linalg.svdvals(x @ y.T).sum() / (n * m) ** 0.5
    own = x.square().sum() / n + y.square().sum() / m
    return ((mx - my).square().sum() + own - 2 * cross).item()


def test_by_hand():
    a = Gaussian(torch.tensor([1.0, 2.0]), torch.diag(torch.tensor([4.0, 9.0])))
    b = Gaussian(torch.tensor([1.0, 5.0]), torch.diag(torch.tensor([1.0, 25.0])))
    assert distance(a, b).item() == pytest.approx(9 + 1 + 4)
    assert distance(a, b).dtype == torch.float64 and distance(a, b).shape == ()


sizes = st.tuples(st.integers(2, 40), st.integers(2, 40), st.integers(1, 30), st.integers(0, 99))


@given(sizes)
def test_equals_the_distance_of_rows_at_any_rank(size):
    n, m, dim, seed = size
    x, y = rows_of(n, dim, seed), rows_of(m, dim, seed + 100, 0.5)
    want = by_rows(x, y)
    assert distance(gaussian(x), gaussian(y)).item() == pytest.approx(want, rel=1e-8, abs=1e-8)


@given(sizes)
def test_laws(size):
    n, m, dim, seed = size
    x, y = rows_of(n, dim, seed), rows_of(m, dim, seed + 100)
    found = distance(gaussian(x), gaussian(y)).item()
    same = pytest.approx(found, rel=1e-8, abs=1e-8)
    assert found >= 0
    assert distance(gaussian(y), gaussian(x)).item() == same
    assert distance(gaussian(x), gaussian(x)).item() == pytest.approx(0, abs=1e-8 * dim**2)
    turn = torch.linalg.qr(rows_of(dim, dim, seed + 200))[0]
    assert distance(gaussian(x @ turn + 5), gaussian(y @ turn + 5)).item() == same
    assert distance(gaussian(3 * x), gaussian(3 * y)).item() / 9 == same


def test_equals_sqrtm():
    for dim in (1, 7, 64):
        a, b = gaussian(rows_of(300, dim)), gaussian(rows_of(200, dim, 1))
        assert distance(a, b).item() == pytest.approx(by_sqrtm(a, b), rel=1e-9)


def test_many_pairs_regular_and_singular(monkeypatch):
    counts = [(200, 150), (9, 150), (200, 5), (3, 4), (120, 110)]
    rows = [(rows_of(n, 24, i), rows_of(m, 24, 50 + i)) for i, (n, m) in enumerate(counts)]
    pairs = [(gaussian(x), gaussian(y)) for x, y in rows]
    a, b = (
        Gaussian(torch.stack([g.mean for g in some]), torch.stack([g.cov for g in some]))
        for some in zip(*pairs, strict=True)
    )
    want = torch.tensor([by_rows(x, y) for x, y in rows], dtype=torch.float64)
    torch.testing.assert_close(distance(a, b), want, rtol=1e-8, atol=0)
    monkeypatch.setattr(frechet, "CHUNK", 2 * 24 * 24)
    torch.testing.assert_close(distance(a, b), want, rtol=1e-8, atol=0)


def test_constant_features():
    flat = Gaussian(torch.zeros(3), torch.zeros(3, 3))
    round_ = Gaussian(torch.ones(3), torch.eye(3))
    assert distance(flat, round_).item() == pytest.approx(3 + 3)
    assert distance(flat, flat).item() == 0
    edge = Gaussian(torch.zeros(3), torch.diag(torch.tensor([1.0, 4.0, 0.0])))  # one feature is
    assert distance(edge, round_).item() == pytest.approx(3 + 0 + 1 + 1)


@pytest.mark.parametrize(
    ("mean", "cov", "message"),
    [
        (torch.zeros(3), torch.eye(3), r"one shape, got \(.,\) and \(.,\)"),
        (torch.zeros(2), torch.diag(torch.tensor([-2.0, 1.0])), "no negative eigenvalue, got -2"),
        (torch.zeros(2) * torch.nan, torch.eye(2), "finite"),
        (torch.zeros(2), torch.eye(2) + torch.tensor([[0, torch.inf], [torch.inf, 0]]), "finite"),
    ],
)
def test_refuses(mean, cov, message):
    plain, given = Gaussian(torch.zeros(2), torch.eye(2)), Gaussian(mean, cov)
    for pair in ((plain, given), (given, plain)):
        with pytest.raises(ValueError, match=message):
            distance(*pair)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=8), st.integers(0, 8), st.integers(0, 99))
def test_moments_in_any_batches(batches, cut, seed):
    rows = rows_of(sum(batches) + 2, 5, seed)
    parts = rows.split([*batches, 2])
    first, second = Moments(5), Moments(5)
    for i, part in enumerate(parts):
        (first if i < cut else second).add(part)
    for whole in (Moments.joined((first, second)), Moments.joined((second, first))):
        found, want = whole.gaussian(), gaussian(rows)
        torch.testing.assert_close(found.mean, want.mean, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(found.cov, want.cov, rtol=1e-11, atol=1e-11)
        assert found.count == len(rows)
    assert first.count + second.count == len(rows)


def test_moments_of_packets_and_of_any_dtype():
    rows = torch.randint(0, 256, (50, 3, 4), generator=torch.Generator().manual_seed(0))
    for dtype in (torch.uint8, torch.float32):
        moments = Moments(3, 4)
        for part in rows.to(dtype).split(17):
            moments.add(part)
        found = moments.gaussian()
        for i in range(3):
            want = gaussian(rows[:, i].double())
            torch.testing.assert_close(found.mean[i], want.mean)
            torch.testing.assert_close(found.cov[i], want.cov)


@pytest.mark.parametrize("dim", [frechet.LARGE - 1, frechet.LARGE, frechet.LARGE + 5])
def test_moments_of_many_features(dim):
    rows = torch.stack((rows_of(60, dim), rows_of(60, dim, 1)), 1)  # (N, 2, D)
    parts = Moments(2, dim), Moments(2, dim)
    for part, some in zip(parts, rows.split(35), strict=True):
        for batch in some.split(9):
            part.add(batch)
    found = Moments.joined(parts).gaussian()
    for i in range(2):
        want = gaussian(rows[:, i])
        torch.testing.assert_close(found.mean[i], want.mean, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(found.cov[i], want.cov, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(found.cov, found.cov.mT, rtol=1e-14, atol=1e-12)


def test_a_mean_far_from_zero_costs_no_digits():
    rows = rows_of(400, 6)
    near, far = Moments(6), Moments(6)
    for part in rows.split(50):
        near.add(part)
        far.add(part + 1e6)
    assert distance(near.gaussian(), gaussian(rows)).item() == pytest.approx(0, abs=1e-12)
    torch.testing.assert_close(far.gaussian().cov, gaussian(rows).cov, rtol=1e-7, atol=1e-7)


def test_what_was_given_out_does_not_change():
    moments = Moments(2)
    moments.add(torch.eye(2))
    before = moments.gaussian()
    mean, cov = before.mean.clone(), before.cov.clone()
    moments.add(torch.ones(5, 2))
    assert torch.equal(before.mean, mean) and torch.equal(before.cov, cov)


def test_moments_refuse():
    moments = Moments(4)
    with pytest.raises(ValueError, match=r"shape \(4,\) of those before, got \(5,\)"):
        moments.add(torch.zeros(2, 5))
    for count in (0, 1):
        moments = Moments(7)
        moments.add(torch.zeros(count, 7))
        message = f"{count} images give no covariance of 7 features; at least 2"
        with pytest.raises(ValueError, match=message):
            moments.gaussian()


def test_warning_of_too_few():
    assert too_few(192, 192).startswith("192 images give a singular covariance of 192 features")
    assert too_few(193, 192) == too_few(0, 192) == ""
