"""Scaling laws on made-up points: what went in comes out."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smalti.eval.scaling import Law, bootstrap, fit, frontier, needed, pearson, rmse, study

ALPHAS = st.floats(-1.0, -0.02)
POWERS = st.floats(-12.0, 3.0)
"""Of ten, for beta."""


def points(law: Law, count: int, low: float = 1e4, high: float = 1e9) -> np.ndarray:
    x = np.geomspace(low, high, count)
    return np.stack((x, law(x)), 1)


def noisy(law: Law, count: int, seed: int, size: float = 0.01) -> np.ndarray:
    made = points(law, count)
    made[:, 1] *= np.exp(size * np.random.default_rng(seed).standard_normal(count))
    return made


def runs(made: np.ndarray) -> list[np.ndarray]:
    """A run of one point for each."""
    return list(made[:, None])


@given(st.floats(-1.0, 1.0).filter(lambda a: abs(a) > 0.01), POWERS, st.integers(3, 12))
def test_a_power_law_comes_back(alpha, power, count):
    law = Law(alpha, power * math.log(10))
    found = fit(points(law, count))
    assert found.alpha == pytest.approx(alpha, rel=1e-9)
    assert found.log_beta == pytest.approx(law.log_beta, rel=1e-7, abs=1e-6)
    assert found.floor == 0


@given(ALPHAS, st.floats(0.05, 10.0), st.floats(0.0, 8.0), st.integers(4, 12))
def test_a_law_with_a_floor_comes_back(alpha, above, floor, count):
    """`above` is by how much the loss of the smallest size lies above the floor."""
    law = Law(alpha, math.log(above) / alpha - math.log(1e4), floor)
    found = fit(points(law, count), floor=True)
    assert found.alpha == pytest.approx(alpha, rel=1e-4)
    assert found.log_beta == pytest.approx(law.log_beta, rel=1e-3, abs=1e-2)
    assert found.floor == pytest.approx(floor, abs=1e-3)


@given(ALPHAS, st.floats(0.5, 3.0), st.floats(-6, 6), st.integers(0, 99), st.booleans())
def test_units_and_order_do_not_matter(alpha, above, unit, seed, floor):
    law = Law(alpha, math.log(above) / alpha - math.log(1e4), float(floor))
    made = noisy(law, 8, seed, size=1e-3)
    law = fit(made, floor)
    turned = fit(np.random.default_rng(seed).permutation(made) * (10**unit, 1), floor)
    assert turned.alpha == pytest.approx(law.alpha, rel=1e-3)
    x = made[:, 0]
    assert turned(x * 10**unit) == pytest.approx(law(x), rel=1e-5)


@given(ALPHAS, st.floats(0.1, 3.0), st.floats(0.0, 3.0), st.integers(0, 999))
def test_no_law_nearby_fits_better(alpha, above, floor, seed):
    made = noisy(Law(alpha, math.log(above) / alpha - math.log(1e4), floor), 8, seed)

    def error(law):
        return np.sum((law(made[:, 0]) / made[:, 1] - 1) ** 2)

    best = fit(made, floor=True)
    for change in (0.98, 1.02):
        shifted = best.log_beta + math.log(change)
        assert error(best) <= error(best._replace(log_beta=shifted)) * (1 + 1e-9)
        assert error(best) <= error(best._replace(floor=best.floor * change)) * (1 + 1e-9)
        steeper = best.alpha * change  # turned about the middle
        middle = np.log(made[:, 0]).mean()
        turned = best.alpha / steeper * (best.log_beta + middle) - middle
        assert error(best) <= error(Law(steeper, turned, best.floor)) * (1 + 1e-9)


@pytest.mark.parametrize(("floor", "kind"), [(False, "a power law"), (True, "with a floor")])
def test_too_few_points_say_how_many_are_needed(floor, kind):
    made = points(Law(-0.2, -10.0), needed(floor) - 1)
    wanted = f"{kind} takes at least {needed(floor)} different X, got {needed(floor) - 1}"
    with pytest.raises(ValueError, match=wanted):
        fit(made, floor)
    with pytest.raises(ValueError, match=wanted):
        fit(np.concatenate([made, made]), floor)  # the same X again is no new one
    with pytest.raises(ValueError, match=wanted):
        study(runs(made), floor)


def test_what_no_law_fits():
    x = np.geomspace(1, 1e3, 5)
    with pytest.raises(ValueError, match="do not change with X"):
        fit(np.stack((x, np.full(5, 2.0)), 1))
    rising = np.stack((x, 2 * x**0.1), 1)
    assert fit(rising).alpha == pytest.approx(0.1)
    with pytest.raises(ValueError, match="do not fall with X"):
        fit(rising, floor=True)
    for wrong in (0.0, -1.0, math.nan, math.inf):
        for column in (0, 1):
            made = points(Law(-0.2, -10.0), 5)
            made[2, column] = wrong
            with pytest.raises(ValueError, match="numbers above 0"):
                fit(made)


def test_a_law_in_words():
    law = Law(-0.23, math.log(2.5e-3), 1.25)
    assert law.formula("N") == "1.25 + (2.50e-3 N)^-0.230"
    assert law(1e6) == pytest.approx(1.25 + 2500**-0.23)
    assert Law(-0.1, -2000.0).formula() == "(2.58e-869 X)^-0.100"  # e^-2000, below any float


def test_pearson_and_rmse():
    law = Law(-0.2, -5.0)
    made = points(law, 6)
    assert pearson(made) == pytest.approx(-1) and rmse(law, made) < 1e-12
    made[:, 1] *= np.exp([0.1, -0.1] * 3)
    assert rmse(law, made) == pytest.approx(0.1)
    log_x, log_loss = np.log(made).T
    by_hand = np.cov(log_x, log_loss)[0, 1] / (np.std(log_x, ddof=1) * np.std(log_loss, ddof=1))
    assert pearson(made) == pytest.approx(by_hand) and -1 < by_hand < -0.9


@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=20).map(
        lambda rows: np.array(rows, dtype=float)
    )
)
def test_the_frontier_is_the_lower_envelope(made):
    lowest = frontier(made)
    assert (np.diff(lowest[:, 0]) > 0).all() and (np.diff(lowest[:, 1]) < 0).all()
    given_points = {tuple(p) for p in made.tolist()}
    assert {tuple(p) for p in lowest.tolist()} <= given_points
    for x, loss in made:  # the best that so much X buys
        assert lowest[lowest[:, 0] <= x][-1, 1] == made[made[:, 0] <= x, 1].min() <= loss


def test_the_largest_is_predicted_by_the_others():
    law = Law(-0.2, -5.0)
    made = points(law, 6)
    told = study(runs(made))["held_out"]
    assert told["x"] == made[-1, 0] and told["predicted"] == pytest.approx(made[-1, 1])
    made[-1, 1] *= 1.1  # the law of the others knows nothing of it
    told = study(runs(made))["held_out"]
    assert told["loss"] == made[-1, 1] and told["error"] == pytest.approx(1 / 1.1 - 1)
    low, high = told["interval"]
    assert low == pytest.approx(high)  # points without noise leave no doubt
    assert study(runs(made[:3]))["held_out"] is None


def test_intervals_hold_what_went_in():
    law = Law(-0.2, -5.0)
    made = runs(noisy(law, 12, seed=1))
    told = study(made, seed=3)
    low, high = told["intervals"]["alpha"]
    assert low < law.alpha < high and high - low < 0.02 and low < told["alpha"] < high
    assert told == study(made, seed=3) != study(made, seed=4)
    low, high = told["held_out"]["interval"]
    assert low < told["held_out"]["predicted"] < high
    wider = study(runs(noisy(law, 12, seed=1, size=0.05)), seed=3)["intervals"]["alpha"]
    assert wider[1] - wider[0] > 4 * (told["intervals"]["alpha"][1] - told["intervals"]["alpha"][0])


@pytest.mark.parametrize("floor", [False, True])
def test_no_interval_of_as_many_runs_as_a_law_takes(floor):
    made = runs(noisy(Law(-0.2, -5.0, 1.0), needed(floor) + 1, seed=0))
    assert study(made[:-1], floor)["intervals"] is None
    assert study(made, floor)["intervals"] is not None
    assert bootstrap(made[:-1], floor, False, 0, 10) == []


def test_a_study_of_the_envelope():
    """Sizes whose curves meet the law where they end, as if each were best there."""
    law = Law(-0.15, -20.0)
    made = []
    for end in np.geomspace(1e10, 1e13, 6):
        x = np.linspace(end / 20, end, 20)
        made.append(np.stack((x, law(x) * (1 + 0.3 * (1 - x / end))), 1))
    everything = np.concatenate(made)
    told = study(made, envelope=True)
    assert told["points"] == len(frontier(everything)) < len(everything)
    assert told["alpha"] == pytest.approx(fit(frontier(everything)).alpha)
    assert abs(told["held_out"]["error"]) < 0.1
    assert told["held_out"]["x"] == pytest.approx(1e13)


def test_beta_beyond_floats_is_left_out():
    made = points(Law(-0.002, -2000.0), 5)
    told = study(runs(made))
    assert told["beta"] is None and told["log_beta"] == pytest.approx(-2000, rel=1e-4)
    assert study(runs(points(Law(-0.2, -5.0), 5)))["beta"] == pytest.approx(math.exp(-5.0))
