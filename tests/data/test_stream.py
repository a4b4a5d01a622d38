import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smalti.data.stream import Stream

small = st.integers(1, 12)


@given(small, small, st.integers(1, 4), st.integers(0, 9), st.integers(0, 5))
def test_ranks_together_hold_the_global_batch(items, share, world, seed, step):
    whole = Stream(items, share * world, seed).at(step)
    parts = [Stream(items, share * world, seed, r, world).at(step) for r in range(world)]
    assert (np.concatenate([p.positions for p in parts]) == whole.positions).all()
    assert (np.concatenate([p.epochs for p in parts]) == whole.epochs).all()


@given(small, small, st.integers(0, 9))
def test_every_epoch_is_a_permutation(items, batch, seed):
    stream = Stream(items, batch, seed)
    steps = [stream.at(s) for s in range(3 * items)]
    order = np.concatenate([s.positions for s in steps])[: 3 * items].reshape(3, items)
    assert (np.sort(order, axis=1) == np.arange(items)).all()
    epochs = np.concatenate([s.epochs for s in steps])[: 3 * items].reshape(3, items)
    assert (epochs == np.arange(3)[:, None]).all()


@given(small, small, small, st.integers(0, 9))
def test_numbers_do_not_depend_on_the_batch_size(items, a, b, seed):
    def all_numbers(batch):
        stream = Stream(items, batch, seed)
        return np.concatenate([stream.uniform(stream.at(s)) for s in range(2 * items)])[: 2 * items]

    assert (all_numbers(a) == all_numbers(b)).all()


def test_epochs_and_seeds_differ():
    stream = Stream(100, 100, seed=1)
    assert (stream.at(0).positions != stream.at(1).positions).any()
    assert (stream.at(0).positions != Stream(100, 100, seed=2).at(0).positions).any()
    numbers = stream.uniform(stream.at(0))
    assert 0.35 < numbers.mean() < 0.65 and (numbers != stream.uniform(stream.at(1))).any()
    others = stream.uniform(stream.at(0), key=2)  # for another use: not the same, not related
    assert abs(np.corrcoef(numbers, others)[0, 1]) < 0.3


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((0, 4), "no items"),
        ((5, 0), "positive multiple of world 1, got 0"),
        ((5, 3, 0, 0, 2), "positive multiple of world 2, got 3"),
        ((5, 4, 0, 2, 2), "rank 2 of world 2"),
        ((5, 4, -1), "seed must be 0 or more, got -1"),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        Stream(*arguments)
    with pytest.raises(ValueError, match="step must be 0 or more"):
        Stream(5, 4).at(-1)
