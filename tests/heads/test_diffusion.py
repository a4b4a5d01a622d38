import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from plain_head import plain_net, plain_sample
from smalti.heads import diffusion
from smalti.heads.diffusion import DiffusionConfig, DiffusionHead
from smalti.sampling.chance import Chance
from smalti.sampling.filters import Filters
from smalti.sampling.guidance import ClassifierFree, Projected, Unguided
from smalti.sampling.noise import Noise, SlotNoise
from smalti.sampling.solvers import NAMES, Kind, Solver, cosine, path

EARLY = "4,3,2,0"
"""Steps that begin in the middle of the schedule, where a random head's codes stay near 1."""
KINDS: list[Kind] = ["diffusion", "flow"]
SOLVERS = [(kind, name) for kind in KINDS for name in NAMES[kind]]


def small(kind: Kind = "diffusion", dim: int = 12, channels: int = 4, **fields: Any):
    """A head with random weights everywhere."""
    torch.manual_seed(0)
    head = DiffusionHead(
        dim, channels, DiffusionConfig(**({"depth": 2, "width": 32, "kind": kind} | fields))
    )
    for parameter in head.parameters():
        nn.init.normal_(parameter, std=0.1)
    return head.eval()


def sample(head, h, guide, noise, solver=Solver(), temperature=1.0):  # noqa: B008 - it is frozen
    return head.sample(h, Chance(guide, noise, Filters(temperature), solver))


def slot_noise(batch: int, slots: Tensor, seed: int = 0, first: int = 0) -> SlotNoise:
    return SlotNoise(Noise.request(seed, batch, first), slots)


def solve(head: DiffusionHead, z: Tensor, guide: Any, steps: str = EARLY) -> Tensor:
    way = path(Solver(steps=steps), head.kind)
    noise = torch.randn(way.draws, z.shape[1], 4, generator=torch.Generator().manual_seed(0))
    return head.solve(z, guide, noise, way, 0.9)


@pytest.mark.parametrize("chunk", [1, 20, 10_000])
@pytest.mark.parametrize("scale", [0.0, 1.0, 2.5])
@torch.no_grad()
def test_sampling_equals_the_plain_way(chunk, scale, monkeypatch):
    monkeypatch.setattr(diffusion, "MODULATED", chunk)
    head, rows = small(), 5
    z, noise = torch.randn(2, rows, 12), torch.randn(10, rows, 4)
    way = path(Solver(steps=EARLY), "diffusion")
    ours = head.solve(z, ClassifierFree(scale), noise, way, 0.9)
    plain = plain_sample(head, z.flatten(0, 1), scale, noise, EARLY, 0.9)
    assert 0.3 < plain.std() < 10
    torch.testing.assert_close(ours, plain, rtol=0, atol=1e-5)


@torch.no_grad()
def test_the_network_equals_the_plain_one_and_broadcasts():
    head = small()
    x, t, z = torch.randn(6, 4), torch.tensor([0, 1, 10, 500, 998, 999]), torch.randn(6, 12)
    torch.testing.assert_close(head.predict(x, t, z), plain_net(head, x, t, z))
    grid = head.predict(x[:, None], t, z[:, None])  # all codes at all times
    assert grid.shape == (6, 6, 8)
    torch.testing.assert_close(grid.diagonal().T, plain_net(head, x, t, z), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("kind", "name"), SOLVERS)
@torch.no_grad()
def test_guidance_1_is_no_guidance_with_every_solver(kind, name):
    head, slots = small(kind), torch.tensor([3, 5])
    steps = EARLY if kind == "diffusion" else "6"
    h, solver = torch.randn(4, 2, 12), Solver(name, steps)
    noise = slot_noise(2, slots)
    alone = sample(head, h[:2], Unguided(), noise, solver)
    guided = sample(head, h, ClassifierFree(1.0), noise, solver)
    away = sample(head, h, ClassifierFree(3.0), noise, solver)
    assert alone.codes.shape == (2, 2, 4) and alone.codes.dtype == torch.float32
    assert alone.logp.shape == (2, 2) and alone.logp.isnan().all()
    torch.testing.assert_close(guided.codes, alone.codes, rtol=1e-5, atol=1e-5)
    assert (away.codes - alone.codes).abs().max() > 0.01
    assert guided.h is h


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_projected_guidance_that_changes_nothing_is_plain_guidance(kind):
    head, z = small(kind), torch.randn(2, 5, 12)
    steps = EARLY if kind == "diffusion" else "6"
    plain = solve(head, z, ClassifierFree(2.5), steps=steps)
    torch.testing.assert_close(
        solve(head, z, Projected(2.5), steps=steps), plain, rtol=1e-5, atol=1e-5
    )
    for other in ({"parallel": 0.0}, {"rescale": 0.1}, {"momentum": -0.5}):
        assert (solve(head, z, Projected(2.5, **other), steps=steps) - plain).abs().max() > 1e-3


@torch.no_grad()
def test_a_temperature_may_be_given_as_those_of_depths_are():
    head, h, noise = small("diffusion"), torch.randn(2, 3, 12), slot_noise(2, torch.arange(3))
    chances = (Chance(Unguided(), noise, Filters(t), Solver(steps=EARLY)) for t in (0.9, (0.9,)))
    found = [head.sample(h, chance) for chance in chances]
    assert torch.equal(found[0].codes, found[1].codes)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_a_code_depends_on_its_image_and_slot_alone(kind):
    head, slots = small(kind), torch.tensor([[3, 5, 8], [1, 5, 2]])
    solver = Solver(steps=EARLY if kind == "diffusion" else "6")
    h = torch.randn(2, 3, 12)
    together = sample(head, h, Unguided(), slot_noise(2, slots), solver).codes
    for image in range(2):
        for i in range(3):
            one = slot_noise(1, slots[image : image + 1, i : i + 1], first=image)
            one = one._replace(step=7)  # in whatever step of generation it is drawn
            alone = sample(head, h[image, i].view(1, 1, -1), Unguided(), one, solver)
            torch.testing.assert_close(alone.codes[0, 0], together[image, i], rtol=0, atol=1e-5)
    assert (together[0, 1] - together[1, 1]).abs().max() > 0.01


def test_nothing_to_draw_is_no_error():
    noise = slot_noise(2, torch.zeros(0, dtype=torch.int64))
    drawn = sample(small(), torch.zeros(4, 0, 12), ClassifierFree(2.0), noise)
    assert drawn.codes.shape == (2, 0, 4) and drawn.logp.shape == (2, 0)


@torch.no_grad()
def test_the_temperature_is_that_of_the_filters():
    head, h, slots = small(), torch.randn(2, 3, 12), torch.arange(3)
    drawn = [
        sample(head, h, Unguided(), slot_noise(2, slots), Solver(steps=EARLY), t)
        for t in (0.9, 1.0)
    ]
    assert (drawn[0].codes - drawn[1].codes).abs().max() > 1e-3


@torch.no_grad()
def test_clipped_codes_stay_within():
    head, clipped = small(), small(clip=0.5)
    h, slots = 3 * torch.randn(2, 8, 12), torch.arange(8)
    for codes, most in ((head, math.inf), (clipped, 0.5)):
        codes = sample(codes, h, Unguided(), slot_noise(2, slots)).codes
        assert (codes.abs().max() <= 0.5) == (most == 0.5)


@pytest.mark.parametrize(("kind", "name"), SOLVERS)
@torch.no_grad()
def test_bfloat16_stays_close(kind, name):
    head, h, slots = small(kind), torch.randn(8, 4, 12), torch.arange(4)
    solver = Solver(name, EARLY if kind == "diffusion" else "6")
    exact = sample(head, h, ClassifierFree(1.5), slot_noise(4, slots), solver).codes
    rough = sample(head.bfloat16(), h.bfloat16(), ClassifierFree(1.5), slot_noise(4, slots), solver)
    assert rough.codes.dtype == torch.float32
    assert (rough.codes - exact).abs().mean() < 0.05 * exact.std()


def test_a_new_head_predicts_nothing_and_its_loss_is_the_size_of_the_target():
    codes, slots, h = torch.randn(2, 300, 4), torch.arange(300), torch.randn(2, 300, 12)
    diffusing = DiffusionHead(12, 4, DiffusionConfig(depth=1, width=8, repeat=1))
    t, eps = torch.full((2, 300), 500), torch.randn(2, 300, 4)
    parts = diffusing.errors(h, codes, t, eps)
    torch.testing.assert_close(parts["mse"], eps.square().mean(-1))
    assert (parts["vb"] > 0).all()
    flow = DiffusionHead(12, 4, DiffusionConfig("flow", depth=1, width=8, repeat=1))
    assert flow.loss(
        h, codes, SlotNoise(Noise.request(0, 2), slots)
    ).mean().item() == pytest.approx(2, 0.1)


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_the_mean_over_addressed_times_and_noises(kind):
    head, slots = small(kind, repeat=3), torch.tensor([[4, 0], [9, 7]])
    h, codes, noise = torch.randn(2, 2, 12), torch.randn(2, 2, 4), Noise.request(5, 2)
    loss = head.loss(h, codes, SlotNoise(noise, slots))
    t = noise.uniform(slots, 3, diffusion.TRAINING)
    t = (t * 1000).long() if kind == "diffusion" else t
    eps = noise.normal(slots, 12, diffusion.TRAINING).view(2, 2, 3, 4)
    parts = [sum(head.errors(h, codes, t[..., i], eps[..., i, :]).values()) for i in range(3)]
    torch.testing.assert_close(loss, torch.stack(parts).mean(0))
    swapped = head.loss(h.flip(1), codes.flip(1), SlotNoise(noise, slots.flip(1)))
    torch.testing.assert_close(swapped, loss.flip(1))
    second = Noise(noise.seeds[1:], noise.index[1:])
    torch.testing.assert_close(head.loss(h[1:], codes[1:], SlotNoise(second, slots[1:])), loss[1:])


def test_the_errors_of_a_flow_are_those_of_its_velocity():
    head = small("flow")
    h, codes, eps, t = torch.randn(5, 12), torch.randn(5, 4), torch.randn(5, 4), torch.rand(5)
    x = t[:, None] * codes + (1 - t[:, None]) * eps
    error = head.predict(x, 1000 * t, h) - (codes - eps)
    torch.testing.assert_close(head.errors(h, codes, t, eps)["mse"], error.square().mean(-1))


def test_the_bound_teaches_the_variance_alone():
    """`vb` has no gradient through the predicted noise; its least is at the true variance."""
    head = small()
    h, codes, eps = torch.randn(50, 12), torch.randn(50, 4), torch.randn(50, 4)
    t = torch.arange(0, 1000, 20)
    head.errors(h, codes, t, eps)["vb"].sum().backward()
    grad = head.out.weight.grad
    assert grad is not None
    assert (grad[:4] == 0).all() and (grad[4:] != 0).any()
    with torch.no_grad():  # a head that knows the noise, and says the variance of the posterior
        for parameter in (head.out.weight, head.out.bias):
            parameter.zero_()
        bounds = []
        for range_ in (-1.0, 0.0, 1.0):
            head.out.bias[4:] = range_
            bounds.append(head.errors(h, codes, t[1:, None], torch.zeros(4))["vb"].mean().item())
    assert bounds[0] == pytest.approx(0, abs=1e-9) and 1e-6 < bounds[1] < bounds[2]


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_reaches_every_parameter(kind):
    head = small(kind)
    h, codes = torch.randn(2, 3, 12), torch.randn(2, 3, 4)
    head.loss(h, codes, slot_noise(2, torch.arange(3))).mean().backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


def trained(kind: Kind, modes: Tensor) -> DiffusionHead:
    """A head that has learned a mixture of narrow Gaussians for hidden state 0, (M, 2), and its
    mirror image for hidden state 1."""
    torch.manual_seed(0)
    head = DiffusionHead(2, 2, DiffusionConfig(kind, depth=2, width=64, repeat=2))
    optimizer = torch.optim.AdamW(head.parameters(), lr=4e-3, betas=(0.9, 0.95))
    slots, steps = torch.arange(256), 200
    for step in range(steps):
        which = torch.arange(256) % 2
        codes = modes[torch.randint(len(modes), (256,))] + 0.05 * torch.randn(256, 2)
        codes = torch.where(which[:, None] == 1, -codes, codes)
        h = nn.functional.one_hot(which, 2).float()
        loss = head.loss(h[None], codes[None], SlotNoise(Noise.request(step, 1), slots)).mean()
        optimizer.param_groups[0]["lr"] = 4e-3 * (1 - step / steps)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return head.eval()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.slow
def test_a_trained_head_draws_every_mode_with_every_solver(kind):
    modes = torch.tensor([[1.5, 0.5], [-0.5, 1.5], [0.0, -1.0]])
    head, n = trained(kind, modes), 300
    h = torch.eye(2).repeat_interleave(n, 0)[None]
    for name in NAMES[kind]:
        # ancestral sampling begins where an error of the noise counts 20,000 times
        clip = 2.5 if name == "ancestral" else 0.0
        head.config = replace(head.config, clip=clip)
        solver = Solver(name, "25")
        with torch.no_grad():
            drawn = sample(head, h, Unguided(), slot_noise(1, torch.arange(2 * n)), solver).codes
        for codes, signed in zip(drawn[0].split(n), (modes, -modes), strict=True):
            distance, nearest = torch.cdist(codes, signed).min(1)
            shares = nearest.bincount(minlength=3) / n
            assert (distance < 0.35).float().mean() > 0.85, name
            assert shares.min() > 0.2 and shares.max() < 0.5, (name, shares)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "score"}, "kind must be one of diffusion, flow, got 'score'"),
        ({"depth": 0}, "depth must be at least 1, got 0"),
        ({"width": 0}, "width must be at least 1, got 0"),
        ({"repeat": 0}, "repeat must be at least 1, got 0"),
        ({"timesteps": 0}, "timesteps must be at least 1, got 0"),
        ({"clip": -1.0}, "clip must be 0 .off. or more, got -1.0"),
    ],
)
def test_bad_configs(fields, message):
    with pytest.raises(ValueError, match=message):
        DiffusionConfig(**fields)


@pytest.mark.parametrize(
    ("kind", "solver", "message"),
    [
        ("diffusion", Solver("midpoint"), "solved by ancestral, ddim, dpm, got 'midpoint'"),
        ("flow", Solver("ddim"), "solved by euler, midpoint, got 'ddim'"),
        ("diffusion", Solver(steps="2000"), "1000 timesteps cannot be respaced to 2000"),
    ],
)
def test_a_solver_that_does_not_fit(kind, solver, message):
    noise = slot_noise(1, torch.arange(2))
    with pytest.raises(ValueError, match=message):
        sample(small(kind), torch.randn(1, 2, 12), Unguided(), noise, solver)


def test_the_schedule_of_another_length():
    head = small(timesteps=50)
    assert path(Solver(steps="5"), "diffusion", 50).times == (49, 37, 24, 12, 0)
    solver = Solver(steps="50")
    assert (
        sample(head, torch.randn(1, 2, 12), Unguided(), slot_noise(1, torch.arange(2)), solver)
        .codes.isfinite()
        .all()
    )
    codes, t = torch.randn(2, 4), torch.tensor([49, 0])
    eps = torch.randn(2, 4)
    kept = torch.tensor(cosine(50).kept)[t][:, None]
    x = kept.sqrt() * codes + (1 - kept).sqrt() * eps
    h = torch.randn(2, 12)
    error = head.predict(x, t, h)[..., :4] - eps
    torch.testing.assert_close(head.errors(h, codes, t, eps)["mse"], error.square().mean(-1))
