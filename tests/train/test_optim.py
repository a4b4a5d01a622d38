import math
import re
from fnmatch import fnmatchcase

import pytest
import torch
from torch import nn

from builders import models
from smalti.train.optim import OptimConfig, adamw, load_state, lr_at, weight_decay_at


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


def test_the_first_step_is_the_sign_of_the_gradient_but_for_eps():
    """Of a gradient g it is lr * g / (|g| + eps)."""
    module = nn.Linear(1, 1, bias=False)
    optimizer = adamw(module, OptimConfig(lr=0.1, weight_decay=0.0, eps=3.0))
    before, module.weight.grad = module.weight.detach().clone(), torch.ones(1, 1)
    optimizer.step()
    torch.testing.assert_close(module.weight, before - 0.1 / (1 + 3))


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


@pytest.mark.parametrize(
    "bad",
    [
        {"lr": 0.0},
        {"warmup": -1},
        {"clip": -1.0},
        {"weight_decay": -1},
        {"final_weight_decay": -0.5},
    ],
)
def test_bad_settings(bad):
    with pytest.raises(ValueError, match=str(next(iter(bad.values())))):
        OptimConfig(**bad)


def test_a_line_from_the_peak_after_a_hold():
    config = OptimConfig(lr=2.0, schedule="linear", warmup=10, hold=20, final_lr=0.1)
    assert [lr_at(s, 130, config) for s in (9, 10, 29, 30)] == [2.0] * 4
    assert lr_at(80, 130, config) == pytest.approx(0.2 + 1.8 / 2)
    assert lr_at(130, 130, config) == lr_at(999, 130, config) == pytest.approx(0.2)


def test_weight_decay_moves_along_half_a_cosine():
    config = OptimConfig(weight_decay=0.05, final_weight_decay=0.08)
    assert weight_decay_at(0, 100, config) == pytest.approx(0.05)
    assert weight_decay_at(50, 100, config) == pytest.approx(0.065)
    assert weight_decay_at(100, 100, config) == pytest.approx(0.08)
    assert weight_decay_at(50, 100, OptimConfig(weight_decay=0.3)) == 0.3


@pytest.mark.parametrize("kind", models())
def test_what_a_model_names_is_there_and_spared_beside_an_encoder_too(kind):
    module, config = models()[kind]
    model = module(config)
    named = {
        pattern: [p for name, p in model.named_parameters() if fnmatchcase(name, pattern)]
        for pattern in model.NO_DECAY
    }
    both = nn.ModuleDict({"generator": model, "encoder": nn.Linear(2, 2)})
    _, plain = adamw(both, OptimConfig(weight_decay=0.1)).param_groups
    there = {id(p) for p in plain["params"]}
    for pattern, some in named.items():
        assert {id(p) for p in some if p.requires_grad} <= there, pattern


def test_a_state_of_before_goes_on_with_the_averages_of_each_weight():
    """Then all weights of two or more dimensions decayed."""
    module, config = models()["dalle"]
    model = module(config)
    optimizer = adamw(model, OptimConfig())
    trained = [p for p in model.parameters() if p.requires_grad]
    before = [p for p in trained if p.dim() > 1], [p for p in trained if p.dim() < 2]
    old = torch.optim.AdamW([{"params": group} for group in before], lr=1.0)
    for i, p in enumerate(trained):
        p.grad = torch.full_like(p, i + 1.0)
    old.step()
    load_state(optimizer, old.state_dict(), model)
    for i, p in enumerate(trained):
        torch.testing.assert_close(optimizer.state[p]["exp_avg"], torch.full_like(p, 0.1 * (i + 1)))
    again = adamw(model, OptimConfig())
    load_state(again, optimizer.state_dict(), model)
    for p in trained:
        assert torch.equal(again.state[p]["exp_avg"], optimizer.state[p]["exp_avg"])


def test_every_pattern_of_what_is_spared_is_of_some_parameter():
    found = dict[str, bool]()
    for module, config in models().values():
        model = module(config)
        names = [name for name, _ in model.named_parameters()]
        for pattern in model.NO_DECAY:
            there = any(fnmatchcase(name, pattern) for name in names)
            found[pattern] = found.get(pattern, False) or there
    assert all(found.values()), found


@pytest.mark.parametrize("kind", models())
def test_what_a_model_spares_has_no_decay(kind):
    module, config = models()[kind]
    model = module(config)
    names = {id(p): name for name, p in model.named_parameters()}
    decayed, plain = (
        {names[id(p)] for p in group["params"]}
        for group in adamw(model, OptimConfig(weight_decay=0.1)).param_groups
    )
    assert [n for n in decayed if re.search(r"(layers|first)\.0\..*wqkv\.weight$", n)]
    if kind.startswith("mar"):
        assert {"encoder_pos", "decoder_pos", "head_pos", "cls_embedding.weight"} <= decayed
        assert {n for n in names.values() if n.startswith("head.")} <= plain
        return
    if kind.startswith("maskbit"):  # all weights but biases and norms
        reader = names[id(next(model.reader.parameters()))]
        assert {"pos", reader, "bit_proj.weight"} <= decayed
        return
    tables = {n for n in names.values() if re.search("_pos|^pos$|^steps|scale_embedding", n)}
    assert tables <= plain
    if kind.startswith("rar"):
        assert {"cls_embedding.weight", "adaln.weight"} <= plain
        assert "layers.0.adaln.weight" in decayed
    if kind.startswith("var"):
        assert {"cls_embedding.weight", "adaln.weight"} <= decayed
        assert not [n for n in decayed | plain if n.startswith("quantize.")], "it is frozen"
        assert [n for n in plain if "log_scale" in n or "constants" in n]
