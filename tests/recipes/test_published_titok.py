"""Published recipes of TiTok: what their docstrings say, and that they fit each other."""

import pytest
import torch

from smalti import modules
from smalti.codes import Reads
from smalti.recipes import RECIPES
from smalti.tokenizers.kinds import tokenizer_of
from smalti.tokenizers.maskgit_vqgan import MaskGITVQGAN


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


def test_the_small_generator_has_the_parameters_of_the_others():
    def parameters(name: str) -> int:
        with torch.device("meta"):
            return counted(modules.module_of(RECIPES[name]().model, modules.MODELS))

    found = parameters("emoji_titok_generator")
    assert found == pytest.approx(parameters("emoji_llamagen"), rel=0.03)
    spec = RECIPES["emoji_titok"]().model.spec
    assert RECIPES["emoji_titok_generator"]().model.spec == spec
