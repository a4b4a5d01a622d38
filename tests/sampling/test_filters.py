import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from smalti.sampling.filters import Filters, RowFilters, keep

INF = math.inf
LOG = [math.log(p) for p in (0.4, 0.3, 0.2, 0.1)]


def kept(logits: torch.Tensor) -> list[int]:
    return (logits > -INF).nonzero().flatten().tolist()


def slow(logits: list[float], temperature: float, top_k: int, top_p: float) -> set[int]:
    """The codes that survive, in plain Python."""
    scaled = [x / max(temperature, 1e-5) for x in logits]
    alive = set(range(len(scaled)))
    if top_k:
        least = sorted(scaled, reverse=True)[min(top_k, len(scaled)) - 1]
        alive = {i for i in alive if scaled[i] >= least}
    if top_p < 1:
        highest = max(scaled)
        weight = {i: math.exp(scaled[i] - highest) for i in alive}
        total, mass, chosen = sum(weight.values()), 0.0, set()
        for i in sorted(alive, key=lambda i: -scaled[i]):
            if mass > top_p:
                break
            chosen.add(i)
            mass += weight[i] / total
        alive = chosen
    return alive


rows = st.lists(st.integers(-400, 400), min_size=2, max_size=24, unique=True)
settings_of = st.builds(
    Filters,
    temperature=st.sampled_from([0.3, 0.7, 1.0, 1.9]),
    top_k=st.integers(0, 30),
    top_p=st.floats(0.03, 1.0),
)


@given(rows, settings_of)
def test_equals_the_slow_reference(row, filters):
    logits = torch.tensor(row) / 64
    out = filters(logits)
    expected = slow(logits.tolist(), filters.temperature, filters.top_k, filters.top_p)
    assert set(kept(out)) == expected
    alive = torch.tensor(sorted(expected))
    torch.testing.assert_close(out[alive], logits[alive] / filters.temperature)


def sorted_with_indices(logits: torch.Tensor, k: int, p: float) -> torch.Tensor:
    """What `keep` gives, by the k-th largest, and by a sort whose indices lead back."""
    if 0 < k < logits.shape[-1]:
        least = logits.topk(k).values[..., -1:]
        logits = logits.masked_fill(logits < least, -INF)
    if p >= 1:
        return logits
    ordered, index = logits.sort(descending=True, stable=True)
    mass = ordered.softmax(-1).cumsum(-1)
    drop = torch.zeros_like(mass, dtype=torch.bool)
    drop[..., 1:] = mass[..., :-1] > p
    return logits.masked_fill(drop.gather(-1, index.argsort()), -INF)


def table(vocab: int) -> st.SearchStrategy[torch.Tensor]:
    """Rows of logits with many ties, not all of them -inf."""
    values = st.sampled_from([-INF, -3.0, -0.5, -0.0, 0.0, 0.25, 2.0])
    row = st.lists(values, min_size=vocab, max_size=vocab).map(lambda row: [*row, -1.0])
    return st.lists(row, min_size=1, max_size=3).map(torch.tensor)


tied = st.integers(1, 40).flatmap(table)
ks, ps = st.integers(0, 50), st.one_of(st.floats(0.01, 1.0), st.sampled_from([0.25, 0.5, 1.0]))


@given(tied, ks, ps)
def test_equal_to_a_sort_with_indices_to_the_bit(logits, k, p):
    assert torch.equal(keep(logits, k, p), sorted_with_indices(logits, k, p))


@given(
    tied, st.lists(st.tuples(ks, ps), min_size=3, max_size=3), st.sampled_from(("", "k", "p", "kp"))
)
def test_rows_with_filters_of_their_own_equal_a_sort_with_indices(logits, values, shared):
    (first_k, first_p), *_ = values
    values = [(first_k if "k" in shared else k, first_p if "p" in shared else p) for k, p in values]
    filters = [Filters(0.7, k, p) for k, p in values[: len(logits)]]
    found = RowFilters.of(filters)(logits)
    for row, one, mine in zip(logits / 0.7, filters, found, strict=True):
        assert torch.equal(mine, sorted_with_indices(row, *one.numbers[1:])), one


@pytest.mark.parametrize(
    ("k", "p"), [(2000, 0.95), (4999, 1.0), (0, 0.95), (0, 0.5), (700, 1.0), (1, 0.1)]
)
@pytest.mark.parametrize("spread", [0.01, 1.0, 8.0])
def test_large_vocabularies_too(k, p, spread):
    torch.manual_seed(0)
    exact = torch.randn(3, 2, 5000) * spread
    for logits in (exact, exact.bfloat16().float()):  # where many are equal
        expected = sorted_with_indices(logits, k, p)
        assert torch.equal(keep(logits, k, p), expected)
        assert torch.equal(keep(logits, torch.tensor([k]), torch.tensor([p])), expected)


@pytest.mark.parametrize("k", [3, 30, 2000, 0])
@pytest.mark.parametrize("spread", [0.01, 1.0, 8.0])
def test_rounding_of_the_sum_of_all_drops_and_adds_nothing(k, spread):
    torch.manual_seed(0)
    logits = torch.randn(50, 5000) * spread
    expected = sorted_with_indices(logits, k, 1.0)
    assert torch.equal(keep(logits, torch.tensor([k]), torch.ones(1)), expected)
    almost = keep(logits, k, 1 - 6e-8)
    assert torch.equal(almost, sorted_with_indices(logits, k, 1 - 6e-8))


def test_no_numbers_stay_no_numbers():
    """So that a draw from them is refused."""
    logits = torch.full((2, 4), math.nan)
    assert keep(logits, 2, 0.5).isnan().all()


@given(rows, st.floats(0.03, 0.999))
def test_top_p_keeps_the_fewest_that_hold_the_mass(row, p):
    logits = torch.tensor(row) / 64
    out, probs = keep(logits, 0, p), logits.softmax(-1)
    alive = kept(out)
    assert alive, "at least one code is kept"
    mass = probs[alive]
    assert mass.sum() > p - 1e-6
    assert mass.sum() - mass.min() <= p + 1e-6, "without the last one it would not be enough"
    dropped = probs[out == -INF]
    assert not dropped.numel() or mass.min() > dropped.max()


@given(rows, st.integers(1, 30))
def test_top_k_is_idempotent_and_keeps_k(row, k):
    once = keep(torch.tensor(row) / 64, k, 1.0)
    assert len(kept(once)) == min(k, len(row))
    assert torch.equal(keep(once, k, 1.0), once)


@given(rows, settings_of)
def test_the_most_likely_code_always_survives(row, filters):
    logits = torch.tensor(row) / 64
    assert int(logits.argmax()) in kept(filters(logits))


def test_ties_with_the_kth_survive():
    logits = torch.tensor([1.0, 3.0, 2.0, 2.0, 2.0, 0.0])
    assert kept(keep(logits, 2, 1.0)) == [1, 2, 3, 4]
    assert kept(keep(logits, 1, 1.0)) == [1]
    assert kept(keep(logits, 5, 1.0)) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("k", [0, 4, 1000])
def test_top_k_of_0_or_of_all_keeps_all(k):
    logits = torch.tensor(LOG)
    assert torch.equal(keep(logits, k, 1.0), logits)


@pytest.mark.parametrize(
    ("p", "count"), [(0.01, 1), (0.39, 1), (0.41, 2), (0.69, 2), (0.71, 3), (0.91, 4), (1.0, 4)]
)
def test_top_p_keeps_the_code_that_crosses_the_mass(p, count):
    assert kept(keep(torch.tensor(LOG), 0, p)) == list(range(count))
    shuffled = torch.tensor([LOG[i] for i in (2, 0, 3, 1)])
    order = [1, 3, 0, 2]  # where the most likely codes are
    assert kept(keep(shuffled, 0, p)) == sorted(order[:count])


def test_a_mass_of_exactly_p_is_not_yet_beyond_it():
    """As LlamaGen's sampler, which drops where the mass of the codes before is above p."""
    assert len(kept(keep(torch.zeros(4), 0, 0.5))) == 3
    assert len(kept(keep(torch.zeros(4), 0, 0.49))) == 2


def test_top_p_counts_the_mass_of_what_top_k_left():
    logits = torch.tensor(LOG)  # of the first two, the first has 0.4 / 0.7 = 0.571
    assert kept(Filters(top_k=2, top_p=0.56)(logits)) == [0]
    assert kept(Filters(top_p=0.56)(logits)) == [0, 1]


def test_temperature_comes_before_top_p():
    logits = torch.tensor(LOG)  # squared: 16, 9, 4, 1 of 30
    out = Filters(temperature=0.5, top_p=0.5)(logits)
    assert kept(out) == [0]
    torch.testing.assert_close(out[0], logits[0] * 2)
    assert kept(Filters(top_p=0.5)(logits)) == [0, 1]


def test_temperature_0_is_greedy_but_for_ties():
    probs = Filters(0.0)(torch.tensor([1.0, 1.001, 0.5, 1.001])).softmax(-1)
    torch.testing.assert_close(probs, torch.tensor([0.0, 0.5, 0.0, 0.5]))


def test_rows_are_filtered_each_for_itself_in_float32():
    logits = torch.tensor([[LOG, LOG[::-1]]], dtype=torch.bfloat16)
    out = Filters(top_k=2)(logits)
    assert out.dtype == torch.float32 and out.shape == (1, 2, 4)
    assert kept(out[0, 0]) == [0, 1] and kept(out[0, 1]) == [2, 3]


def test_defaults_change_nothing():
    logits = torch.randn(3, 5)
    assert torch.equal(Filters()(logits), logits)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"temperature": -1.0}, "temperature must be 0 or more, got -1"),
        ({"temperature": math.nan}, "got nan"),
        ({"temperature": math.inf}, "got inf"),
        ({"top_k": -1}, "top_k must be 0 .off. or more, got -1"),
        ({"top_p": 0.0}, "top_p must be above 0 and at most 1, got 0.0"),
        ({"top_p": 1.01}, "got 1.01"),
        ({"top_p": math.nan}, "got nan"),
    ],
)
def test_bad_values(values, message):
    with pytest.raises(ValueError, match=message):
        Filters(**values)


def test_each_code_of_a_position_may_have_its_own():
    filters = Filters(temperature=(0.5, 2.0), top_k=(1, 0), top_p=0.9)
    assert filters.at(0, 2) == Filters(0.5, 1, 0.9) and filters.at(1, 2) == Filters(2.0, 0, 0.9)
    assert Filters(top_k=7).at(3, 5) == Filters(top_k=7)
    assert Filters(top_k=[3, 4]) == Filters(top_k=(3, 4)), "as a file has them"
    assert Filters(top_k=(3,))(torch.tensor(LOG)).isfinite().sum() == 3


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"top_k": (3, -1)}, "top_k must be 0 .off. or more, got -1"),
        ({"top_p": (1.0, 0.0)}, "top_p must be above 0 and at most 1, got 0.0"),
        ({"temperature": (1.0, math.nan)}, "got nan"),
        (
            {"top_k": (3, 1), "top_p": (0.1, 0.2, 0.3)},
            "as many values each, at least one, got top_k 3,1; top_p",
        ),
        ({"top_k": ()}, "filters must have as many values each, at least one"),
    ],
)
def test_bad_values_of_each(values, message):
    with pytest.raises(ValueError, match=message):
        Filters(**values)


def test_as_many_values_as_codes():
    filters = Filters(top_k=(900, 400))
    with pytest.raises(ValueError, match="one for each of the 4 codes of a position, got 900,400"):
        filters.at(0, 4)
    with pytest.raises(ValueError, match="^top_k must be one value, got 900,400$"):
        filters(torch.tensor(LOG))
    with pytest.raises(ValueError, match="as many codes at a position"):
        RowFilters.of([filters, Filters(top_k=(1, 2, 3))])


def test_a_temperature_goes_to_its_last_in_a_line():
    cooled = Filters(1.3, 7, final_temperature=0.5)
    assert [cooled.at_step(i, 4).temperature for i in range(4)] == pytest.approx(
        [1.1, 0.9, 0.7, 0.5]
    )
    assert cooled.at_step(0, 4).top_k == 7 and Filters(1.3).at_step(0, 4) == Filters(1.3)
    each = Filters((1.0, 0.0), final_temperature=2.0).at_step(0, 2)
    assert each.temperature == pytest.approx((1.5, 1.0))
    with pytest.raises(ValueError, match="final_temperature"):
        Filters(final_temperature=-1.0)
