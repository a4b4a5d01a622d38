import threading
import time

import pytest
import torch

from smalti.data.loader import Images, ahead, prefetch
from smalti.data.transforms import Transform, shifted

CROPS = ["center", "random", "ten"]


def same(a, b):
    return all(torch.equal(a[k], b[k]) for k in ("images", "labels"))


@pytest.mark.parametrize("crop", CROPS)
def test_batches_do_not_depend_on_history_cache_or_ranks(pictures, crop):
    transform = Transform(12, crop, flip=True)
    ahead = Images(pictures(7), range(7), transform, batch=4, seed=3)
    steps = [ahead.batch(s) for s in range(5)]
    assert steps[0]["images"].shape == (4, 3, 12, 12)
    assert steps[0]["images"].dtype == torch.uint8 and steps[0]["labels"].dtype == torch.int64
    for budget in (1 << 20, 3000, 0):
        fresh = Images(pictures(7), range(7), transform, 4, seed=3, cache_bytes=budget)
        assert all(same(fresh.batch(s), steps[s]) for s in (4, 1, 0, 4))
    ranks = [Images(pictures(7), range(7), transform, 4, 3, r, 2).batch(4) for r in range(2)]
    joined = {k: torch.cat([r[k] for r in ranks]) for k in ranks[0]}
    assert same(joined, steps[4])
    assert not same(Images(pictures(7), range(7), transform, 4, seed=4).batch(0), steps[0])


@pytest.mark.parametrize("crop", CROPS)
def test_the_next_good_picture_stands_for_a_broken_one(pictures, crop):
    transform = Transform(12, crop, flip=True)
    broken = {0, 3, 4, 8}
    ahead = Images(pictures(9, broken=broken), range(9), transform, batch=4, seed=3)
    steps = [ahead.batch(s) for s in range(6)]
    assert ahead.source.skipped.keys() == {"p0", "p3", "p4", "p8"}
    for budget in (1 << 20, 0):  # whatever was asked for before and is kept
        source = pictures(9, broken=broken)
        fresh = Images(source, range(9), transform, 4, seed=3, cache_bytes=budget)
        assert all(same(fresh.batch(s), steps[s]) for s in (5, 1, 0, 5))
    ((batch),) = Images(pictures(9, broken=broken), range(9), transform, 4).evaluation(9)
    whole = Images(pictures(9), [1, 1, 2, 5, 5, 5, 6, 7, 1], transform, 4)
    assert same(batch, next(whole.evaluation(9)))


def test_a_broken_picture_is_never_replaced_from_outside_the_chosen_ones(pictures):
    images = Images(pictures(6, broken={1}), [1, 4], Transform(12), batch=2)
    (batch,) = images.evaluation(2)
    assert batch["labels"].tolist() == [1, 1]  # of 4 both times, not of 2
    assert torch.equal(batch["images"][0], batch["images"][1])


def test_nothing_left_is_an_error_that_counts(pictures):
    images = Images(pictures(8, broken=range(7)), range(7), Transform(12), batch=2)
    message = (
        r"pictures: nothing is left to use; skipped 7 .*: p0, p1, p2, p3, p4 and 2 more "
        r"\(the first: cannot decode image p0: it is broken\)"
    )
    with pytest.raises(ValueError, match=message):
        images.batch(0)


def test_labels_belong_to_their_images(pictures):
    source = pictures(9)
    chosen = [8, 1, 3, 4]
    images = Images(source, chosen, Transform(12), batch=4)
    batch = images.batch(0)
    for image, label in zip(batch["images"], batch["labels"], strict=True):
        owner = [i for i in chosen if (Transform(12)(source[i].image, None) == image.numpy()).all()]
        assert [source.label(i) for i in owner] == [int(label)]
    assert len(images) == 4


def test_flips_change_from_epoch_to_epoch(pictures):
    plain = Images(pictures(50), range(50), Transform(12), batch=50)
    flips = Images(pictures(50), range(50), Transform(12, flip=True), batch=50)
    rates = []
    for step in range(2):
        a, b = plain.batch(step)["images"], flips.batch(step)["images"]
        mirrored = [torch.equal(x.flip(-1), y) for x, y in zip(a, b, strict=True)]
        assert all(m or torch.equal(x, y) for m, x, y in zip(mirrored, a, b, strict=True))
        rates.append(sum(mirrored))
    assert all(12 < r < 38 for r in rates)


@pytest.mark.parametrize("crop", ["center", "random"])
def test_shifts_do_not_depend_on_history_or_ranks(pictures, crop):
    transform = Transform(12, crop, flip=True, shift=3)
    whole = Images(pictures(7), range(7), transform, batch=4, seed=3)
    steps = [whole.batch(s) for s in range(4)]
    fresh = Images(pictures(7), range(7), transform, 4, seed=3, cache_bytes=0)
    assert all(same(fresh.batch(s), steps[s]) for s in (3, 0, 1))
    ranks = [Images(pictures(7), range(7), transform, 4, 3, r, 2).batch(3) for r in range(2)]
    assert same({k: torch.cat([r[k] for r in ranks]) for k in ranks[0]}, steps[3])


def test_shifts_are_all_that_may_be_and_not_of_what_is_measured(pictures):
    plain, moved = (
        Images(pictures(80), range(80), Transform(12, shift=shift), batch=80) for shift in (0, 1)
    )
    assert same(next(plain.evaluation(80)), next(moved.evaluation(80)))
    found = set()
    for a, b in zip(plain.batch(0)["images"], moved.batch(0)["images"], strict=True):
        moves = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1)]
        found |= {m for m in moves if (shifted(a.numpy(), *m) == b.numpy()).all()}
    assert len(found) == 9


@pytest.mark.parametrize("crop", CROPS)
def test_each_picture_is_decoded_once_while_the_budget_lasts(pictures, crop):
    source = pictures(6)
    images = Images(source, range(6), Transform(12, crop), batch=6)
    for step in range(3):
        images.batch(step)
    assert source.decoded == [1] * 6
    poor = pictures(6)
    images = Images(poor, range(6), Transform(12, crop), batch=6, cache_bytes=0)
    for step in range(3):
        images.batch(step)
    assert poor.decoded == [3] * 6


def test_changing_a_batch_leaves_the_cache_alone(pictures):
    images = Images(pictures(6), range(6), Transform(12, flip=True), batch=6)
    first = images.batch(0)
    copy = {k: v.clone() for k, v in first.items()}
    first["images"].zero_()
    first["labels"].zero_()
    assert same(images.batch(0), copy)


def test_more_items_than_the_dataset_has(pictures):
    batch = Images(pictures(3), range(3), Transform(12), batch=8).batch(1)
    assert batch["images"].shape == (8, 3, 12, 12)


@pytest.mark.parametrize("crop", CROPS)
def test_evaluation_goes_once_through_all(pictures, crop):
    source, transform = pictures(7), Transform(12, crop, flip=True)
    images = Images(source, [6, 0, 2, 5, 4], transform, batch=2)
    batches = list(images.evaluation(2))
    assert [len(b["labels"]) for b in batches] == [2, 2, 1]
    expected = [torch.from_numpy(transform(source[i].image, None)) for i in (6, 0, 2, 5, 4)]
    assert torch.equal(torch.cat([b["images"] for b in batches]), torch.stack(expected))
    assert torch.cat([b["labels"] for b in batches]).tolist() == [0, 0, 2, 2, 1]


def test_bad_arguments(pictures):
    with pytest.raises(ValueError, match="no items"):
        Images(pictures(3), [], Transform(12), 2)
    with pytest.raises(ValueError, match=r"indices must be in \[0, 3\)"):
        Images(pictures(3), [3], Transform(12), 2)
    with pytest.raises(ValueError, match="batch must be at least 1, got 0"):
        next(Images(pictures(3), [0], Transform(12), 2).evaluation(0))


def test_an_undecodable_picture_is_an_error_in_the_batch(tmp_path):
    from smalti.data.folder import Folder

    (tmp_path / "bad.png").write_bytes(b"junk")
    with pytest.raises(ValueError, match="bad.png"):
        Images(Folder(str(tmp_path)), [0], Transform(12), 2).batch(0)


class Counting:
    def __init__(self, fail_at=None):
        self.made, self.fail_at = [], fail_at

    def __len__(self):
        return 1

    def batch(self, step):
        if step == self.fail_at:
            raise OSError(f"step {step} failed")
        self.made.append(step)
        return {"step": torch.tensor(step)}

    def evaluation(self, batch):
        yield {}


def threads():
    return [t for t in threading.enumerate() if t.name.startswith("prefetch")]


def test_prefetch_keeps_order_and_stays_a_few_ahead():
    batches = Counting()
    ahead = prefetch(batches, 3, 20, depth=2)
    assert next(ahead)["step"] == 3
    time.sleep(0.05)
    assert batches.made == [3, 4, 5]
    assert [int(b["step"]) for b in ahead] == list(range(4, 20))
    assert threads() == []


def test_closing_prefetch_ends_its_thread():
    ahead = prefetch(Counting(), 0, 10**9)
    next(ahead)
    assert len(threads()) == 1
    ahead.close()
    assert threads() == []


def test_prefetch_raises_the_error_at_its_step():
    ahead = prefetch(Counting(fail_at=2), 0, 10)
    assert [int(next(ahead)["step"]) for _ in range(2)] == [0, 1]
    with pytest.raises(OSError, match="step 2 failed"):
        next(ahead)
    assert threads() == []


def test_prefetch_of_nothing():
    assert list(prefetch(Counting(), 4, 4)) == []


def test_several_workers_keep_the_order_of_the_items():
    def later(i):
        time.sleep(0.02 if i % 3 == 0 else 0)
        return i * i

    assert list(ahead(later, iter(range(20)), depth=6, workers=3)) == [i * i for i in range(20)]


def test_one_worker_is_called_in_order_and_takes_no_more_than_it_may():
    called, taken = [], []
    items = (taken.append(i) or i for i in range(50))
    for done, i in enumerate(ahead(lambda i: called.append(i) or i, items, depth=4), 1):
        assert i == done - 1 and len(taken) <= done + 4
    assert called == list(range(50))
