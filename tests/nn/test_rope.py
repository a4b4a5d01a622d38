import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from smalti.nn.rope import rope_1d, rope_2d, rotate, rotation

HEAD = 16


def heads(length: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, length, 3, HEAD, generator=generator).to(dtype)


def test_1d_table_is_the_cosine_and_sine_of_position_times_frequency():
    table = rope_1d(7, HEAD, base=100.0)
    assert table.shape == (7, HEAD // 2, 2) and table.dtype == torch.float32
    position = torch.arange(7).double()[:, None]
    angle = position * 100.0 ** (-2 * torch.arange(HEAD // 2).double() / HEAD)
    torch.testing.assert_close(table[..., 0].double(), angle.cos(), rtol=0, atol=1e-6)
    torch.testing.assert_close(table[..., 1].double(), angle.sin(), rtol=0, atol=1e-6)


def test_2d_table_turns_the_first_half_by_row_and_the_second_by_column():
    height, width = 3, 5
    table, half = rope_2d(height, width, HEAD), rope_1d(8, HEAD // 2)
    assert table.shape == (height * width, HEAD // 2, 2)
    for i in range(height * width):
        row, column = divmod(i, width)
        assert torch.equal(table[i], torch.cat((half[row], half[column])))


def test_rotation_is_that_of_complex_numbers_in_interleaved_pairs():
    table, x = rope_2d(4, 4, HEAD), heads(16)
    factor = torch.view_as_complex(table.double())[:, None]  # (16, 1, 8)
    pairs = torch.view_as_complex(x.double().unflatten(-1, (-1, 2)))
    expected = torch.view_as_real(pairs * factor).flatten(-2)
    actual = rotate(x, rotation(table))
    torch.testing.assert_close(actual.double(), expected, rtol=0, atol=1e-6)
    assert (actual - x)[:, 1:].abs().max() > 0.5, "it must turn something"


def test_rotation_keeps_norms():
    x = heads(16)
    y = rotate(x, rotation(rope_2d(4, 4, HEAD)))
    torch.testing.assert_close(y.norm(dim=-1), x.norm(dim=-1))
    assert torch.equal(y[:, 0], x[:, 0]), "cell (0, 0) is not turned"


@given(st.integers(0, 3), st.integers(0, 3), st.integers(0, 4), st.integers(0, 4))
def test_scores_depend_on_the_distance_only(row, column, down, right):
    """q at (row, column), k at (row + down, column + right): the same score from any cell."""
    side = 8
    table = rope_2d(side, side, HEAD)
    q, k = heads(1, seed=1), heads(1, seed=2)

    def score(r: int, c: int) -> torch.Tensor:
        here, there = r * side + c, (r + down) * side + c + right
        a = rotate(q, rotation(table[[here]]))
        b = rotate(k, rotation(table[[there]]))
        return (a * b).sum(-1)

    torch.testing.assert_close(score(row, column), score(0, 0), rtol=0, atol=1e-5)


def test_rows_of_zeros_give_zeros():
    table = torch.cat((torch.zeros(2, HEAD // 2, 2), rope_1d(3, HEAD)))
    y = rotate(heads(5), rotation(table))
    assert not y[:, :2].any() and y[:, 2:].any()


def test_bfloat16_is_rotated_in_float32():
    x = heads(16, dtype=torch.bfloat16)
    table = rotation(rope_2d(4, 4, HEAD))
    y = rotate(x, table)
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, rotate(x.float(), table).bfloat16())


def test_bad_widths():
    with pytest.raises(ValueError, match="even head_dim, got 7"):
        rope_1d(4, 7)
    with pytest.raises(ValueError, match="4 divides, got 6"):
        rope_2d(4, 4, 6)
