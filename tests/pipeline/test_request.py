"""Requests: conditions in turn, by the number of the image and nothing else."""

import typing

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from smalti.config import settings_of
from smalti.engine.causal import Known
from smalti.pipeline.request import Drawing, prompted
from smalti.pipeline.sampling import Sampling, Settings

few = st.integers(1, 9)


def drawing(count):
    return Drawing([{"class": i} for i in range(count)], 3, Sampling())


@given(few, few, st.integers(0, 9), few)
def test_batches_change_nothing(count, n, first, batch):
    cut = drawing(count).parts(n, first, batch)
    assert [len(p.asked) <= batch for p in cut] == [True] * len(cut)
    assert [a["class"] for p in cut for a in p.asked] == [(first + i) % count for i in range(n)]
    starts = [sum(len(p.asked) for p in cut[:i]) for i in range(len(cut))]
    assert [p.offset for p in cut] == starts
    assert [p.first for p in cut] == [first + s for s in starts]
    (whole,) = drawing(count).parts(n, first, None)
    assert whole.asked == [a for p in cut for a in p.asked]
    assert {(p.seed, p.sampling) for p in cut} == {(3, Sampling())}


def test_one_of_each_by_default_and_known_rows_go_with_their_images():
    cut = drawing(5).parts(None, 0, 2)
    assert [len(p.asked) for p in cut] == [2, 2, 1]
    known = Known(torch.arange(5)[:, None], torch.ones(5, 1, dtype=torch.bool))
    rows = [p.rows(known) for p in cut]
    assert [r.codes.flatten().tolist() for r in rows] == [[0, 1], [2, 3], [4]]
    assert [len(r.mask) for r in rows] == [2, 2, 1] and cut[0].rows(None) is None


@pytest.mark.parametrize(
    ("text", "negative", "wanted"),
    [
        ("a", None, [{"text": "a"}]),
        (("a", "b"), None, [{"text": "a"}, {"text": "b"}]),
        (["a", "b"], "c", [{"text": "a", "negative": "c"}, {"text": "b", "negative": "c"}]),
        (["a", "b"], ["c", "d"], [{"text": "a", "negative": "c"}, {"text": "b", "negative": "d"}]),
        ("a", ["c"], [{"text": "a", "negative": "c"}]),
    ],
)
def test_prompts_with_negative_ones(text, negative, wanted):
    assert prompted(text, negative) == wanted


def test_calls_name_every_setting_of_drawing_with_its_type():
    wanted = {name: setting.hint for name, setting in settings_of(Sampling).items()}
    assert typing.get_type_hints(Settings) == wanted
