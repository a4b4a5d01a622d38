import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smalti.data.source import class_labels, digest, open_source, split


class Keys:
    def __init__(self, keys):
        self.keys = keys

    def __len__(self):
        return len(self.keys)

    def key(self, i):
        return self.keys[i]


keys = st.lists(st.text("abc#", min_size=1, max_size=4), max_size=30)


@given(keys, st.floats(0, 0.99), st.randoms())
def test_split_is_a_partition_by_group_whatever_the_order(given_keys, holdout, random):
    train, held = split(Keys(given_keys), holdout)
    assert sorted(train + held) == list(range(len(given_keys)))
    assert train == sorted(train) and held == sorted(held)
    group = [k.partition("#")[0] for k in given_keys]
    assert not {group[i] for i in train} & {group[i] for i in held}
    shuffled = list(given_keys)
    random.shuffle(shuffled)
    _, again = split(Keys(shuffled), holdout)
    assert sorted(shuffled[i] for i in again) == sorted(given_keys[i] for i in held)


@pytest.mark.parametrize(
    "n, holdout, held", [(100, 0.1, 10), (100, 0, 0), (100, 0.001, 1), (1, 0.5, 0), (2, 0.9, 1)]
)
def test_split_sizes(n, holdout, held):
    train, out = split(Keys([f"k{i}" for i in range(n)]), holdout)
    assert (len(train), len(out)) == (n - held, held)


def test_split_is_fixed_for_ever():
    # sha256 of "d" begins with 18ac and that of "f" with 252f, the two smallest of the eight
    assert split(Keys(list("abcdefgh")), 0.25)[1] == [3, 5]


@pytest.mark.parametrize("holdout", [-0.1, 1, 2])
def test_split_rejects(holdout):
    with pytest.raises(ValueError, match="holdout must be in"):
        split(Keys(["a"]), holdout)


def test_more_data_moves_few_examples():
    few, more = [f"k{i}" for i in range(200)], [f"k{i}" for i in range(220)]
    held_few = {few[i] for i in split(Keys(few), 0.1)[1]}
    held_more = {more[i] for i in split(Keys(more), 0.1)[1]}
    assert len(held_few - held_more) <= 5


def test_class_labels():
    labels, classes = class_labels(["dog", "cat", None, "dog"], "x")
    assert labels.tolist() == [1, 0, -1, 1] and classes == ["cat", "dog"]
    labels, classes = class_labels([2, None, 0], "x")
    assert labels.tolist() == [2, -1, 0] and classes == ["0", "1", "2"]
    assert class_labels([None, None], "x")[1] == []
    assert class_labels([np.int64(1)], "x")[0].dtype == np.int64
    for bad in ([1, "a"], [1.5], [True], [-2]):
        with pytest.raises(ValueError, match="x: labels must be"):
            class_labels(bad, "x")


@pytest.mark.parametrize("text", ["", "cats", "zip:a", "Folder:a"])
def test_unknown_scheme_lists_the_allowed(text):
    with pytest.raises(ValueError, match="unknown data source.*emoji.*shapes.*folder:PATH.*hub"):
        open_source(text)


@pytest.mark.parametrize("text", ["folder", "folder:", "parquet:", "hub:"])
def test_a_scheme_without_a_name(text):
    with pytest.raises(ValueError, match="names nothing"):
        open_source(text)


def test_digest_tells_rows_apart():
    assert len(digest([])) == 16
    assert digest([["a", 1]]) != digest([["a", 2]])
    assert digest(["a", "b"]) != digest(["ab"])
