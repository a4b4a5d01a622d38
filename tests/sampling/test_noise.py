import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from smalti.sampling.noise import Ahead, Noise, SlotNoise, hashed, philox, racing, random_words

KNOWN = [
    # the test vectors that the authors of Philox publish
    ("00000000 00000000 00000000 00000000", "00000000 00000000",
     "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff",
     "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0",
     "d16cfe09 94fdcceb 5001e420 24126ea1"),
]  # fmt: skip
SLOTS = torch.arange(10)


def words(text: str) -> list[torch.Tensor]:
    return [torch.tensor(int(word, 16)) for word in text.split()]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_philox_known_answers(counter, key, expected):
    assert philox(words(counter), words(key)) == words(expected)
    arrays = [[word.view(1).numpy() for word in words(text)] for text in (counter, key)]
    assert philox(arrays[0], arrays[1]) == words(expected)


@given(st.lists(st.integers(0, 2**32 - 1), min_size=6, max_size=6))
def test_a_cpu_has_the_numbers_of_other_devices(first):
    shapes = [(1, 5, 1), (1, 1, 3), (2, 1, 1), (1, 1, 1), (2, 1, 1), (1, 1, 1)]
    given = [
        (torch.arange(math.prod(shape)).view(shape) * 0x10DCD + number) & 0xFFFFFFFF
        for shape, number in zip(shapes, first, strict=True)
    ]
    found, expected = random_words(given[:4], given[4:]), philox(given[:4], given[4:])
    assert all(w.shape == (2, 5, 3) and w.dtype == torch.int64 for w in found)
    assert torch.equal(torch.stack(found), torch.stack(expected))


def test_uniform_numbers_are_the_first_24_bits_of_their_address():
    seed = (7 << 32) + 9
    value = Noise.request(seed, 1, first=5).uniform(torch.tensor([3]), width=6, step=2)[0, 0]
    expected = []
    for element in (0, 2):  # two counters of four words; odd ones belong to normal numbers
        counter = [torch.tensor(n) for n in (3, element, 2, 5)]
        expected += philox(counter, [torch.tensor(9), torch.tensor(7)])
    assert value.tolist() == [int(w >> 8) / 2**24 for w in expected[:6]]


@pytest.mark.parametrize("draw", [Noise.uniform, Noise.normal])
def test_a_row_is_the_same_in_any_batch(draw):
    together = draw(Noise.request(11, 5), SLOTS, 3)
    assert together.shape == (5, 10, 3) and together.dtype == torch.float32
    for i in range(5):
        assert torch.equal(draw(Noise.request(11, 1, first=i), SLOTS, 3), together[i : i + 1])
    mixed = Noise(torch.tensor([4, 11]), torch.tensor([0, 2]))
    assert torch.equal(draw(mixed, SLOTS, 3)[1], together[2])


@pytest.mark.parametrize("draw", [Noise.uniform, Noise.normal])
def test_a_slot_is_the_same_in_any_order(draw):
    noise, order = Noise.request(11, 2), torch.tensor([7, 0, 3])
    assert torch.equal(draw(noise, order), draw(noise, SLOTS)[:, order])


@pytest.mark.parametrize("draw", [Noise.uniform, Noise.normal])
@given(st.integers(1, 9), st.integers(1, 9))
def test_a_narrower_width_is_a_prefix(draw, a, b):
    noise = Noise.request(3, 2)
    narrow, wide = sorted((a, b))
    assert torch.equal(draw(noise, SLOTS, narrow), draw(noise, SLOTS, wide)[..., :narrow])
    assert torch.equal(draw(noise, SLOTS), draw(noise, SLOTS, wide)[..., 0])


def test_every_address_has_its_own_number():
    numbers = [
        Noise.request(seed, 4, first=first).uniform(SLOTS, 5, step).flatten()
        for seed in (0, 1, -1, 1 << 32, (1 << 63) - 1, -(1 << 63))
        for first in (0, 4)
        for step in (0, 1)
    ]
    numbers = torch.cat(numbers)  # 4800 numbers of 2**24: about 0.7 pairs are equal by chance
    assert numbers.numel() - numbers.unique().numel() <= 4


def test_negative_seeds_are_64_bit_keys():
    value = Noise.request(-1, 1).uniform(torch.tensor([0]))
    zero, ones = torch.tensor(0), torch.tensor(0xFFFFFFFF)
    assert value.item() == int(philox([zero] * 4, [ones, ones])[0] >> 8) / 2**24


def test_moments():
    noise, slots = Noise.request(0, 2), torch.arange(1 << 15)
    uniform, normal = noise.uniform(slots, 4).double(), noise.normal(slots, 4).double()
    count = uniform.numel()  # 2**18: five standard errors are about 0.01
    assert 0 <= uniform.min() < 1e-4 and 1 - 1e-4 < uniform.max() < 1
    assert torch.equal(uniform * 2**24, (uniform * 2**24).round())
    assert uniform.mean().item() == pytest.approx(0.5, abs=5 * (1 / 12 / count) ** 0.5)
    assert uniform.var().item() == pytest.approx(1 / 12, abs=1e-3)
    assert normal.mean().item() == pytest.approx(0, abs=5 / count**0.5)
    assert normal.var().item() == pytest.approx(1, abs=0.015)
    assert (normal**4).mean().item() == pytest.approx(3, abs=0.1)
    for numbers in (uniform, normal):
        correlations = torch.corrcoef(numbers.flatten(0, 1).T)
        torch.testing.assert_close(correlations, torch.eye(4).double(), rtol=0, atol=0.02)
        rows = torch.corrcoef(numbers.flatten(1))
        assert rows[0, 1].abs() < 0.02


def test_uniform_and_normal_numbers_share_no_words():
    noise = Noise.request(0, 1)
    uniform = noise.uniform(torch.arange(1000), 4)[0]
    normal = noise.normal(torch.arange(1000), 4)[0]
    joint = torch.corrcoef(torch.cat((uniform, normal.abs()), 1).T)[:4, 4:]
    assert joint.abs().max() < 0.15


def test_bad_values():
    with pytest.raises(ValueError, match="must fit in 64 bits, got 9223372036854775808"):
        Noise.request(1 << 63, 1)
    with pytest.raises(ValueError, match=r"must both be \(B,\), got \(2,\), \(3,\)"):
        Noise(torch.zeros(2).long(), torch.zeros(3).long())
    with pytest.raises(ValueError, match=r"\(1, 2\)"):
        Noise(torch.zeros(1, 2).long(), torch.zeros(1, 2).long())


@pytest.mark.parametrize("draw", [Noise.uniform, Noise.normal])
def test_each_row_may_have_its_own_slots(draw):
    noise, slots = Noise.request(11, 3), torch.tensor([[7, 0], [3, 3], [9, 1]])
    expected = draw(noise, SLOTS, 5)
    found = draw(noise, slots, 5)
    for row, places in enumerate(slots):
        assert torch.equal(found[row], expected[row, places])


def test_slots_that_are_drawn_again_get_other_numbers_but_the_same_normal_ones():
    noise = Noise.request(11, 2)
    turns = [SlotNoise(noise, SLOTS, s) for s in range(3)]
    gumbels = [turn.gumbel(4) for turn in turns]
    assert not (gumbels[0] == gumbels[1]).any() and not (gumbels[1] == gumbels[2]).any()
    assert torch.equal(turns[0].normal(6), turns[2].normal(6))
    assert torch.equal(turns[0].normal(6), noise.normal(SLOTS, 6))


@pytest.mark.parametrize("most", [1 << 24, 5])
def test_what_a_loop_computes_ahead_is_what_each_step_would(most, monkeypatch):
    """Of any width, slots of all rows or of each; where too many are to be kept, of each step."""
    monkeypatch.setattr(Ahead, "MOST", most)
    monkeypatch.setattr(Ahead, "CHUNK", 12)
    noise = Noise.request(3, 2)
    for each in (torch.tensor([0]), torch.tensor([1, 2, 3]), torch.tensor([[4, 5], [2, 3]])):
        reach, ahead = int(each.max()) + 1, Ahead(noise, 9)
        given = SlotNoise(noise, each, ahead=ahead, reach=reach)
        assert torch.equal(given.uniform(), noise.uniform(each))
        for width in (1, 2, 5, 6, 2):
            assert torch.equal(given.uniform(width), noise.uniform(each, width))
    assert torch.equal(ahead.uniform(torch.tensor([8]), 9, 6), noise.uniform(torch.tensor([8]), 6))


def test_parts_of_a_slot_race_with_numbers_of_their_own():
    noise, logits = Noise.request(3, 2), torch.zeros(2, 3, 50)
    slots = SlotNoise(noise, torch.arange(3), by=racing)
    found = [slots.draw(logits, part, 2, part * 50)[0] for part in range(2)]
    assert not torch.equal(*found)
    assert not torch.equal(slots.draw(logits)[0], slots._replace(by=None).draw(logits)[0])


def test_hashed_numbers_by_plain_arithmetic():
    keys, word = torch.tensor([[-5, 7], [2**31 - 1, -(2**31)]], dtype=torch.int32), 2**32 - 1
    for (add, flip), numbers in zip(keys.tolist(), hashed(keys, 9, first=3), strict=True):
        for element, number in enumerate(numbers.tolist(), 3):
            x = (element * 0x9E3779B9 + add) % 2**32 ^ flip & word
            x = (x ^ x >> 16) * 0x7FEB352D & word
            x = (x ^ x >> 15) * 0x846CA68B & word
            assert number == (x >> 8) / 2**24


def test_hashed_numbers_are_uniform_and_of_no_neighbour():
    """1,048,576 numbers: mean, variance, a chi-square of 64 bins, and correlations with the next
    id, slot and image, each within 4.5 standard deviations."""
    numbers = hashed(Noise.request(3, 16).keys(torch.arange(64)), 1024).double() - 0.5
    count = numbers.numel()
    assert abs(float(numbers.mean())) < 4.5 * (12 * count) ** -0.5
    assert abs(float(numbers.var()) - 1 / 12) < 4.5 * (180 * count) ** -0.5
    bins = ((numbers + 0.5) * 64).long().flatten().bincount(minlength=64)
    chi = float(((bins - count / 64) ** 2).sum() / (count / 64))
    assert abs(chi - 63) < 4.5 * 126**0.5
    for axis in range(3):
        size = numbers.shape[axis] - 1
        pair = numbers.narrow(axis, 0, size) * numbers.narrow(axis, 1, size)
        assert abs(float(pair.mean())) * 12 < 4.5 * pair.numel() ** -0.5
