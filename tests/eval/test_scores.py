import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from smalti.eval import scores
from smalti.eval.scores import (
    inception_score,
    inception_score_fidelity,
    kernel_distances,
    kid,
    precision_recall,
    radii,
    split_scores,
    squared_distances,
    subset_rows,
)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def slow_score(logits: torch.Tensor) -> float:
    probs = logits.double().softmax(1).numpy()
    marginal = probs.mean(0)
    terms = [sum(p * math.log(p / q) for p, q in zip(row, marginal, strict=True)) for row in probs]
    return math.exp(sum(terms) / len(terms))


def slow_precision_recall(reference, samples, k):
    """Of exact squared distances, one by one."""

    def matrix(u, v):
        return ((u[:, None].double() - v[None].double()) ** 2).sum(-1).numpy()

    first, second = (np.sort(matrix(z, z), 1)[:, k] for z in (reference, samples))
    between = matrix(reference, samples)
    precision = np.mean([(between[:, j] <= first).any() for j in range(len(samples))])
    recall = np.mean([(between[i] <= second).any() for i in range(len(reference))])
    return precision, recall


def slow_kid(samples, reference, subsets, size, seed):
    draw, found = np.random.RandomState(seed), []
    for _ in range(subsets):
        x = samples[draw.choice(len(samples), size, replace=False)].double().numpy()
        y = reference[draw.choice(len(reference), size, replace=False)].double().numpy()
        pairs = [(i, j) for i in range(size) for j in range(size)]
        xx, yy, xy = (
            {(i, j): (a[i] @ b[j] / x.shape[1] + 1) ** 3 for i, j in pairs}
            for a, b in ((x, x), (y, y), (x, y))
        )
        apart = [p for p in pairs if p[0] != p[1]]
        own = sum(xx[p] + yy[p] for p in apart) / len(apart)
        found.append(own - 2 * sum(xy.values()) / len(pairs))
    return np.mean(found), np.std(found)


def test_inception_score_by_hand():
    sure = torch.eye(4).repeat(3, 1) * 50  # four classes, equally often, and certain
    assert inception_score(sure) == pytest.approx(4)
    assert inception_score(torch.zeros(9, 4)) == pytest.approx(1)
    assert inception_score(torch.eye(4)[:1].repeat(5, 1) * 50) == pytest.approx(1)


@given(st.integers(1, 30), st.integers(1, 40), st.integers(0, 99))
def test_inception_score_of_consecutive_blocks(count, split, seed):
    logits = normal(count, 6, seed=seed) * 3
    want = [slow_score(logits[i : i + split]) for i in range(0, count, split)]
    assert inception_score(logits, split) == pytest.approx(np.mean(want), rel=1e-9)


def test_a_set_sorted_by_class_scores_low():
    logits = torch.eye(10).repeat_interleave(10, 0) * 50
    assert inception_score(logits, 10) == pytest.approx(1)
    assert inception_score(logits.view(10, 10, 10).transpose(0, 1).flatten(0, 1), 10) == (
        pytest.approx(10)
    )


def test_probabilities_that_underflow_count_nothing():
    assert inception_score(torch.eye(2).repeat(4, 1) * 2000) == pytest.approx(2)


@given(st.integers(1, 30), st.integers(1, 12), st.booleans(), st.integers(0, 99))
def test_inception_score_of_torch_fidelity(count, splits, shuffle, seed):
    logits = normal(count, 5, seed=seed) * 3
    if splits > count:
        with pytest.raises(ValueError, match=f"in 1 ... {count}, .* got {splits}"):
            inception_score_fidelity(logits, splits)
        return
    rows = np.random.RandomState(7).permutation(count) if shuffle else np.arange(count)
    parts = [rows[i * count // splits : (i + 1) * count // splits] for i in range(splits)]
    want = [slow_score(logits[part]) for part in parts]
    found = inception_score_fidelity(logits, splits, shuffle, 7)
    assert found == pytest.approx((np.mean(want), np.std(want)), rel=1e-9, abs=1e-12)


@given(st.integers(2, 20), st.integers(1, 8), st.integers(0, 99))
def test_a_row_taken_twice_is_two_rows(count, split, seed):
    logits = normal(count, 5, seed=seed) * 3
    rng = np.random.default_rng(seed)
    times = torch.from_numpy(rng.integers(0, 4, (count, 3)))
    found = split_scores(logits.split(split), times.split(split))
    for i, block in enumerate(logits.split(split)):
        for j in range(3):
            often = block.repeat_interleave(times.split(split)[i][:, j], 0)
            want = slow_score(often) if len(often) else math.nan
            assert found[i, j].item() == pytest.approx(want, rel=1e-9, nan_ok=True)


def test_inception_score_refuses():
    with pytest.raises(ValueError, match="split must be at least 1, got 0"):
        inception_score(torch.zeros(4, 2), 0)
    for logits in (torch.zeros(0, 2), torch.full((3, 2), math.nan), torch.full((3, 2), math.inf)):
        with pytest.raises(ValueError, match="logits must be finite numbers, of one image"):
            split_scores([logits])


sets = st.tuples(st.integers(4, 25), st.integers(4, 25), st.integers(1, 6), st.integers(0, 99))


@given(sets, st.integers(1, 3), st.sampled_from([4, 5, 7, 2048]))
def test_precision_and_recall_in_any_blocks(size, k, block):
    n, m, dim, seed = size
    reference, samples = normal(n, dim, seed=seed) + 3, normal(m, dim, seed=seed + 100) * 1.2 + 3
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scores, "BLOCK", block)
        found = precision_recall(reference, samples, k)
        assert found == slow_precision_recall(reference, samples, k)
        assert found == precision_recall(samples, reference, k)[::-1]


def test_precision_and_recall_by_hand():
    reference = torch.tensor([[0.0], [1], [2], [3], [100]])
    assert radii(reference, 1).tolist() == [1, 1, 1, 1, 97**2]
    assert radii(reference, 3).tolist() == [9, 4, 4, 9, 99**2]
    samples = torch.tensor([[4.0], [4.5], [5.0]])  # balls of radius 0.5
    assert precision_recall(reference[:4], samples, 1) == (1 / 3, 0)
    assert precision_recall(reference, samples, 1) == (1, 0)  # one ball is enormous


def test_equal_rows_are_at_distance_0():
    rows = normal(1, 2048).repeat(6, 1) * 7 + 100
    apart = torch.cat([rows, rows + 1e-3])
    assert (squared_distances(rows, rows) == 0).all()
    assert (squared_distances(apart[:1], apart[6:]) > 0).all()
    assert radii(apart).tolist() == [0] * 12
    assert precision_recall(rows, rows) == (1, 1)
    assert precision_recall(rows, rows + 1e-3) == (0, 0)


def test_half_precision():
    reference, samples = normal(40, 16), normal(50, 16, seed=1)
    exact = squared_distances(reference, samples)
    found = squared_distances(reference, samples, half=True)
    assert found.dtype == torch.float32 and torch.equal(found.half().float(), found)
    torch.testing.assert_close(found.double(), exact, rtol=5e-3, atol=5e-2)
    near = precision_recall(reference, samples)
    assert precision_recall(reference, samples, half=True) == pytest.approx(near, abs=3 / 40)
    # one row overflows float16: the whole block is in float32
    samples = torch.cat([samples, torch.full((1, 16), 1e3)])
    found, exact = (
        squared_distances(reference, samples, True),
        squared_distances(reference, samples),
    )
    assert found.isfinite().all() and not torch.equal(found.half().float(), found)
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-4)


def test_blocks_choose_their_precision_one_by_one(monkeypatch):
    rows = torch.cat([normal(8, 4), normal(8, 4, seed=1) * 1e3])
    whole = radii(rows, half=True)
    assert not torch.equal(whole[:8].half().float(), whole[:8])
    monkeypatch.setattr(scores, "HALF_BLOCK", 8)
    small = radii(rows, half=True)
    assert torch.equal(small[:8].half().float(), small[:8])
    torch.testing.assert_close(small, whole, rtol=2e-2, atol=2e-2)


def test_precision_and_recall_refuse():
    with pytest.raises(ValueError, match="the same features, got 4 and 5"):
        precision_recall(torch.zeros(9, 4), torch.zeros(9, 5))
    with pytest.raises(ValueError, match="3 images have no 3 neighbours; at least 4"):
        precision_recall(torch.zeros(9, 4), torch.zeros(3, 4))
    with pytest.raises(ValueError, match="finite"):
        precision_recall(torch.zeros(9, 4), torch.full((9, 4), math.nan))


@given(st.integers(6, 12), st.integers(6, 12), st.integers(2, 6), st.integers(0, 99))
def test_kid(samples, reference, size, seed):
    x, y = normal(samples, 3, seed=seed), normal(reference, 3, seed=seed + 100) + 0.5
    want = slow_kid(x, y, 3, size, seed)
    assert kid(x, y, 3, size, seed) == pytest.approx(want, rel=1e-9, abs=1e-12)


def test_a_sample_taken_twice_makes_no_pair_with_itself():
    x, y = normal(5, 3), normal(6, 3, seed=1)
    taken = [[1, 1, 1, 1, 1], [2, 0, 1, 1, 1], [0, 3, 0, 2, 0]]
    times = torch.tensor(taken).T
    found = kernel_distances(x, y, times, torch.ones(6, 1), 1, 5, 0)
    ((_, other),) = subset_rows(5, 6, 1, 5, 0)
    kernel = [
        ((a.double() @ b.double().T / 3 + 1) ** 3).numpy() for a, b in ((x, x), (y, y), (x, y))
    ]
    for times, value in zip(taken, found[0].tolist(), strict=True):
        rows = [i for i, n in enumerate(times) for _ in range(n)]
        own = np.mean([kernel[0][i, j] for i in rows for j in rows if i != j])
        others = np.mean([kernel[1][i, j] for i in other for j in other if i != j])
        across = np.mean([kernel[2][i, j] for i in rows for j in other])
        assert value == pytest.approx(own + others - 2 * across, rel=1e-9)


def test_kid_is_unbiased():
    x, y = normal(3000, 8), normal(3000, 8, seed=1)
    mean, std = kid(x, y, subsets=50, size=200)
    assert abs(mean) < std and 0 < std < 0.02
    assert kid(x, y + 1, subsets=50, size=200)[0] > 1


def test_kid_refuses():
    with pytest.raises(ValueError, match="must have 2 ... 9 images, as there are, got 1000"):
        kid(torch.zeros(9, 4), torch.zeros(2000, 4))
    with pytest.raises(ValueError, match="the same features, got 4 and 5"):
        kid(torch.zeros(9, 4), torch.zeros(9, 5), size=3)
