import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from smalti.sampling.orders import NAMES, check_order, inverse, known_first, order

grids = st.tuples(st.integers(1, 13), st.integers(1, 13))
names = st.sampled_from(NAMES)
seeds = st.integers(-(2**63), 2**63 - 1)

FOUR = {  # by hand: the position drawn first, second, ... on a grid of 4 x 4
    "row-major": list(range(16)),
    "spiral-in": [15, 11, 7, 3, 2, 1, 0, 4, 8, 12, 13, 14, 10, 6, 5, 9],
    "spiral-out": [9, 5, 6, 10, 14, 13, 12, 8, 4, 0, 1, 2, 3, 7, 11, 15],
    "z-curve": [0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15],
    "subsample": [0, 2, 8, 10, 1, 3, 9, 11, 4, 6, 12, 14, 5, 7, 13, 15],
    "alternate": [0, 1, 2, 3, 7, 6, 5, 4, 8, 9, 10, 11, 15, 14, 13, 12],
}
UNEVEN = {  # 2 x 3
    "spiral-in": [5, 2, 1, 0, 3, 4],
    "z-curve": [0, 1, 3, 4, 2, 5],
    "subsample": [0, 2, 1, 3, 5, 4],
    "alternate": [0, 1, 2, 5, 4, 3],
}


def cells(name: str, grid: tuple[int, int]) -> list[tuple[int, int]]:
    return [divmod(i, grid[1]) for i in order(name, grid).tolist()]


@pytest.mark.parametrize("name", FOUR)
def test_four_by_four(name):
    assert order(name, (4, 4)).tolist() == FOUR[name]


@pytest.mark.parametrize("name", UNEVEN)
def test_two_by_three(name):
    assert order(name, (2, 3)).tolist() == UNEVEN[name]


def test_every_name_is_tested():
    assert set(NAMES) == {*FOUR, "random"}


@given(names, grids, seeds)
def test_an_order_is_a_permutation_and_its_inverse_undoes_it(name, grid, seed):
    found, n = order(name, grid, seed), grid[0] * grid[1]
    assert found.dtype == torch.int64 and sorted(found.tolist()) == list(range(n))
    check_order(found, n)
    codes = torch.arange(n) * 7
    assert torch.equal(codes[found][inverse(found)], codes)
    assert torch.equal(inverse(found)[found], torch.arange(n))
    assert torch.equal(inverse(inverse(found)), found)


@given(st.sampled_from(["spiral-in", "spiral-out", "alternate"]), grids)
def test_neighbours_in_time_are_neighbours_in_space(name, grid):
    path = cells(name, grid)
    for (y, x), (v, u) in zip(path, path[1:], strict=False):
        assert abs(y - v) + abs(x - u) == 1


@given(grids)
def test_a_spiral_never_goes_back_outwards(grid):
    h, w = grid
    depth = [min(y, x, h - 1 - y, w - 1 - x) for y, x in cells("spiral-in", grid)]
    assert depth == sorted(depth)
    assert order("spiral-out", grid).tolist() == order("spiral-in", grid).tolist()[::-1]


@given(grids, st.integers(0, 3))
def test_z_curve_finishes_a_square_before_it_leaves(grid, k):
    squares = [(y >> k, x >> k) for y, x in cells("z-curve", grid)]
    runs = [s for i, s in enumerate(squares) if i == 0 or squares[i - 1] != s]
    assert len(runs) == len(set(runs))


@given(grids, st.integers(0, 3))
def test_subsample_draws_a_coarse_grid_first(grid, k):
    step = 2**k
    coarse = [y % step == 0 and x % step == 0 for y, x in cells("subsample", grid)]
    assert coarse == sorted(coarse, reverse=True)


def test_random_depends_on_the_seed_and_is_fair():
    first, again, other = (order("random", (4, 4), s) for s in (5, 5, 6))
    assert torch.equal(first, again) and not torch.equal(first, other)
    starts = torch.stack([order("random", (2, 2), s)[0] for s in range(400)])
    assert (starts.bincount(minlength=4) > 60).all()


@pytest.mark.parametrize("n", [1, 17])
def test_one_row_and_one_column(n):
    down = [*range(n)]
    for name in ("row-major", "z-curve"):
        assert order(name, (n, 1)).tolist() == order(name, (1, n)).tolist() == down
    assert order("alternate", (n, 1)).tolist() == down
    assert order("spiral-in", (n, 1)).tolist() == order("spiral-in", (1, n)).tolist() == down[::-1]


@given(names, grids, seeds, st.data())
def test_known_positions_come_first_and_nothing_else_changes(name, grid, seed, data):
    n = grid[0] * grid[1]
    flags = st.lists(st.booleans(), min_size=n, max_size=n)
    known = torch.tensor([data.draw(flags), data.draw(flags)])
    found = order(name, grid, seed)
    both = known_first(found, known)
    assert both.shape == (2, n)
    for row, mask in zip(both, known, strict=True):
        wanted = [i for i in found if mask[i]] + [i for i in found if not mask[i]]
        assert row.tolist() == [int(i) for i in wanted]
        assert torch.equal(known_first(found, mask), row)


def test_known_first_of_one_order_per_image():
    orders = torch.tensor([[0, 1, 2], [2, 1, 0]])
    known = torch.tensor([False, True, False])
    assert known_first(orders, known).tolist() == [[1, 0, 2], [1, 2, 0]]


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ([0, 1, 1], "2 is missing, 1 is there again"),
        ([0, 1, 3], r"has 0 \.\.\. 2, got 3"),
        ([0, -1, 2], r"has 0 \.\.\. 2, got -1"),
        ([0, 1], r"must be \(\.\.\., 3\), got \(2,\)"),
        ([[0, 1, 2], [0, 0, 1]], "2 is missing, 0 is there again"),
        ([0.0, 1.0, 2.0], "must be int64, got torch.float32"),
    ],
)
def test_what_is_no_permutation_is_refused(bad, words):
    with pytest.raises(ValueError, match=words):
        check_order(torch.tensor(bad), 3)


def test_check_takes_several():
    check_order(torch.stack([order("random", (2, 4), s) for s in range(3)]), 8)


def test_unknown_names_and_empty_grids_are_refused():
    with pytest.raises(ValueError, match="must be one of row-major, .*did you mean 'spiral-in'"):
        order("spiral-inn", (4, 4))
    with pytest.raises(ValueError, match=r"got \(0, 4\)"):
        order("row-major", (0, 4))
