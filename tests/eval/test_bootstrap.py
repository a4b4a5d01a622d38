import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smalti.eval.bootstrap import (
    BLOCKS,
    around,
    bootstrap,
    deal,
    from_blocks,
    of_blocks,
    of_means,
    resamples,
)


@given(st.integers(20, 300), st.floats(0.1, 10))
def test_the_interval_of_a_mean_is_that_of_the_normal_distribution(count, deviation):
    values = np.random.default_rng(count).normal(3, deviation, count)
    low, high = of_means(values, 400, 0)
    half = 1.96 * values.std() / count**0.5
    assert low < values.mean() < high
    assert (high - low) / 2 == pytest.approx(half, rel=0.25)


def test_a_bias_of_resampling_moves_no_interval():
    """The largest value of a resample is at most that of the whole."""
    values = np.arange(50.0)
    low, high = bootstrap(lambda n: values[n > 0].var(), 50, 200, 0)
    assert low < values.var() < high


def test_no_interval_leaves_what_is_possible():
    hits = np.repeat([True, False], (99, 1))
    low, high = of_means(hits, 100, 0)
    assert 0.9 < low < 0.99 <= high <= 1
    assert of_means(np.ones(9), 50, 0) == (1, 1)
    assert around(1.0, [1.0, 9.0], (0.0, 2.0))[1] == 2


def test_equal_seeds_give_equal_resamples():
    one, two, other = (list(resamples(40, 3, seed)) for seed in (5, 5, 6))
    assert all((x == y).all() for x, y in zip(one, two, strict=True))
    assert any((x != y).any() for x, y in zip(one, other, strict=True))
    assert all(x.sum() == 40 for x in one)


def test_no_interval_where_there_is_none():
    assert bootstrap(lambda n: 1.0, 1, 50, 0) is None
    assert bootstrap(lambda n: 1.0, 9, 0, 0) is None
    assert bootstrap(lambda n: math.nan, 9, 9, 0) is None


@given(st.integers(0, 5000), st.integers(0, 3000), st.integers(0, 3000), st.integers(4, 20))
def test_a_thing_is_in_the_same_block_in_every_call(first, some, more, blocks):
    whole = deal(first, some + more, blocks)
    parts = deal(first, some, blocks), deal(first + some, more, blocks)
    assert (np.concatenate(parts) == whole).all() and len(whole) == some + more
    assert ((whole >= 0) & (whole < blocks)).all()


def test_blocks_are_about_equal_and_leave_no_trace_of_an_order():
    dealt = deal(0, 20_000)
    counts = np.bincount(dealt, minlength=BLOCKS)
    assert counts.min() > 800 and counts.max() < 1200
    for period in (2, 5, 10, 20, 64):
        table = np.zeros((period, BLOCKS))
        np.add.at(table, (np.arange(20_000) % period, dealt), 1)
        expected = 20_000 / period / BLOCKS
        assert ((table - expected) ** 2 / expected).sum() < 2 * table.size


@given(st.integers(0, 30), st.floats(0, 50))
def test_a_bias_that_falls_with_the_number_moves_no_interval_of_blocks(seed, bias):
    """Blocks are unequal, and a distance falls with the number of pictures."""
    rng = np.random.default_rng(seed)
    values, dealt = rng.normal(3, 1, 600), deal(0, 600)
    counts = np.bincount(dealt, minlength=BLOCKS)

    def mean(times):
        taken = times[dealt]
        return float(taken @ values / taken.sum()) + bias / taken.sum()

    def plain(times):
        return float(times[dealt] @ values / times[dealt].sum())

    ones = np.ones(BLOCKS, np.int64)
    low, high = of_blocks(mean(ones), mean, counts.tolist(), 400, 0)
    assert low < mean(ones) < high
    plain = of_blocks(plain(ones), plain, counts.tolist(), 400, 0)
    assert high - low == pytest.approx(plain[1] - plain[0], rel=1e-6)
    assert (high - low) / 2 == pytest.approx(1.96 / 600**0.5, rel=0.6)


def test_no_interval_of_one_block():
    assert of_blocks(1.0, lambda n: 1.0, [9], 50, 0) is None
    assert of_blocks(1.0, lambda n: 1.0, [9, 8], 0, 0) is None
    assert of_blocks(1.0, lambda n: 1.0, [9, 8], 50, 0) == (1, 1)


def test_few_blocks_vary_as_blocks_do():
    """A mean of equal blocks has the variance of a sample, not that of a resample."""
    values = np.array([1.0, 2, 4, 9])
    without = [np.delete(values, i).mean() for i in range(4)]
    low, high = from_blocks(values.mean(), without, [7] * 4, 300, 5)
    plain = of_means(values, 300, 5)
    assert (high - low) / (plain[1] - plain[0]) == pytest.approx((4 / 3) ** 0.5)
