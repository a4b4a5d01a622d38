import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from smalti.codes import Cond
from smalti.sampling.guidance import ClassifierFree, Guidance, Unguided


def scales(guidance: Guidance, steps: int) -> list[float]:
    return [guidance.scale_at(i, steps) for i in range(steps)]


def test_constant():
    assert scales(Guidance(4.0), 3) == [4.0, 4.0, 4.0]


def test_linear_is_a_ramp_from_1_to_the_scale():
    assert scales(Guidance(4.0, "linear"), 4) == [1.0, 2.0, 3.0, 4.0]


def test_cosine():
    expected = [1 + 3 * (1 - math.cos(math.pi * i / 4)) / 2 for i in range(5)]
    assert scales(Guidance(4.0, "cosine"), 5) == pytest.approx(expected)
    assert expected[0] == 1 and expected[2] == 2.5 and expected[-1] == 4


def test_one_step_has_no_ramp_to_climb():
    assert [scales(Guidance(4.0, s), 1) for s in ("constant", "linear", "interval")] == [
        [4.0],
        [1.0],
        [4.0],
    ]


@pytest.mark.parametrize("power", [1.0, 2.75])
def test_power_cosine_is_that_of_rar(power):
    """RAR: u + (c - u) * (1 + (scale - 1) * (1 - cos(pi * (step / steps) ** power)) / 2)."""
    steps, scale = 16, 6.9
    cond, uncond = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0)).unbind()
    for step in range(steps):
        ratio = torch.ones(()).double() * step / steps
        weight = (1 - torch.cos(torch.pi * ratio**power)) / 2
        rar = uncond + (cond - uncond) * ((scale - 1) * weight + 1)
        guide = Guidance(scale, "power-cosine", power=power).at(step, steps)
        torch.testing.assert_close(guide.merge(torch.cat((cond, uncond))), rar.float())
    assert Guidance(scale, "power-cosine").scale_at(0, steps) == 1
    assert 1 < Guidance(scale, "power-cosine").scale_at(steps - 1, steps) < scale


def test_power_0_is_constant():
    assert scales(Guidance(3.0, "power-cosine", power=0), 5) == pytest.approx([3.0] * 5)


def test_linear_is_that_of_var():
    """VAR: (1 + t) * cond - t * uncond with t = cfg * step / last step; our s is 1 + cfg."""
    cfg, steps = 1.5, 10
    cond, uncond = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0)).unbind()
    for step in range(steps):
        t = cfg * step / (steps - 1)
        guide = Guidance(1 + cfg, "linear").at(step, steps)
        merged = guide.merge(torch.cat((cond, uncond)))
        torch.testing.assert_close(merged, (1 + t) * cond - t * uncond)


def test_interval_is_on_from_start_to_before_stop():
    assert scales(Guidance(3.0, "interval", start=0.25, stop=0.75), 8) == [1, 1, 3, 3, 3, 3, 1, 1]
    assert scales(Guidance(3.0, "interval"), 4) == [3, 3, 3, 3]


@given(st.integers(1, 1024), st.data())
def test_interval_hits_whole_steps_whatever_the_rounding(steps, data):
    first = data.draw(st.integers(0, steps - 1))
    end = data.draw(st.integers(first + 1, steps))
    guidance = Guidance(2.0, "interval", start=first / steps, stop=end / steps)
    assert scales(guidance, steps) == [2.0 if first <= i < end else 1.0 for i in range(steps)]


def test_merge_is_u_plus_s_times_c_minus_u_with_the_condition_first():
    cond, uncond = torch.tensor([[1.0, 2.0]]), torch.tensor([[5.0, -2.0]])
    both = torch.cat((cond, uncond))
    assert ClassifierFree(3.0).merge(both).tolist() == [[-7.0, 10.0]]
    assert torch.equal(ClassifierFree(1.0).merge(both), cond)
    assert torch.equal(ClassifierFree(0.0).merge(both), uncond)
    assert torch.equal(ClassifierFree(3.0).tile(cond), torch.cat((cond, cond)))


def test_unguided_is_one_branch():
    x = torch.randn(2, 3)
    assert Unguided().tile(x) is x and Unguided().merge(x) is x


def test_scale_1_computes_one_branch_of_any_schedule():
    cond = Cond(labels=torch.tensor([3, 4]))
    for schedule in ("constant", "linear", "cosine", "power-cosine", "interval"):
        guidance = Guidance(1.0, schedule)
        assert guidance.off and guidance.branches(cond) is cond
        assert guidance.at(0, 4) == Unguided()


def test_two_branches_are_kept_where_the_scale_is_1():
    guidance = Guidance(2.0, "linear")
    branches = guidance.branches(Cond(labels=torch.tensor([3, 4])))
    assert branches.labels.tolist() == [3, 4, 3, 4]
    assert branches.drop.tolist() == [False, False, True, True]
    assert guidance.at(0, 4) == ClassifierFree(1.0)
    assert guidance.at(3, 4) == ClassifierFree(2.0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"schedule": "ramp"}, "must be one of constant, linear, .* got 'ramp'"),
        ({"scale": -0.5}, "scale must be 0 or more .* got -0.5"),
        ({"scale": math.nan}, "got nan"),
        ({"scale": math.inf}, "got inf"),
        ({"power": -1.0}, "power must be 0 or more, got -1"),
        ({"start": 0.5, "stop": 0.5}, "start 0.5, stop 0.5"),
        ({"start": -0.1}, "start -0.1"),
        ({"stop": 1.1}, "stop 1.1"),
    ],
)
def test_bad_values(values, message):
    with pytest.raises(ValueError, match=message):
        Guidance(**values)


@pytest.mark.parametrize("step", [-1, 4])
def test_a_step_out_of_range(step):
    with pytest.raises(ValueError, match=f"step must be in 0 ... 3, got {step}"):
        Guidance(2.0).scale_at(step, 4)


def test_a_negative_condition_is_the_second_branch():
    cond, negative = Cond(labels=torch.tensor([3, 4])), Cond(labels=torch.tensor([0, 1]))
    branches = Guidance(2.0).branches(cond, negative)
    assert branches.labels.tolist() == [3, 4, 0, 1] and not branches.drop.any()
    assert Guidance(1.0).branches(cond, negative) is cond
