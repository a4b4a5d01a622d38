"""Updates of low rank: the start, what is trained, the merge, and every way a model is used."""

import copy
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from builders import build, generate, models, random_codes, random_cond
from smalti.codes import Cond
from smalti.models import llamagen
from smalti.nn.linear import Linear, packed
from smalti.sampling.noise import Noise
from smalti.train.ema import Ema
from smalti.train.lora import LoraConfig, LoraLinear, adapt, merge, targets
from smalti.train.objectives import Likelihood, LikelihoodConfig
from smalti.train.optim import OptimConfig, adamw
from smalti.train.parallel import World
from smalti.train.settings import TrainConfig
from smalti.train.trainer import Trainer

CONFIG = LoraConfig(rank=4, alpha=8.0)
TRAIN = TrainConfig(
    steps=8,
    batch=8,
    optim=OptimConfig(lr=1e-2, weight_decay=0.1),
    precision="fp32",
    ema=0.9,
    log_every=1,
    eval_every=0,
    preview_every=0,
    save_every=3,
    device="cpu",
)


def adapted(config: LoraConfig = CONFIG, scale: float = 0.1, kind: str = "llamagen"):
    """A model with updates that matter, and the same model without them."""
    module, size = models()[kind]
    plain = build(module, size)
    model = copy.deepcopy(plain)
    adapt(model, config, [model.norm if kind.startswith("llamagen") else model.reader])
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, LoraLinear):
                layer.up.normal_(std=scale)
    return model, plain


def loss(model, seed: int = 0):
    cond = random_cond(model, 4, seed)
    return model.loss(random_codes(model.spec, 4, seed), cond)


class Codes:
    """The same two batches in turn; an error at step `cut`."""

    def __init__(self, cut: int | None = None) -> None:
        self.cut = cut

    def batch(self, step):
        if step == self.cut:
            raise InterruptedError
        codes = random_codes(llamagen.tiny().spec, 8, seed=step % 2)
        return {"codes": codes, "labels": torch.arange(8) % 5, "chance": torch.ones(8)}


def fit(run, batches, config=CONFIG) -> Trainer:
    model = build(llamagen.LlamaGen, replace(llamagen.tiny(), dropout=0.2)).train()
    adapt(model, config, [model.cls_embedding])
    world = World(0, 1, torch.device("cpu"))
    trainer = Trainer(Likelihood(model, LikelihoodConfig(0.3)), batches, TRAIN, run, world)
    trainer.fit()
    return trainer


@pytest.mark.parametrize("kind", models())
def test_training_begins_at_the_model_as_it_was(kind):
    model, plain = adapted(scale=0.0, kind=kind)
    with torch.no_grad():
        assert torch.equal(loss(model), loss(plain))


@pytest.mark.parametrize("kind", models())
def test_a_merged_model_is_an_ordinary_one_and_computes_the_same(kind):
    model, plain = adapted(kind=kind)
    with torch.no_grad():
        before = loss(model)
        merge(model)
        assert (loss(plain) - before).abs().max() > 1e-2
        assert torch.allclose(loss(model), before, atol=1e-5)
    assert model.state_dict().keys() == plain.state_dict().keys()
    assert not any(isinstance(m, LoraLinear) for m in model.modules())
    fresh = type(plain)(plain.config).eval()
    fresh.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(loss(fresh), loss(model))


@given(
    widths=st.tuples(st.integers(1, 24), st.integers(1, 24)),
    rows=st.integers(1, 12),
    alpha=st.floats(0.1, 32),
    bias=st.booleans(),
    data=st.data(),
)
def test_a_layer_is_its_weight_plus_the_scaled_product(widths, rows, alpha, bias, data):
    rank = data.draw(st.integers(1, min(widths)))
    torch.manual_seed(rank * rows)
    base = Linear(*widths, bias=bias)
    layer = LoraLinear(base, rank, alpha / rank)
    nn.init.normal_(layer.up, std=0.1)
    weight = base.weight + alpha / rank * layer.up @ layer.down
    x = torch.randn(rows, widths[0])
    expected = nn.functional.linear(x, weight, base.bias)
    assert torch.allclose(layer(x), expected, atol=1e-5, rtol=1e-4)
    with torch.no_grad():  # another way to multiply few rows
        assert torch.allclose(layer(x), expected, atol=1e-5, rtol=1e-4)
        assert torch.allclose(layer.merged()(x), expected, atol=1e-5, rtol=1e-4)


def test_gradients_reach_the_updates_and_what_is_trained_whole():
    model, _ = adapted()
    loss(model).mean().backward()
    with_gradient = {n for n, p in model.named_parameters() if p.grad is not None}
    names = [f"layers.{i}.{n}" for i in range(2) for n in ("attention.wqkv", "attention.wo")]
    names += [f"layers.{i}.feed_forward.w{j}" for i in range(2) for j in (1, 2, 3)]
    updates = {f"{n}.{part}" for n in names for part in ("up", "down")}
    assert with_gradient == updates | {"norm.weight"}
    assert all(model.get_parameter(n).grad.abs().max() > 0 for n in with_gradient)
    assert {n for n, p in model.named_parameters() if p.requires_grad} == with_gradient
    assert set(Ema(model, 0.9).names) == with_gradient
    groups = adamw(model, OptimConfig()).param_groups
    assert sum(len(g["params"]) for g in groups) == len(with_gradient)


def test_only_the_targets_get_an_update():
    model, _ = adapted(replace(CONFIG, targets=("wo", "proj")))
    found = {n for n, m in model.named_modules() if isinstance(m, LoraLinear)}
    assert found == {"layers.0.attention.wo", "layers.1.attention.wo", "head.proj"}


def test_what_modulates_layers_gets_an_update_where_it_is_named():
    """RAR's adaLN is no attention and no feed-forward; runs of before had none there."""
    model = build(*models()["rar"])
    kinds = {name.rpartition(".")[2] for name in targets(model, CONFIG)}
    assert kinds == {"wqkv", "wo", "w1", "w2"}
    assert "layers.0.adaln" in targets(model, replace(CONFIG, targets=("adaln",)))


def test_frozen_weights_stay_bit_for_bit_and_the_loss_falls(tmp_path):
    before = build(llamagen.LlamaGen, llamagen.tiny()).state_dict()
    trainer = fit(tmp_path, Codes())
    after, optimizer = trainer.objective.model.state_dict(), trainer.optimizers["model"]
    changed = {n for n, v in before.items() if not torch.equal(v, after[n])}
    assert changed == {"cls_embedding.weight"}
    assert all(after[n].abs().max() > 0 for n in after if n.endswith(".up"))
    assert len(optimizer.state) == 2 * 2 * 5 + 1
    with torch.no_grad(), trainer.averaged():
        model = trainer.objective.model.eval()
        batch = Codes().batch(0)
        cond = Cond.of_labels(batch["labels"])
        start = build(llamagen.LlamaGen, llamagen.tiny())
        assert model.loss(batch["codes"], cond).mean() < start.loss(batch["codes"], cond).mean()


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path):
    whole = fit(tmp_path / "whole", Codes()).state()
    with pytest.raises(InterruptedError):
        fit(tmp_path / "cut", Codes(cut=7))
    torch.manual_seed(9)
    again = fit(tmp_path / "cut", Codes()).state()
    for part in ("objective", "ema"):
        assert whole[part].keys() == again[part].keys()
        assert all(torch.equal(v, again[part][k]) for k, v in whole[part].items())
    assert any(k.endswith("wqkv.down") for k in whole["objective"])


def test_merging_the_averaged_weights_survives_the_end_of_the_average(tmp_path):
    trainer = fit(tmp_path, Codes())
    model = trainer.objective.model.eval()
    with torch.no_grad():
        with trainer.averaged():
            averaged = loss(model)
            merge(model)
            assert torch.allclose(loss(model), averaged, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packed_layers_draw_with_the_update(dtype):
    model, plain = adapted(scale=0.5)
    model.to(dtype)
    merged = copy.deepcopy(model)
    merge(merged)
    cond, noise = random_cond(model, 3), Noise.request(0, 3)
    with packed(model):
        drawn = generate(model, cond, noise)
    if dtype == torch.float32:
        assert torch.equal(drawn, generate(merged, cond, noise))
    assert torch.equal(drawn, generate(model, cond, noise)) or dtype == torch.bfloat16
    assert not torch.equal(drawn, generate(plain.to(dtype), cond, noise))


def test_bfloat16_autocast_stays_close():
    model, plain = adapted()
    exact = loss(model).mean()
    with torch.autocast("cpu", torch.bfloat16):
        near = loss(model).mean()
        near.backward()
    assert near.item() == pytest.approx(exact.item(), rel=0.01)
    assert abs(exact.item() - loss(plain).mean().item()) > 0.01
    up = model.layers[0].attention.wqkv.up
    assert up.grad.dtype == torch.float32 and up.grad.abs().max() > 0


def test_a_copy_is_its_own():
    model, _ = adapted()
    other = copy.deepcopy(model)
    merge(other)
    with torch.no_grad():
        assert torch.allclose(loss(other), loss(model), atol=1e-5)
    assert isinstance(model.layers[0].attention.wo, LoraLinear)


def test_a_model_without_updates_is_left_alone():
    plain = build(llamagen.LlamaGen, llamagen.tiny())
    layer = plain.layers[0].attention.wo
    merge(plain)
    assert plain.layers[0].attention.wo is layer


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rank": -1}, "lora.rank must be 0 or more, got -1"),
        ({"alpha": 0.0}, "lora.alpha must be a positive number, got 0.0"),
        ({"rank": 33}, "at most 32, the smaller width of layers.0.attention.wqkv, got 33"),
        ({"targets": ("wo", "w9")}, "among wqkv, wo, w1, w3, w2, proj, got w9"),
    ],
)
def test_what_cannot_be_adapted(change, words):
    model = build(llamagen.LlamaGen, llamagen.tiny())
    with pytest.raises(ValueError, match=words):
        adapt(model, replace(CONFIG, **change))
    assert all(p.requires_grad for p in model.parameters())
