"""Numbers and bits as vectors, and codes as groups of bits."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from smalti.codes import TokenSpec
from smalti.nn.code_embedding import code_embedding, signs
from smalti.nn.groups import Groups, to_bits, to_number

GRID = ((2, 3),)


def test_numbers_are_rows_of_a_table():
    table = code_embedding(TokenSpec(GRID, 5), 4, hidden=True)
    codes = torch.tensor([[0, 4, 2]])
    assert torch.equal(table(codes), F.embedding(codes, table.weight))
    known = torch.tensor([[True, False, True]])
    assert torch.equal(table(codes, known)[0, 1], table.weight[5])
    assert torch.equal(table(codes, known)[0, 2], table.weight[2])


def test_bits_add_a_row_each_or_take_it_away():
    embedding = code_embedding(TokenSpec(GRID, 2, channels=3), 4, hidden=True)
    torch.nn.init.normal_(embedding.hidden)
    codes = torch.tensor([[[0, 1, 1], [1, 0, 0]]])
    expected = signs(codes) @ embedding.weight.T + embedding.bias
    torch.testing.assert_close(embedding(codes), expected)
    seen = embedding(codes, torch.tensor([[False, True]]))
    assert torch.equal(seen[0, 0], embedding.hidden)
    torch.testing.assert_close(seen[0, 1], expected[0, 1])


@pytest.mark.parametrize("spec", [TokenSpec(GRID, 2, 2, 3), TokenSpec(GRID, 3, channels=2),
                                  TokenSpec(GRID, channels=2)])  # fmt: skip
def test_other_codes_are_refused(spec):
    with pytest.raises(ValueError, match="must be numbers or bits at each position"):
        code_embedding(spec, 4)


@given(st.lists(st.integers(1, 20), min_size=1, max_size=3), st.integers(0, 2**20))
def test_groups_there_and_back(widths, seed):
    bits = sum(widths)
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, 2, (2, 6, bits), generator=generator)
    groups = Groups(TokenSpec(GRID, 2, channels=bits), widths)
    ids = groups.split(codes)
    assert ids.shape == (2, 6, len(widths))
    assert all(0 <= int(i) < size for i, size in zip(ids[0, 0], groups.sizes, strict=True))
    assert torch.equal(groups.join(ids), codes)
    if bits <= 30:  # numbers below 2^K, of which the first bit is the least significant
        numbers = Groups(TokenSpec(GRID, 2**bits), widths)
        plain = to_number(codes)
        assert torch.equal(to_bits(plain, bits), codes)
        assert torch.equal(numbers.split(plain), ids)
        assert torch.equal(numbers.join(ids), plain)


def test_first_bits_are_the_least_significant():
    groups = Groups(TokenSpec(GRID, 2, channels=5), (2, 3))
    assert groups.split(torch.tensor([[[1, 0, 0, 1, 1]]])).tolist() == [[[1, 6]]]


def test_groups_that_are_none():
    with pytest.raises(ValueError, match=r"together the 5 bits of a code, got \(2, 2\)"):
        Groups(TokenSpec(GRID, 2, channels=5), (2, 2))
    with pytest.raises(ValueError, match="a power of two, got 12"):
        Groups(TokenSpec(GRID, 12), (2, 2))
    with pytest.raises(ValueError, match="codes of bits or of one number"):
        Groups(TokenSpec(GRID, channels=4), (2, 2))
