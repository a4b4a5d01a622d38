"""Counts at scales and depths, entropy, and what other projects call usage and perplexity."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from smalti.codes import TokenSpec
from smalti.eval.codebook import (
    baseline_bits,
    bit_counts,
    bits,
    entropy,
    entropy_1d_tokenizer,
    histogram,
    histograms,
    hits_var,
    margin_var,
    parts,
    perplexity,
    perplexity_taming,
    unigram_bits,
    usage,
    usage_unitok,
    usage_var,
)
from smalti.nn.groups import group_bits, numbered

COUNTS = st.lists(st.integers(0, 50), min_size=1, max_size=20).filter(any).map(torch.tensor)


@given(
    sizes=st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3)), min_size=1, max_size=3),
    depth=st.integers(0, 3),
    seed=st.integers(0, 99),
)
@settings(max_examples=30, deadline=None)
def test_histograms_add_up_to_the_histogram(sizes, depth, seed):
    spec = TokenSpec(tuple(sizes), 5, depth)
    codes = torch.randint(0, 5, spec.shape(4), generator=torch.Generator().manual_seed(seed))
    found = histograms(codes, spec)
    assert found.shape == (len(sizes), max(depth, 1), 5)
    assert torch.equal(found.sum((0, 1)), histogram(codes, 5))
    per_scale = [4 * h * w * max(depth, 1) for h, w in sizes]
    assert found.sum((1, 2)).tolist() == per_scale
    if depth:
        assert torch.equal(found[:, -1].sum(0), histogram(codes[..., -1], 5))
    assert torch.equal(found, histograms(codes[:1], spec) + histograms(codes[1:], spec))


@given(counts=COUNTS)
@settings(max_examples=50, deadline=None)
def test_entropy_and_its_variants(counts):
    nats = -sum(c * math.log(c) for c in (counts.double() / counts.sum()).tolist() if c)
    assert entropy(counts) == pytest.approx(nats, abs=1e-6)
    assert perplexity(counts) == pytest.approx(math.exp(nats), rel=1e-6)
    assert 0 <= entropy(counts) <= math.log(len(counts)) + 1e-9
    assert entropy(counts * 7) == pytest.approx(entropy(counts))
    assert perplexity_taming(counts) == pytest.approx(perplexity(counts), rel=1e-4)
    assert entropy_1d_tokenizer(counts) == pytest.approx(bits(nats), abs=1e-5)
    assert usage_unitok(counts) <= usage(counts)


def test_rare_codes_count_less_elsewhere():
    counts = torch.tensor([4000, 2, 1, 0])  # 0.01 of the mean code are 10
    assert (usage(counts), usage_unitok(counts)) == (0.75, 0.25)
    assert usage_unitok(torch.tensor([400, 2, 2, 0])) == 0.75


def test_margin_and_moving_average_of_var():
    assert margin_var(64, 6 * 36, 2) == pytest.approx(2 * 6 * 36 / 64 * 0.08)
    assert usage_var(torch.tensor([3, 2, 1, 0]), 2) == 0.5
    counts = torch.tensor([10, 0])
    average = hits_var(torch.zeros(2), counts, 0)
    assert average.tolist() == [10, 0] and average.dtype == torch.float32
    assert hits_var(average, counts.flip(0), 1).tolist() == pytest.approx([9, 1])
    assert hits_var(average, counts.flip(0), 100).tolist() == pytest.approx([9.9, 0.1])
    assert hits_var(torch.zeros(2), counts, 1).tolist() == pytest.approx([1, 0])


@given(bits=st.sampled_from([1, 5, 10, 18, 19, 24, 32]), seed=st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_bits_are_counted_in_groups_and_each_alone(bits, seed):
    spec = TokenSpec(((1, 2), (2, 3)), 2, channels=bits)
    codes = torch.randint(0, 2, spec.shape(3), generator=torch.Generator().manual_seed(seed))
    width, found = group_bits(spec), histograms(codes, spec)
    ids = numbered(codes, spec)
    assert width <= 16 and found.shape == (2, -(-bits // width), 2**width)
    assert torch.equal(histograms(codes.to(torch.uint8), spec), found)
    first = [sum(int(b) << i for i, b in enumerate(code[:width])) for code in codes[0].tolist()]
    assert ids[0, :, 0].tolist() == first
    counts = parts(found, spec)
    for i in range(bits):
        assert (
            counts[f"_bit{i}"].tolist()
            == torch.bincount(codes[..., i].flatten(), minlength=2).tolist()
        )
    assert counts["_1x2"].sum() == 3 * 2 * found.shape[1]
    assert ("_group1" in counts) == (bits > 16)
    assert counts[""].sum() == ids.numel()


def test_the_baseline_of_bits_is_the_better_of_groups_and_bits():
    spec = TokenSpec(((4, 16),), 2, channels=6)
    codes = torch.randint(0, 2, spec.shape(40), generator=torch.Generator().manual_seed(0))
    assert baseline_bits(histograms(codes, spec), codes, spec) <= 6.01
    few = histograms(codes[:1], spec)  # too few for 64 codes, enough for 6 bits
    alone = unigram_bits(bit_counts(few.sum(0), spec), codes)
    assert baseline_bits(few, codes, spec) == pytest.approx(alone)
    same = codes.clone()
    same[..., 1:] = same[..., :1]  # bits that say the same
    assert baseline_bits(histograms(same, spec), same, spec) == pytest.approx(1, abs=0.05)
    plain = TokenSpec(((4, 16),), 7)
    ids = torch.randint(0, 7, plain.shape(5))
    counts = histograms(ids, plain)
    assert baseline_bits(counts, ids, plain) == unigram_bits(counts[0, 0], ids)


def test_all_codes_of_a_smaller_group_are_all_there_are():
    spec = TokenSpec(((32, 32), (32, 32)), 2, channels=17)  # 9 and 8
    bits = torch.arange(1024)[:, None] // 2 ** torch.arange(17) % 2
    codes = torch.where(torch.arange(17) < 9, bits, bits.roll(9, 1))
    found = parts(histograms(torch.cat((codes, 0 * codes))[None], spec), spec)
    assert [len(found[name]) for name in ("", "_group0", "_group1")] == [768, 512, 256]
    assert usage(found[""]) == usage(found["_group0"]) == usage(found["_group1"]) == 1
    assert entropy(found["_group1"]) > 1.5 and len(found["_bit16"]) == 2
