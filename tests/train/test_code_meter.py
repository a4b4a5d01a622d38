"""The meter of codes that no table is cared for."""

from typing import Any

import pytest
import torch

from builders import build
from smalti.codes import TokenSpec
from smalti.tokenizers import dalle_dvae, dual, open_magvit2
from smalti.train.code_meter import WINDOW, CodeMeter
from smalti.train.dual import DualObjectiveConfig
from smalti.train.objectives import ReconstructionConfig
from smalti.train.relaxation import RelaxationConfig

PLAIN: dict[str, Any] = {"perceptual": "none", "gan_weight": 0.0}


def test_codes_of_the_last_steps_are_in_use():
    spec = TokenSpec(((2, 2),), 2, channels=3)
    meter = CodeMeter(spec)
    assert meter.meters()["usage"] == 0
    some = torch.tensor([[[0, 0, 0], [1, 0, 0], [1, 1, 1], [1, 1, 1]]])
    meter.observe(some.view(1, 2, 2, 3))
    assert meter.meters()["usage"] == pytest.approx(3 / 8)
    entropy = 0.5 * 2 * torch.tensor(4.0).log() / 2 + 0.5 * torch.tensor(2.0).log()
    assert meter.meters()["perplexity"] == pytest.approx(entropy.exp().item())
    first = meter.counts.clone()
    meter.observe(some)
    assert torch.allclose(meter.counts, 1.99 * first), "older counts fade by a hundredth a step"
    for _ in range(WINDOW - 1):
        meter.observe(some[:, :1].expand(1, 4, 3))
    assert meter.meters()["usage"] == pytest.approx(3 / 8)
    meter.observe(some[:, :1].expand(1, 4, 3))
    assert meter.meters()["usage"] == pytest.approx(1 / 8)


def test_groups_of_many_bits_and_numbers_are_counted_apart():
    bits = CodeMeter(TokenSpec(((1, 2),), 2, channels=20))
    bits.observe(torch.zeros(3, 2, 20, dtype=torch.int64))
    assert bits.counts.shape == (2, 2**10) and bits.meters()["usage"] == 2**-10
    uneven = CodeMeter(TokenSpec(((32, 32),), 2, channels=17))  # 9 and 8
    every = torch.arange(1024)[:, None] // 2 ** torch.arange(17) % 2
    uneven.observe(torch.where(torch.arange(17) < 9, every, every.roll(9, 1))[None])
    assert uneven.meters()["usage"] == 1
    numbers = CodeMeter(TokenSpec(((1, 2),), 6))
    numbers.observe(torch.tensor([[0, 5]]))
    assert numbers.meters()["usage"] == pytest.approx(2 / 6)
    assert numbers.meters()["perplexity"] == pytest.approx(2)


@pytest.mark.parametrize(
    ("module", "config", "goal"),
    [
        (dalle_dvae.DalleDVAE, dalle_dvae.tiny(), RelaxationConfig()),
        (dual.DualTokenizer, dual.tiny(), DualObjectiveConfig(**PLAIN)),
        (open_magvit2.OpenMAGVIT2LFQ, open_magvit2.tiny(), ReconstructionConfig(**PLAIN)),
    ],
    ids=["dVAE", "two levels", "signs"],
)
@torch.no_grad()
def test_parts_of_a_step_are_one_step(module, config, goal):
    objective = goal.objective(build(module, config), 0, 10)
    batch = {"images": torch.zeros(2, 3, *config.size, dtype=torch.uint8)}
    meters = [m for m in objective.modules() if isinstance(m, CodeMeter)]
    totals = list[list[float]]()
    for step in (0, 0, 1):
        objective(batch, step)
        totals.append([meter.counts.sum().item() for meter in meters])
    first, second, third = (torch.tensor(t) for t in totals)
    assert len(first) and torch.equal(second, 2 * first), "older counts do not fade within a step"
    torch.testing.assert_close(third, 2.98 * first)
    assert all(meter.age[meter.counts == 0].eq(WINDOW + 2).all() for meter in meters)
