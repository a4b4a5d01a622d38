"""Sizes of a ladder: proportions, counts, and the points that the laws are fitted to."""

import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from builders import build
from smalti import modules
from smalti.data.token_cache import TokenCache
from smalti.models.var import SIZES, VARConfig
from smalti.modules import save_module
from smalti.nn import attention
from smalti.nn.attention import attend
from smalti.recipes import RECIPES
from smalti.recipes.llamagen import emoji_llamagen, llamagen_b
from smalti.recipes.var import emoji_var, var_d16
from smalti.runs.generator import objective_of
from smalti.runs.ladder import (
    LAYERS,
    laws,
    layers_of,
    learned,
    loss_curve,
    measure,
    operations,
    rung,
    sized,
)
from smalti.runs.run import train
from smalti.tokenizers import vqgan
from smalti.train.parallel import World, blocks

ALONE = World(0, 1, torch.device("cpu"))
FAMILIES = [name for name, recipe in RECIPES.items() if hasattr(recipe(), "codes")]
SMALL = [name for name in FAMILIES if name.startswith("emoji_")]


@pytest.mark.parametrize("size", SIZES)
def test_sizes_of_var_are_the_published_ones(size):
    depth = SIZES[size]["layers"]
    model = sized(var_d16().model, depth)
    assert {name: getattr(model, name) for name in SIZES[size]} == SIZES[size]
    assert model.drop_path == pytest.approx(0.1 * depth / 24)


def test_parameters_of_vars_layers_are_those_of_the_paper():
    for depth in (1, 2, 4):
        with torch.device("meta"):
            model = modules.module_of(sized(VARConfig(), depth), modules.MODELS)
        weights = [p for b in blocks(model) for p in b.parameters() if p.dim() == 2]
        assert sum(p.numel() for p in weights) == 73728 * depth**3
        assert sum(map(learned, blocks(model))) < 73728 * depth**3 * (1 + 0.02 / depth)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_recipes_own_size_is_itself(name):
    config = RECIPES[name]().model
    assert sized(config, layers_of(config)) == config


@pytest.mark.parametrize("name", SMALL)
def test_every_family_grows_with_the_cube_of_its_layers(name):
    counts, own = [], RECIPES[name]().model
    for times in (1, 2, 4):
        layers = times * layers_of(own)
        config = sized(own, layers)
        assert (config.dim, config.heads) == (times * own.dim, times * own.heads)
        with torch.device("meta"):
            model = modules.module_of(config, modules.MODELS)
        counts.append(sum(map(learned, blocks(model))))
        stacks = [getattr(config, name, 0) for name in LAYERS]  # MAR has two, so has Open-MAGVIT2
        deep = getattr(config, "depth_layers", 0) if config.spec.depth else 0  # the head's own
        assert len(blocks(model)) == sum(stacks) + deep and max(stacks) == layers
    assert 7.5 < counts[1] / counts[0] < 8.1 and 7.5 < counts[2] / counts[1] < 8.1


def test_heads_keep_their_width_where_layers_do_not_divide():
    model = sized(llamagen_b().model, 5)
    assert (model.layers, model.heads, model.dim) == (5, 5, 320)
    grouped = sized(replace(llamagen_b().model, kv_heads=6), 4)
    assert (grouped.heads, grouped.kv_heads) == (4, 2)
    with pytest.raises(ValueError, match="kv_heads must divide heads 5, got 2"):
        sized(replace(llamagen_b().model, kv_heads=6), 5)
    for layers in (0, -1):
        with pytest.raises(ValueError, match=f"at least 1, got {layers}"):
            sized(llamagen_b().model, layers)


def test_a_rung_is_slower_by_the_root_of_its_width_and_is_evaluated():
    recipe = emoji_var()
    for layers in (1, 4, 16):
        one = rung(recipe, layers)
        assert one.train.optim.lr == pytest.approx(recipe.train.optim.lr * (4 / layers) ** 0.5)
        assert (one.train.eval_every, one.train.preview_every) == (2020 // 20, 0)
    assert rung(recipe, 4).model == recipe.model
    given = replace(recipe, train=replace(recipe.train, eval_every=7))
    assert rung(given, 2).train.eval_every == 7


def test_operations_of_a_step_by_hand():
    class Squares(nn.Module):
        """A product of (2, 3) and (3, 5), whose inputs need no gradient, step + 1 times."""

        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 5, bias=False)

        def forward(self, batch, step):
            total = sum(self.linear(batch["x"]).sum() for _ in range(step + 1))
            return type("", (), {"totals": {"model": total}})

    one = 2 * (2 * 3 * 5) * 2  # forward, and the gradient of the weight
    assert operations(Squares(), [{"x": torch.randn(2, 3)}] * 3) == (1 + 2 + 3) / 3 * one


def test_operations_of_attention_are_counted_however_it_is_computed(monkeypatch):
    class Looks(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(4))

        def forward(self, batch, step):
            x = batch["x"] * self.weight
            return type("", (), {"totals": {"model": attend(x, x, x).sum()}})

    found = []
    for least in (1 << 40, 0):
        monkeypatch.setattr(attention, "FUSED", least)
        found.append(operations(Looks(), [{"x": torch.randn(2, 3, 5, 4)}]))
    one = 2 * (2 * 3 * 5 * 5 * 4)
    assert found == [6 * one, 7 * one]  # the fused kernel computes the scores again


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A recipe of a very small model, and its run."""
    folder = tmp_path_factory.mktemp("ladder")
    save_module(build(vqgan.VQGAN, vqgan.tiny()), folder / "t")
    recipe = emoji_llamagen()
    recipe = replace(
        recipe,
        tokenizer=str(folder / "t"),
        data=replace(recipe.data, source="shapes:40"),
        model=replace(recipe.model, layers=2, heads=2, dim=16, multiple_of=16),
        train=replace(recipe.train, steps=4, batch=8, eval_every=2, device="cpu", precision="fp32"),
    )
    train(recipe, folder / "run")
    return replace(recipe, codes=str(folder / "run" / "codes.arrow")), folder / "run"


def test_what_is_measured_of_a_run(finished):
    recipe, run = finished
    told = measure(recipe, run, ALONE)
    assert (told["layers"], told["dim"], told["heads"], told["steps"]) == (2, 16, 2, 4)
    ffn = 48  # 8/3 of the width, in steps of 16
    assert told["parameters"] == 2 * (4 * 16 * 16 + 3 * 16 * ffn + 2 * 16)
    spec, classes = vqgan.tiny().spec, len(TokenCache(recipe.codes).classes)
    tables = 16 * (2 * spec.vocab + classes + 1 + 1)  # codes, head, classes and none, last norm
    assert told["parameters_all"] == told["parameters"] + tables
    assert told["tokens_per_step"] == 8 * spec.positions
    weights = told["parameters"] - 4 * 16 + 16 * spec.vocab
    dense = 6 * weights * told["tokens_per_step"]
    assert dense < told["operations_per_step"] < 1.2 * dense  # attention comes on top
    report = json.loads((run / "report.json").read_text())
    assert told["unit"] == "nats_per_token" and [step for step, _ in told["curve"]] == [2, 4]
    assert told["curve"][-1][1] == pytest.approx(report["held_out_nats_per_token"])


@pytest.mark.parametrize(("more", "items"), [({"accumulate": 2}, 2), ({"recompute": True}, 1)])
def test_no_more_is_measured_at_a_time_than_a_process_trains_on(finished, monkeypatch, more, items):
    recipe, run = finished
    whole, seen = measure(recipe, run, ALONE)["operations_per_step"], []

    def watched(*given):
        objective = objective_of(*given)
        objective.register_forward_pre_hook(lambda _, args: seen.append(len(args[0]["codes"])))
        return objective

    monkeypatch.setattr("smalti.runs.ladder.objective_of", watched)
    recipe = replace(recipe, train=replace(recipe.train, **more))
    told = measure(recipe, run, World(0, 2, torch.device("cpu")))
    assert seen == [items] * 4 and told["operations_per_step"] == pytest.approx(whole)


@pytest.mark.parametrize("name", ["nats_per_token", "nats_per_token_bound", "diffusion_loss"])
def test_the_loss_of_every_kind_of_model(tmp_path, name):
    records = [{"step": 1, "loss": 9.0}, {"step": 1, f"held_out_{name}": 3.0, "held_out_images": 2}]
    records += [{"step": 2, f"held_out_{name}": 2.0}, {"step": 2, "event": "spike"}]
    text = "".join(json.dumps(r) + "\n" for r in records)
    (tmp_path / "metrics.jsonl").write_text(text)
    assert loss_curve(tmp_path) == (name, [(1, 3.0), (2, 2.0)])


def test_the_points_of_the_laws(few_resamples):
    """Made-up sizes that follow laws of parameters, compute and tokens."""
    sizes = []
    for n in (1e3, 1e4, 1e5, 1e6, 1e7):
        steps = range(10, 110, 10)
        curve = [(s, (1e-3 * n) ** -0.1 * (s / 100) ** -0.2) for s in steps]
        size = {"parameters": n, "operations_per_step": 6 * n, "tokens_per_step": 64}
        sizes.append(size | {"curve": [(1, 99.0), *curve]})
    found = laws(sizes, warmup=5, seed=0)
    power = found["parameters"]["power"]
    assert power["alpha"] == pytest.approx(-0.1) and power["beta"] == pytest.approx(1e-3)
    assert power["points"] == 5 and power["held_out"]["error"] == pytest.approx(0, abs=1e-9)
    assert found["compute"]["power"]["pearson"] < -0.9
    tokens = found["tokens"]["power"]  # of the largest at every number of steps
    assert tokens["alpha"] == pytest.approx(-0.2) and tokens["points"] == 10
    assert tokens["held_out"]["x"] == 6400
    sizes[0]["curve"] = [(s, loss) for s, loss in sizes[0]["curve"] if s != 50]
    assert laws(sizes, 5, 0)["tokens"]["power"]["points"] == 9
    flat = [size | {"curve": [(s, 2.0) for s in range(10, 110, 10)]} for size in sizes]
    assert "do not change with X" in laws(flat, 5, 0)["parameters"]["power"]["none"]
