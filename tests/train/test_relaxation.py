"""The objective of a dVAE: densities that are densities, schedules, gradients."""

import math

import pytest
import torch

from builders import build
from smalti.recipes.dalle import dalle_dvae, emoji_dvae
from smalti.runs.schedule import with_steps
from smalti.tokenizers.dalle_dvae import DalleDVAE, tiny
from smalti.train.relaxation import RelaxationConfig, divergence, unlikelihood


@pytest.mark.parametrize(("mean", "width"), [(0.0, 0.5), (-1.2, 0.3), (0.7, 0.9)])
def test_the_likelihood_is_a_density_between_0_and_1(mean, width):
    edges = torch.linspace(-40, 40, 400_001, dtype=torch.float64).sigmoid()
    middle = (edges[1:] + edges[:-1]) / 2
    inside = (middle > 0) & (middle < 1)
    values = middle[inside].view(1, 1, 1, -1)
    stats = torch.tensor([mean, math.log(width)], dtype=torch.float64).view(1, 2, 1, 1)
    density = (-unlikelihood(values, stats.expand(1, 2, 1, values.shape[-1]))).exp()
    share = (density.flatten() * edges.diff()[inside]).sum()
    assert share.item() == pytest.approx(1, abs=1e-3)
    half = values.flatten() < torch.tensor(mean).sigmoid()
    below = (density.flatten() * edges.diff()[inside])[half].sum()
    assert below.item() == pytest.approx(0.5, abs=1e-3), "the mean is that of logits"


def test_the_divergence_is_from_equal_likelihood():
    logits = torch.zeros(2, 8, 3, 3)
    assert divergence(logits).abs().max() < 1e-6
    logits[:, 2] = 100
    torch.testing.assert_close(divergence(logits), torch.full((2, 3, 3), math.log(8)))


def test_schedules_end_where_they_should_and_follow_the_steps():
    config = dalle_dvae().objective
    assert isinstance(config, RelaxationConfig)
    assert config.at(0) == (1.0, 0.0)
    assert config.at(75_000)[0] == pytest.approx((1 + 1 / 16) / 2)
    assert config.at(2500)[1] == pytest.approx(3.3)
    assert config.at(150_000) == config.at(3_000_000) == (1 / 16, 6.6)
    recipe = emoji_dvae()
    short = with_steps(recipe, recipe.train.steps // 4).objective
    assert isinstance(short, RelaxationConfig) and isinstance(recipe.objective, RelaxationConfig)
    assert short.temperature_steps == recipe.objective.temperature_steps // 4
    assert short.kl_steps == recipe.objective.kl_steps // 4
    assert RelaxationConfig(temperature_steps=0, kl_steps=0).at(0) == (1 / 16, 6.6)


def test_it_learns_and_its_gradient_reaches_every_parameter():
    torch.manual_seed(0)
    model = DalleDVAE(tiny()).train()
    objective = RelaxationConfig(temperature_steps=20, kl_steps=10).objective(model, 0, 40)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (4, 3, 1, 1), generator=generator).expand(4, 3, 16, 16)
    batch = {"images": images.to(torch.uint8)}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    first, last, moved = 0.0, 0.0, set[str]()
    for step in range(40):
        losses = objective(batch, step)
        optimizer.zero_grad()
        losses.totals["model"].backward()
        moved |= {name for name, p in model.named_parameters() if grown(p.grad)}
        optimizer.step()
        last = losses.logs["nats"].item()
        first = first or last
    assert moved == {name for name, _ in model.named_parameters()}
    assert last < first - 0.2 and losses.logs.keys() >= {"psnr", "kl", "usage", "temperature"}


def grown(gradient: torch.Tensor | None) -> bool:
    return gradient is not None and gradient.abs().max().item() > 0


def test_the_total_is_nats_and_weighed_divergence():
    model = build(DalleDVAE, tiny())
    objective = RelaxationConfig(kl_weight=3.0, kl_steps=0).objective(model, 0, 10)
    images = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    torch.manual_seed(3)
    logs = objective({"images": images}, 0).logs
    expected = logs["nats"] + 3 * logs["kl"] / (3 * 16 * 16)
    torch.testing.assert_close(logs["loss"], expected)
    torch.manual_seed(3)
    assert objective({"images": images}, 0).logs["nats"] == logs["nats"]
    torch.manual_seed(4)
    assert objective({"images": images}, 0).logs["nats"] != logs["nats"], "codes are drawn"


def test_what_is_logged_is_where_the_losses_are():
    objective = RelaxationConfig().objective(build(DalleDVAE, tiny()), 0, 10)
    batch = {"images": torch.zeros(2, 3, 16, 16, dtype=torch.uint8)}
    with torch.device("meta"):  # where new tensors are that are not told where
        logs = objective(batch, 0).logs
    assert {value.device.type for value in logs.values()} == {"cpu"}


@pytest.mark.parametrize("bad", [{"temperature": 0.0}, {"kl_weight": -1.0}, {"kl_steps": -1}])
def test_bad_settings(bad):
    (name, value) = next(iter(bad.items()))
    with pytest.raises(ValueError, match=f"{name} must be .*, got {value}"):
        RelaxationConfig(**bad)
