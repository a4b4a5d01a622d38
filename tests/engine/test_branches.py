"""No second branch where guidance is 1: the same codes as with all branches, of fewer rows."""

import pytest
import torch

from builders import build, masked_models, models, random_cond, stream
from smalti.engine.branches import alone_from
from smalti.sampling.filters import Filters
from smalti.sampling.guidance import Guidance
from smalti.sampling.noise import Noise
from smalti.sampling.solvers import Solver

SLOW = pytest.mark.slow
SCHEDULES = {
    "first steps": (1.0, 1.0, 1.0, 3.0),
    "middle": (3.0, 1.0, 1.0, 2.0),
    "last steps": (3.0, 2.0, 1.0, 1.0),
    "both ends": (1.0, 1.0, 2.0, 1.0),
    "all": (1.0, 3.0),
}


def guided(scales: tuple[float, ...]) -> Guidance:
    if scales == SCHEDULES["all"]:  # an interval in which there is no step: never guided
        return Guidance(3.0, "interval", start=0.0, stop=1e-3)
    return Guidance(schedule="list", scales=scales)


def drawn(model, guidance: Guidance, monkeypatch, every: bool) -> tuple[list, int]:
    """The steps of three pictures, and how many rows of hidden states they took."""
    rows, sample = 0, type(model).draw

    def counted(codes, cond, span, cache, chance):
        nonlocal rows
        rows += len(chance.guide.tile(codes))
        return sample(model, codes, cond, span, cache, chance)

    with monkeypatch.context() as patch:
        if every:
            patch.setattr(Guidance, "alone", lambda self, *_: self.off)
        patch.setattr(model, "draw", counted)
        cond, noise = random_cond(model, 3), Noise.request(5, 3)
        how = (guidance, Filters(1.1, 20, 0.95))
        steps = stream(model, cond, noise, *how, solver=Solver(steps="4"))
        return [step._replace(codes=step.codes.clone()) for step in steps], rows


QUICK = ("llamagen", "rar", "maskgit", "mar")
CASES = [
    pytest.param(
        name,
        schedule,
        marks=() if name in QUICK or schedule not in ("first steps", "last steps") else SLOW,
    )
    for name in models()
    for schedule, scales in SCHEDULES.items()
    if name in (*masked_models(), "llamagen") or scales[-1] == 1.0 or schedule == "all"
]
"""A causal model leaves out nothing before its last guided step: of early ones, one tells. Both
ends are the first and the last steps: that each by itself does, a few models tell quickly."""


@pytest.fixture(scope="module")
def model(request):
    return build(*models()[request.param])


@pytest.mark.parametrize(("model", "schedule"), CASES, indirect=["model"])
def test_codes_are_those_of_all_branches(model, schedule, monkeypatch):
    guidance = guided(SCHEDULES[schedule])
    mine, rows = drawn(model, guidance, monkeypatch, every=False)
    expected, most = drawn(model, guidance, monkeypatch, every=True)
    assert rows <= most
    for step, other in zip(mine, expected, strict=True):
        if model.spec.discrete:
            assert torch.equal(step.codes, other.codes)
            torch.testing.assert_close(step.logp, other.logp, rtol=0, atol=1e-4)
        else:
            rounding = 1e-4 * other.codes.abs().max().item()
            torch.testing.assert_close(step.codes, other.codes, rtol=0, atol=rounding)


@pytest.mark.parametrize(
    ("name", "schedule", "share"),
    [
        ("llamagen", "last steps", 6 / 8),
        ("rar", "last steps", 6 / 8),
        ("llamagen", "both ends", 7 / 8),
        ("rar", "first steps", 1),
        ("llamagen", "all", 1 / 2),
        ("maskgit", "first steps", 5 / 8),
        ("maskgit", "middle", 6 / 8),
        ("maskgit", "both ends", 5 / 8),
        ("mar", "last steps", 6 / 8),
    ],
)
def test_rows_are_left_out(name, schedule, share, monkeypatch):
    model = build(*models()[name])
    steps, rows = drawn(model, guided(SCHEDULES[schedule]), monkeypatch, every=False)
    assert rows == share * 6 * len(steps)
    _, rows = drawn(model, guided(SCHEDULES[schedule]), monkeypatch, every=True)
    assert rows == 6 * len(steps)


def test_from_which_step_on_the_condition_is_alone():
    assert alone_from(Guidance(2.0, "interval", stop=0.5), 8) == 4
    assert alone_from(Guidance(schedule="list", scales=(1.0, 2.0)), 8) == 8
    assert alone_from(Guidance(schedule="list", scales=(1.0, 2.0, 1.0)), 3) == 2
    assert alone_from(Guidance(2.0, "interval", stop=0.5, pictures=1.0), 8) == 4
    assert alone_from(Guidance(2.0, "interval", stop=0.5, pictures=1.5), 8) == 8
    assert alone_from(Guidance(2.0, "linear"), 8) == alone_from(Guidance(1.0), 8) == 8
