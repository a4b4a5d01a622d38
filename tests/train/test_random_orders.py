"""Learning in random orders that anneal to the model's own."""

from dataclasses import replace

import pytest
import torch

from builders import build, random_codes
from smalti.codes import Cond
from smalti.eval.likelihood import likelihood
from smalti.models import rar, var
from smalti.sampling import orders
from smalti.sampling.noise import Noise
from smalti.train.objectives import Likelihood, LikelihoodConfig


def batch(model, count: int, first: int = 0):
    codes = random_codes(model.spec, 64)[first : first + count]
    shuffle = torch.arange(64)[first : first + count] * 977
    return {
        "codes": codes,
        "labels": torch.arange(64)[first : first + count] % 5,
        "chance": torch.ones(count),
        "shuffle": shuffle,
    }


def noise_of(given) -> Noise:
    return Noise(given["shuffle"], torch.zeros_like(given["shuffle"]))


def test_the_share_is_one_falls_in_a_line_and_stays_zero():
    config = LikelihoodConfig(random_until=100, random_end=150)
    found = [config.random_share(step) for step in (0, 99, 100, 110, 125, 149, 150, 10**6)]
    assert found == pytest.approx([1, 1, 1, 0.8, 0.5, 0.02, 0, 0])
    assert LikelihoodConfig().random_share(0) == 0
    sudden = LikelihoodConfig(random_until=5, random_end=5)
    assert [sudden.random_share(step) for step in (4, 5)] == [1, 0]


@pytest.mark.parametrize("bad", [(-1, 5), (6, 5)])
def test_bad_steps(bad):
    with pytest.raises(
        ValueError, match=f"0 <= random_until <= random_end, got {bad[0]}, {bad[1]}"
    ):
        LikelihoodConfig(random_until=bad[0], random_end=bad[1])


def test_models_of_scales_have_no_orders():
    with pytest.raises(ValueError, match="random_end must be 0, got 5"):
        Likelihood(build(var.VAR, var.tiny()), LikelihoodConfig(random_end=5))


@pytest.mark.parametrize("own", ["row-major", "spiral-in"])
def test_each_sample_has_its_own_order_and_some_the_models_own(own):
    model = build(rar.RAR, replace(rar.tiny(), order=own))
    config = LikelihoodConfig(cond_dropout=0.0, random_until=0, random_end=100)
    objective = Likelihood(model, config)
    given = batch(model, 64)
    scan = orders.order(own, (4, 4))
    for share, low, high in ((1.0, 0, 0), (0.5, 20, 44), (0.1, 50, 64)):
        drawn = objective.orders(noise_of(given), share)
        orders.check_order(drawn, 16)
        kept = (drawn == scan).all(1)
        assert low <= kept.sum() <= high
        assert len(drawn[~kept].unique(dim=0)) == (~kept).sum(), "no two samples share an order"
    # step 50: half of the samples in random orders; the loss is that of those orders
    drawn = objective.orders(noise_of(given), config.random_share(50))
    with torch.no_grad():
        expected = model.loss(given["codes"], Cond(labels=given["labels"]), orders=drawn).mean()
        found = objective(given, 50).totals["model"]
        torch.testing.assert_close(found, expected)
        settled = objective(given, 100).totals["model"]
        torch.testing.assert_close(
            settled, model.loss(given["codes"], Cond(labels=given["labels"])).mean()
        )
        assert abs(settled - found) > 1e-4


def test_an_order_does_not_depend_on_the_rest_of_the_batch():
    objective = Likelihood(build(rar.RAR, rar.tiny()), LikelihoodConfig(random_end=100))
    whole = objective.orders(noise_of(batch(objective.model, 64)), 0.5)
    part = objective.orders(noise_of(batch(objective.model, 8, 24)), 0.5)
    assert torch.equal(part, whole[24:32])


def test_held_out_loss_in_another_order():
    model = build(rar.RAR, rar.tiny())
    batches = [{k: v for k, v in batch(model, 8).items() if k in ("codes", "labels")}]
    spiral = likelihood(model, batches, order="spiral-in")["nats_per_token"]
    plain = likelihood(model, batches)["nats_per_token"]
    rows = likelihood(model, batches, order="row-major")["nats_per_token"]
    assert plain == pytest.approx(rows, abs=1e-6)
    cond, scan = Cond(labels=batches[0]["labels"]), orders.order("spiral-in", (4, 4))
    expected = model.loss(batches[0]["codes"], cond, orders=scan).mean().item()
    assert spiral == pytest.approx(expected, abs=1e-6)
    assert abs(spiral - plain) > 1e-3
