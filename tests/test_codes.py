import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from smalti.codes import Cond, TokenSpec

grids = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=5)


@given(grids, st.integers(2, 99), st.integers(0, 3), st.integers(0, 3), st.integers(0, 4))
def test_shape_and_empty_agree(sizes, vocab, depth, channels, batch):
    spec = TokenSpec(tuple(sizes), vocab, depth, channels)
    assert spec.positions == sum(h * w for h, w in sizes)
    empty = spec.empty(batch)
    assert tuple(empty.shape) == spec.shape(batch) == (batch, spec.positions, *spec.trailing)
    assert empty.dtype == torch.int64 and not empty.any()
    per_position = empty[:1, :1].numel() if batch else max(depth, 1) * max(channels, 1)
    assert spec.bits == pytest.approx(math.log2(vocab) * per_position)


def test_systems():
    raster = TokenSpec(((16, 16),), 16384)
    assert (raster.positions, raster.trailing, raster.bits) == (256, (), 14)
    residual = TokenSpec(((8, 8),), 16384, depth=4)
    assert (residual.shape(2), residual.bits) == ((2, 64, 4), 56)
    pyramid = TokenSpec(((1, 1), (2, 2), (3, 3)), 4096)
    assert pyramid.positions == 14
    bits = TokenSpec(((4, 4),), vocab=2, channels=18)
    assert (bits.shape(1), bits.bits, bits.discrete) == ((1, 16, 18), 18, True)
    latent = TokenSpec(((1, 32),), channels=16)
    assert latent.bits == math.inf and not latent.discrete
    assert latent.empty(2).dtype == torch.float32 and latent.shape(2) == (2, 32, 16)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (((), 4), "grids must be pairs of positive integers, got ()"),
        ((((2, 0),), 4), "got ((2, 0),)"),
        ((((2, 2, 2),), 4), "got ((2, 2, 2),)"),
        ((((2, 2),),), "needs a vocab"),
    ],
)
def test_bad_specs(values, message):
    with pytest.raises(ValueError) as error:
        TokenSpec(*values)
    assert message in str(error.value)


def text(batch: int, fill: float = 1.0) -> Cond:
    mask = torch.ones(batch, 3, dtype=torch.bool)
    return Cond(text=torch.full((batch, 3, 2), fill), text_mask=mask)


def test_batch_is_that_of_any_field():
    assert Cond(labels=torch.zeros(3).long()).batch == 3
    assert text(2).batch == 2
    assert Cond(drop=torch.ones(4, dtype=torch.bool)).batch == 4
    for name in ("batch", "device"):
        with pytest.raises(ValueError, match="without labels, text, map or drop has no"):
            getattr(Cond(), name)


def test_dropped_rows_add_up_and_null_drops_all():
    cond = Cond(labels=torch.tensor([1, 2, 3]))
    first = cond.dropped(torch.tensor([True, False, False]))
    assert cond.drop is None and first.drop.tolist() == [True, False, False]
    both = first.dropped(torch.tensor([False, False, True]))
    assert both.drop.tolist() == [True, False, True]
    assert first.null().drop.tolist() == [True, True, True]
    assert torch.equal(both.labels, cond.labels)


def test_cat_fills_in_what_is_not_dropped():
    a = Cond(labels=torch.tensor([1, 2]))
    joined = Cond.cat([a, a.null(), Cond(labels=torch.tensor([9]))])
    assert joined.labels.tolist() == [1, 2, 1, 2, 9]
    assert joined.drop.tolist() == [False, False, True, True, False]
    assert joined.text is None and joined.text_mask is None


def test_cat_of_texts():
    joined = Cond.cat([text(2), text(1, 5.0)])
    assert joined.text[:, 0, 0].tolist() == [1, 1, 5]
    assert joined.text_mask.shape == (3, 3) and joined.labels is None


def test_cat_of_different_kinds_is_refused():
    with pytest.raises(ValueError, match="only some have labels, text or a map"):
        Cond.cat([text(1), Cond(labels=torch.tensor([1]))])


@given(st.lists(st.integers(0, 4), min_size=1, max_size=6))
def test_rows_are_taken_from_every_field(index):
    cond = Cond(
        labels=torch.arange(5),
        text=torch.arange(5.0).view(5, 1, 1).expand(5, 3, 2),
        text_mask=torch.arange(5)[:, None] > torch.arange(3),
        drop=torch.tensor([True, False, True, False, True]),
    )
    rows = cond.rows(torch.tensor(index))
    assert rows.labels.tolist() == index
    assert rows.text[:, 0, 0].tolist() == index
    assert rows.text_mask.sum(1).tolist() == [min(i, 3) for i in index]
    assert rows.drop.tolist() == [i % 2 == 0 for i in index]
    assert cond.rows(slice(1, 3)).labels.tolist() == [1, 2]


def test_to_keeps_missing_fields_missing():
    moved = Cond(labels=torch.tensor([1])).to("meta")
    assert moved.labels.device.type == "meta" and moved.text is None and moved.drop is None
    assert moved.device.type == "meta"


def test_a_text_without_tokens_is_unconditional():
    mask = torch.tensor([[False, True], [False, False]])
    cond = Cond.of_text(torch.ones(2, 2, 3), mask)
    assert cond.drop.tolist() == [False, True]
    assert cond.text_mask.tolist() == [[False, True], [True, True]]
