import math

import pytest
import torch
from torch import nn

from smalti.train.optim import OptimConfig, adamw, lr_at


def test_weights_decay_and_vectors_do_not():
    module = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Conv2d(1, 2, 3))
    module[0].bias.requires_grad_(False)
    optimizer = adamw(module, OptimConfig(lr=0.5, weight_decay=0.2, betas=(0.8, 0.7)))
    decayed, plain = optimizer.param_groups
    assert [id(p) for p in decayed["params"]] == [id(module[0].weight), id(module[2].weight)]
    assert decayed["weight_decay"] == 0.2 and plain["weight_decay"] == 0.0
    assert {id(p) for p in plain["params"]} == {
        id(p) for p in (module[1].weight, module[1].bias, module[2].bias)
    }
    assert all(g["lr"] == 0.5 and g["betas"] == (0.8, 0.7) for g in (decayed, plain))


def test_a_step_without_gradient_shrinks_weights_alone():
    module = nn.Linear(2, 2)
    before = {n: p.detach().clone() for n, p in module.named_parameters()}
    optimizer = adamw(module, OptimConfig(lr=0.1, weight_decay=0.5))
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert torch.allclose(module.weight, before["weight"] * (1 - 0.1 * 0.5))
    assert torch.equal(module.bias, before["bias"])


def test_constant_rate_after_a_linear_warm_up():
    config = OptimConfig(lr=2.0, warmup=4)
    assert [lr_at(s, 10, config) for s in (0, 1, 3, 4, 9)] == [0.5, 1.0, 2.0, 2.0, 2.0]
    assert lr_at(0, 10, OptimConfig(lr=2.0)) == 2.0


def test_cosine_from_the_peak_to_the_final_rate():
    config = OptimConfig(lr=2.0, schedule="cosine", warmup=10, final_lr=0.1)
    assert lr_at(9, 110, config) == 2.0
    assert lr_at(10, 110, config) == 2.0
    assert lr_at(60, 110, config) == pytest.approx(0.2 + 1.8 / 2)
    assert lr_at(35, 110, config) == pytest.approx(0.2 + 1.8 * (0.5 + math.sqrt(0.5) / 2))
    assert lr_at(110, 110, config) == pytest.approx(0.2)
    assert lr_at(500, 110, config) == pytest.approx(0.2)
    last = lr_at(109, 110, config)
    assert 0.2 < last < 0.201


@pytest.mark.parametrize("bad", [{"lr": 0.0}, {"warmup": -1}, {"clip": -1.0}, {"weight_decay": -1}])
def test_bad_settings(bad):
    with pytest.raises(ValueError, match=str(next(iter(bad.values())))):
        OptimConfig(**bad)
