import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from smalti.sampling.solvers import (
    NAMES,
    Kind,
    Path,
    Schedule,
    Solver,
    cosine,
    path,
    respaced,
    spaced,
    useful,
)

MEAN, DEVIATION = 0.7, 0.4


def denoiser(way: Path, share: float = 0.5):
    """What a perfect head predicts of codes from Normal(MEAN, DEVIATION)."""

    def denoise(x: Tensor, i: int) -> tuple[Tensor, Tensor]:
        a, b = way.points[i]
        gain = a * DEVIATION**2 / (a**2 * DEVIATION**2 + b**2)
        return MEAN + gain * (x - a * MEAN), torch.full_like(x, share)

    return denoise


def exact(way: Path, x: Tensor) -> Tensor:
    """Where the flow of probability takes x from the first point of a way."""
    a, b = way.points[0]
    return MEAN + DEVIATION * (x - a * MEAN) / math.hypot(a * DEVIATION, b)


def error(way: Path) -> float:
    x = torch.linspace(-2, 2, 9).double()[None, :, None]
    return (way.solve(denoiser(way), x, 1.0) - exact(way, x[0])).abs().max().item()


def evenly(name: str, steps: int) -> Path:
    """A diffusion whose log(a / b) goes from -2 to 8 in equal steps."""
    odds = torch.linspace(8, -2, steps, dtype=torch.float64) * 2
    return Schedule(tuple(range(steps)), tuple(odds.sigmoid().tolist())).path(name)


@pytest.mark.parametrize(
    ("way", "order"),
    [
        (lambda n: evenly("ddim", n), 1),
        (lambda n: evenly("dpm", n), 2),
        (lambda n: path(Solver("ddim", str(n)), "diffusion"), 1),
        (lambda n: path(Solver("euler", str(n)), "flow"), 1),
        (lambda n: path(Solver("midpoint", str(n)), "flow"), 3),  # 2, and 3 for this target
    ],
    ids=["ddim", "dpm", "ddim of the cosine schedule", "euler", "midpoint"],
)
def test_solvers_converge_to_the_exact_solution_with_their_order(way, order):
    errors = [error(way(n)) for n in (40, 80, 160)]
    found = [math.log2(a / b) for a, b in zip(errors, errors[1:], strict=False)]
    assert found == pytest.approx([order] * 2, abs=0.3)


@pytest.mark.parametrize("steps", [10, 20, 50])
def test_second_order_needs_fewer_evaluations(steps):
    def miss(name: str, kind: Kind, count: int) -> float:
        return error(path(Solver(name, str(count)), kind))

    assert miss("dpm", "diffusion", steps) < 0.6 * miss("ddim", "diffusion", steps)
    assert miss("midpoint", "flow", steps // 2) < 0.1 * miss("euler", "flow", steps)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_ancestral_sampling_gives_the_mean_and_deviation_of_a_gaussian(share):
    way = path(Solver("ancestral", "250"), "diffusion")
    noise = torch.randn(way.draws, 20_000, 1, generator=torch.Generator().manual_seed(0))
    x = way.solve(denoiser(way, share), noise, 1.0)
    assert x.mean().item() == pytest.approx(MEAN, abs=0.01)
    assert x.std().item() == pytest.approx(DEVIATION, rel=0.03)


def test_the_temperature_scales_the_noise_of_the_steps_and_not_the_first():
    way = path(Solver("ancestral", "20"), "diffusion")
    noise = torch.randn(way.draws, 4000, 1, generator=torch.Generator().manual_seed(0))
    cold, mild, warm = (way.solve(denoiser(way), noise, t).std() for t in (0.0, 0.9, 1.0))
    assert 0 < cold < mild < warm
    noise[1:] = 0
    assert way.solve(denoiser(way), noise, 5.0).std() == cold


@pytest.mark.parametrize("kind", ["diffusion", "flow"])
def test_one_step_is_the_predicted_clean_latent(kind):
    for name in NAMES[kind]:
        way, noise = path(Solver(name, "1"), kind), torch.randn(2, 3, 2)
        evaluations: list[int] = []

        def denoise(x: Tensor, i: int, seen: list[int] = evaluations) -> tuple[Tensor, Tensor]:
            seen.append(i)
            return torch.full_like(x, 3.0), x

        found = way.solve(denoise, noise[: way.draws], 1.0)
        if name == "midpoint":
            torch.testing.assert_close(found, noise[0] + (3 - noise[0]))
        else:
            torch.testing.assert_close(found, torch.full_like(found, 3.0))
        assert evaluations == list(range(len(way.times)))


def test_ways_end_clean_and_count_their_draws():
    for kind, names in NAMES.items():
        for name in names:
            way = path(Solver(name, "5"), kind)
            assert way.points[-1] == (1.0, 0.0) and len(way.points) == len(way.times) + 1
            assert len(way.times) == (10 if name == "midpoint" else 5)
            assert way.draws == (6 if name == "ancestral" else 1)
    assert path(Solver(), "diffusion").draws == 101
    assert path(Solver("", "4"), "flow").times == (0.0, 250.0, 500.0, 750.0)
    assert path(Solver(steps="4"), "diffusion").times == (999, 666, 333, 0)
    for name in ("ddim", "dpm"):
        assert path(Solver(name, "4"), "diffusion").times == (960, 720, 480, 240)
        assert path(Solver(name, "2,2"), "diffusion").times == (999, 500, 499, 0)


@pytest.mark.parametrize(
    ("steps", "kept"),
    [
        ("1", [0]),
        ("5", [0, 2, 4, 7, 9]),  # 4.5 is rounded to even
        ("10", list(range(10))),
        ("3,2", [0, 2, 4, 5, 9]),
        ("1,0,2", [0, 7, 9]),  # sections of 4, 3 and 3
        ("0,1", [5]),
    ],
)
def test_respacing_by_sections(steps, kept):
    assert spaced(10, steps) == kept


@given(st.integers(1, 1000), st.data())
def test_respacing_keeps_as_many_steps_in_order(timesteps, data):
    sections = data.draw(st.integers(1, min(timesteps, 5)))
    counts = data.draw(st.lists(st.integers(0, timesteps // sections), min_size=sections,
                                max_size=sections).filter(any))  # fmt: skip
    kept = spaced(timesteps, ",".join(map(str, counts)))
    assert len(kept) == sum(counts) and kept == sorted(set(kept))
    assert 0 <= kept[0] and kept[-1] < timesteps


@given(st.integers(2, 2000), st.data())
def test_deterministic_solvers_leave_out_both_ends(timesteps, data):
    count = data.draw(st.integers(1, timesteps * 24 // 25))
    kept = useful(timesteps, count)
    assert len(kept) == count and kept == sorted(set(kept))
    assert kept[0] > 0 and kept[-1] == timesteps * 24 // 25 < timesteps


@given(st.sampled_from(["2", "7", "100", "1000", "3,2,1,0", "4,0,7", "0,3"]))
def test_a_schedule_keeps_its_laws(steps):
    s = respaced(1000, steps)
    before = (1.0, *s.kept[:-1])
    for k, (kept, last) in enumerate(zip(s.kept, before, strict=True)):
        assert 0 < kept < last and 0 < s.betas[k] < 1
        # a step back from x = a * clean is the same with the a of the step before
        ahead = s.mean_clean[k] + s.mean_x[k] * math.sqrt(kept)
        assert ahead == pytest.approx(math.sqrt(last))
    assert all(a <= math.log(b) for a, b in zip(s.log_variance[1:], s.betas[1:], strict=True))
    assert s.log_variance[0] == s.log_variance[1]


def test_the_cosine_schedule():
    kept = cosine(1000).kept
    assert kept[0] == pytest.approx(1 - 4.128e-5, abs=1e-8)
    assert kept[499] == pytest.approx(0.4938, abs=1e-4)
    assert cosine(1000).betas[-1] == pytest.approx(0.999)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "heun"}, "one of ancestral, ddim, dpm, euler, midpoint, got 'heun'"),
        ({"steps": "0"}, "at least 1, .* got '0'"),
        ({"steps": "3,-1"}, "no section below 0, got '3,-1'"),
        ({"steps": "ten"}, "numbers with commas between, got 'ten'"),
        ({"steps": ""}, "numbers with commas between, got ''"),
    ],
)
def test_bad_solvers(values, message):
    with pytest.raises(ValueError, match=message):
        Solver(**values)


@pytest.mark.parametrize(
    ("solver", "kind", "message"),
    [
        (Solver("euler"), "diffusion", "solved by ancestral, ddim, dpm, got 'euler'"),
        (Solver("dpm"), "flow", "solved by euler, midpoint, got 'dpm'"),
        (Solver(steps="3,2"), "flow", "one number of steps, got '3,2'"),
        (Solver("dpm", "961"), "diffusion", "can use 960 of 1000 timesteps, got 961"),
        (Solver(steps="1001"), "diffusion", "section of 1000 of 1000 .* to 1001 steps"),
        (Solver(steps="1,501"), "diffusion", "section of 500 of 1000 .* 501 steps, got '1,501'"),
    ],
)
def test_solvers_that_do_not_fit(solver, kind, message):
    with pytest.raises(ValueError, match=message):
        path(solver, kind)
