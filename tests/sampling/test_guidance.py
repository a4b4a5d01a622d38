import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from smalti.codes import Cond, Past
from smalti.heads.categorical import CategoricalHead
from smalti.sampling.guidance import ClassifierFree, Guidance, Projected, Unguided


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
        ({"schedule": "list"}, "needs at least one, got \\(\\) with 'list'"),
        ({"scales": (2.0,)}, "are for the schedule 'list', .* with 'constant'"),
        ({"schedule": "list", "scales": (2.0, -1.0)}, "scales must be 0 or more, got -1.0 at 1"),
        ({"schedule": "list", "scales": (math.nan,)}, "got nan at 0"),
        ({"parallel": -0.1}, "parallel must be 0 or more, got -0.1"),
        ({"rescale": math.inf}, "rescale must be 0 or more, got inf"),
        ({"momentum": -1.0}, "momentum must be between -1 and 1, got -1.0"),
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


def test_a_list_is_the_scale_of_each_step_and_of_the_nearest_with_other_numbers():
    guidance = Guidance(schedule="list", scales=(1.0, 2.0, 4.0, 3.0))
    assert scales(guidance, 4) == [1, 2, 4, 3]
    assert scales(guidance, 8) == [1, 1, 2, 2, 4, 4, 3, 3]
    assert scales(guidance, 2) == [2, 3]
    assert scales(guidance, 1) == [4]
    assert not guidance.off and guidance.at(1, 4) == ClassifierFree(2.0)
    assert Guidance(3.0, "list", scales=(1.0, 1.0)).off


@given(st.lists(st.floats(0, 10), min_size=1, max_size=30), st.integers(1, 64))
def test_any_list_serves_any_number_of_steps(values, steps):
    found = scales(Guidance(schedule="list", scales=tuple(values)), steps)
    assert set(found) <= set(values)
    if steps >= len(values):
        assert set(found) == set(values)


def test_linear_by_what_is_revealed_is_that_of_mar():
    """MAR: 1 + (cfg - 1) * (S - mask_len) / S, where mask_len stay masked after the step."""
    positions, cfg, steps = 256, 2.9, 64
    for step in range(steps - 1):
        masked = math.floor(positions * math.cos(math.pi / 2 * (step + 1) / steps))
        share = (positions - masked) / positions
        guide = Guidance(cfg, "linear").at(step, steps, share)
        assert guide == ClassifierFree(1 + (cfg - 1) * (positions - masked) / positions)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@given(st.integers(2, 50), st.data())
def test_ramps_follow_the_share(schedule, steps, data):
    share = data.draw(st.floats(0, 1))
    guidance = Guidance(3.0, schedule)
    found = {guidance.scale_at(step, steps, share) for step in range(steps)}
    assert len(found) == 1 and 1 <= found.pop() <= 3
    assert guidance.scale_at(0, steps, 0.0) == 1 and guidance.scale_at(0, steps, 1.0) == 3
    for other in (Guidance(3.0, "interval", start=0.5), Guidance(3.0, "power-cosine", power=2.0)):
        assert other.scale_at(1, steps, share) == other.scale_at(1, steps)


pairs = st.integers(0, 2**31).map(
    lambda seed: torch.randn(4, 3, 8, generator=torch.Generator().manual_seed(seed))
)
"""Predictions (2 B, n, C)."""


def cosines(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cosine_similarity(a, b, dim=-1)


@given(pairs, st.floats(0, 10))
def test_projected_guidance_at_its_defaults_is_plain_guidance(pair, scale):
    torch.testing.assert_close(Projected(scale).merge(pair), ClassifierFree(scale).merge(pair))


@given(pairs, st.floats(0, 2), st.floats(0.1, 5))
def test_the_parallel_part_is_weighted_and_the_rest_orthogonal(pair, parallel, rescale):
    cond = pair.chunk(2)[0]
    assert cosines(Projected(2.0, parallel=0.0).merge(pair) - cond, cond).abs().max() < 1e-5
    whole, part = (Projected(2.0, p, rescale).merge(pair) - cond for p in (1.0, parallel))
    along = (whole * cond).sum(-1), (part * cond).sum(-1)
    torch.testing.assert_close(along[1], parallel * along[0], rtol=1e-3, atol=1e-4)
    unit = cond / cond.square().sum(-1, keepdim=True)
    expected = (1 - parallel) * along[0].unsqueeze(-1) * unit
    torch.testing.assert_close(whole - part, expected, rtol=1e-3, atol=1e-4)


@given(pairs, st.floats(0.01, 10))
def test_guidance_is_no_longer_than_the_limit(pair, limit):
    cond, uncond = pair.chunk(2)
    change = Projected(2.0, rescale=limit).merge(pair) - cond
    length = (cond - uncond).norm(dim=-1)
    torch.testing.assert_close(change.norm(dim=-1), length.clamp(max=limit), rtol=1e-3, atol=1e-4)
    assert cosines(change, cond - uncond).min() > 0.999


@given(st.tuples(pairs, pairs, pairs), st.floats(-0.9, 0.9))
def test_momentum_sums_up_the_steps_of_one_solver(three, momentum):
    guide, running, past = Projected(3.0, momentum=momentum), torch.zeros(2, 3, 8), Past()
    for pair in three:
        cond, uncond = pair.chunk(2)
        running = cond - uncond + momentum * running
        found = guide.merge(pair, past)
        torch.testing.assert_close(found, cond + 2 * running, rtol=1e-4, atol=1e-4)
        alone = guide.merge(pair)  # which is no step of it
        torch.testing.assert_close(alone, cond + 2 * (cond - uncond), rtol=1e-4, atol=1e-4)


def test_a_projected_guide_keeps_nothing():
    guidance = Guidance(4.0, "linear", parallel=0.2, rescale=5.0, momentum=-0.5)
    guide, pair = guidance.at(3, 4), torch.randn(2, 3, 8)
    assert guide == Projected(4.0, 0.2, 5.0, -0.5) and guide.clean
    assert torch.equal(guide.merge(pair), guide.merge(pair))
    for plain in (Guidance(4.0), Guidance(1.0, parallel=0.0)):
        assert not plain.projected or plain.at(0, 4) == Unguided()


def test_a_constant_added_to_all_logits_changes_no_guided_code():
    torch.manual_seed(0)
    head, h = CategoricalHead(8, 16, bias=True), torch.randn(4, 3, 8)
    guide = Projected(3.0, parallel=0.0, rescale=1.0)
    with torch.no_grad():
        before = head.merged(h, guide).softmax(-1)
        head.proj.bias += 7
        after = head.merged(h, guide).softmax(-1)
        plain = head.merged(h, ClassifierFree(3.0))
        torch.testing.assert_close(plain, ClassifierFree(3.0).merge(head.logits(h)))
    torch.testing.assert_close(after, before)
    assert (before - plain.softmax(-1)).abs().max() > 0.01
