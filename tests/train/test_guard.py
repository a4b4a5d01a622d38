"""Steps that go wrong are noticed, told of, and kept from the weights."""

import json
import math

import pytest
import torch
from torch import nn

from smalti.train.base import Losses
from smalti.train.guard import PATIENCE, SETTLING, Guard, GuardConfig
from smalti.train.optim import OptimConfig
from smalti.train.parallel import World
from smalti.train.settings import TrainConfig
from smalti.train.trainer import Trainer, TrainingStopped

WORLD = World(0, 1, torch.device("cpu"))


def judge(guard: Guard, losses: list[float], norm: float = 1.0) -> list[float]:
    return [float(guard.judge(torch.tensor(x), [torch.tensor(norm)])) for x in losses]


def noisy(count: int, mean: float = 5.0) -> list[float]:
    generator = torch.Generator().manual_seed(0)
    return (mean + 0.1 * torch.randn(count, generator=generator)).tolist()


def test_mean_and_variance_are_those_of_the_losses():
    guard, losses = Guard(GuardConfig()), noisy(SETTLING)
    assert judge(guard, losses) == [0] * SETTLING
    values = torch.tensor(losses)
    mean, variance, count = guard.stats.tolist()
    assert mean == pytest.approx(values.mean().item(), abs=1e-4) and count == SETTLING
    assert variance == pytest.approx(values.var(unbiased=False).item(), rel=1e-2)


@pytest.mark.parametrize("action", ["report", "skip", "stop"])
def test_a_spike(action):
    guard = Guard(GuardConfig(on_spike=action))
    kept_out = judge(guard, [*noisy(150), 9.0, *noisy(3)])
    assert kept_out == [0] * 150 + [float(action != "report")] + [0] * 3
    (event,) = guard.read(154)
    assert (event.step, event.kind, event.action) == (150, "spike", action)
    assert event.loss == 9.0 and event.mean == pytest.approx(5.0, abs=0.05)
    assert guard.read(154) == []


def test_no_spike_is_looked_for_too_early_or_where_none_is_wanted():
    early = Guard(GuardConfig(on_spike="skip"))
    assert judge(early, [*noisy(50), 9.0]) == [0] * 51
    off = Guard(GuardConfig(spike=0.0, on_spike="skip"))
    assert judge(off, [*noisy(150), 9.0]) == [0] * 151
    falling = Guard(GuardConfig(on_spike="skip"))
    assert judge(falling, [*noisy(150), 1.0]) == [0] * 151


def test_a_new_level_is_no_spike_for_ever():
    guard = Guard(GuardConfig(on_spike="skip"))
    kept_out = judge(guard, noisy(150) + noisy(100, mean=8.0))
    assert kept_out[150] == 1 and sum(kept_out[150:]) < 10


@pytest.mark.parametrize(("loss", "norm"), [(math.nan, 1.0), (math.inf, 1.0), (1.0, math.nan)])
def test_what_is_no_number_is_kept_out(loss, norm):
    guard = Guard(GuardConfig(on_nan="skip"))
    judge(guard, noisy(10))
    before = guard.stats.clone()
    assert judge(guard, [loss], norm) == [1.0]
    assert torch.equal(guard.stats, before)
    assert [(e.step, e.kind, e.action) for e in guard.read(11)] == [(10, "nan", "skip")]


def test_a_run_that_only_skips_stops():
    guard = Guard(GuardConfig(on_nan="skip"))
    actions = []
    for step in range(PATIENCE + 1):
        judge(guard, [math.nan])
        actions += [e.action for e in guard.read(step + 1)]
    assert actions == ["skip"] * PATIENCE + ["stop"]


def test_a_bad_setting():
    with pytest.raises(ValueError, match="spike must be 0 or more, got nan"):
        GuardConfig(spike=math.nan)


class Model(nn.Module):
    """One weight; the loss of one step is no number."""

    def __init__(self, bad: int | None) -> None:
        super().__init__()
        self.model = nn.Linear(1, 1)
        self.bad = bad

    def optimized(self):
        return {"model": self.model}

    def forward(self, batch, step):
        loss = self.model.weight.sum() * (math.nan if step == self.bad else 1.0)
        return Losses({"model": loss}, {"loss": loss.detach()})

    def advice(self, logs):
        return None


class Nothing:
    def batch(self, step):
        return {"x": torch.zeros(2)}

    def names(self, step):
        return ["first.png", "second.png"]


def run(folder, on_nan: str, steps: int, bad: int | None) -> Trainer:
    torch.manual_seed(0)
    optim, guard = OptimConfig(lr=0.1, clip=0.0), GuardConfig(on_nan=on_nan)
    config = TrainConfig(
        steps=steps, batch=2, optim=optim, guard=guard, log_every=2, precision="fp32"
    )
    trainer = Trainer(Model(bad), Nothing(), config, folder, WORLD)
    trainer.fit()
    return trainer


def test_a_skipped_step_leaves_weights_and_optimizer_alone(tmp_path, capsys):
    skipped = run(tmp_path / "a", "skip", steps=5, bad=3)
    told = capsys.readouterr().err
    assert (
        "no number (loss nan) at step 4, batch of first.png, second.png; the step is left" in told
    )
    whole = run(tmp_path / "b", "skip", steps=4, bad=None)
    assert torch.equal(skipped.objective.model.weight, whole.objective.model.weight)
    for trainer in (skipped, whole):
        assert float(trainer.optimizers["model"].state_dict()["state"][0]["step"]) == 4
    events = [json.loads(x) for x in (tmp_path / "a" / "metrics.jsonl").open()]
    assert [e["step"] for e in events if "event" in e] == [4]


def test_the_default_stops_and_names_the_batch(tmp_path):
    with pytest.raises(TrainingStopped, match="step 4, batch of first.png, second.png; the last"):
        run(tmp_path, "stop", steps=5, bad=3)
