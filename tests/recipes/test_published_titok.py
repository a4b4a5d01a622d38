"""Published recipes of TiTok: what their docstrings say, and that they fit each other."""

import pytest
import torch

from smalti import modules
from smalti.codes import Reads
from smalti.recipes import RECIPES
from smalti.tokenizers.kinds import tokenizer_of
from smalti.tokenizers.maskgit_vqgan import MaskGITVQGAN
from smalti.train.optim import lr_at


def counted(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(("name", "millions"), [("l32", 177), ("b64", 177), ("s128", 295)])
def test_generators_fit_their_tokenizers(name, millions):
    recipe, codes = RECIPES[f"titok_{name}"](), RECIPES[f"titok_{name}_tokenizer"]().model
    with torch.device("meta"):
        model = modules.module_of(recipe.model, modules.MODELS)
        assert recipe.model.fitted(tokenizer_of(codes), Reads(1000)) == recipe.model
    assert round(counted(model) / 1e6) == millions
    assert f"{millions} M parameters" in (RECIPES[f"titok_{name}"].__doc__ or "")
    recipe.sampling.check(model)


@pytest.mark.parametrize("tokens", [32, 64, 128])
def test_stages_are_of_one_tokenizer(tokens):
    name = {32: "l32", 64: "b64", 128: "s128"}[tokens]
    first, second = (RECIPES[f"titok_{name}_{part}"]() for part in ("first", "tokenizer"))
    with torch.device("meta"):
        proxy = MaskGITVQGAN(RECIPES["maskgit_vqgan"]().model)
    around = first.model.coding(proxy)
    assert around.tokens == tokens and around.scrambled
    assert (around.spec, around.encoder) == (second.model.spec, second.model.encoder)
    assert (around.proxy, around.shown) == (second.model.proxy, second.model.shown)
    assert (first.train.steps, second.train.steps) == (1_000_000, 500_000)
    assert first.objective.perceptual == "none" and not first.objective.gan_weight


def test_it_is_trained_as_upstreams_configurations_say():
    """configs/training of bytedance/1d-tokenizer: TiTok/stage1, TiTok/stage2, TA-TiTok, generator.
    A squared error of pictures in [0, 1] is a quarter of that of pictures in [-1, 1]."""
    names = ("titok_l32_first", "titok_l32_tokenizer", "titok_bl64_vae", "titok_l32")
    first, second, one, generator = (RECIPES[name]() for name in names)
    found = {}
    for recipe in (first, second, one, generator):
        optim, steps = recipe.train.optim, recipe.train.steps
        ends = [lr_at(step, steps, optim) for step in (optim.warmup - 1, steps)]
        found[steps, optim.warmup] = (optim.betas, ends, optim.weight_decay, recipe.train.batch)
    assert found == {
        (1_000_000, 10_000): ((0.9, 0.99), [1e-4, pytest.approx(1e-5)], 1e-4, 256),
        (500_000, 5000): ((0.9, 0.999), [1e-4, pytest.approx(1e-5)], 1e-4, 256),
        (650_000, 10_000): ((0.9, 0.999), [1e-4, pytest.approx(1e-5)], 1e-4, 1024),
        (500_000, 10_000): ((0.9, 0.96), [2e-4, pytest.approx(1e-5)], 0.03, 2048),
    }
    goal = second.objective
    assert (goal.pixel, goal.pixel_weight, goal.perceptual_weight) == ("l2", 0.25, 0.1)
    assert (goal.gan_weight, goal.gan_start) == (0.01, 20_000)
    goal = one.objective
    assert (goal.pixel_weight, goal.gan_weight, goal.gan_start) == (0.25, 0.1, 200_000)
    assert goal.kl_weight / (3 * 256**2) == pytest.approx(1e-6)


def test_the_small_generator_has_the_parameters_of_the_others():
    def parameters(name: str) -> int:
        with torch.device("meta"):
            return counted(modules.module_of(RECIPES[name]().model, modules.MODELS))

    found = parameters("emoji_titok_generator")
    assert found == pytest.approx(parameters("emoji_llamagen"), rel=0.03)
    spec = RECIPES["emoji_titok"]().model.spec
    assert RECIPES["emoji_titok_generator"]().model.spec == spec
