"""Recipes of UniFluid: what their docstrings say, and that they fit together."""

import re

import pytest
import torch

from smalti import modules
from smalti.codes import TokenSpec
from smalti.models.eye import Sight, TowerEyeConfig
from smalti.models.towers import TowerConfig
from smalti.models.unified import Marks
from smalti.pipeline.sampling import Sampling
from smalti.recipes import RECIPES

GEMMA_2_2B = 2_614_341_888
"""The published count of the language model."""


def test_sizes_and_memory():
    recipe, told = RECIPES["unifluid_2b"](), RECIPES["unifluid_2b"].__doc__ or ""
    with torch.device("meta"):
        model = modules.module_of(recipe.model, modules.UNIFIED)
    count = sum(p.numel() for p in model.parameters())
    language = sum(p.numel() for p in model.language.parameters())
    assert language == GEMMA_2_2B - 26 * 2 * 2304, "without a second pair of norms"
    assert f"{count / 1e9:.1f} B parameters" in told
    (memory,) = re.findall(r"On paper ([\d.]+) GB", told)
    assert float(memory) == round(count * 20 / 1e9, 1)
    recipe.sampling.check(model)


def test_it_reads_and_draws_what_is_remembered():
    recipe, vae = RECIPES["unifluid_2b"](), RECIPES["kl16"]().model
    assert recipe.model.spec == vae.spec == TokenSpec(((16, 16),), channels=16)
    eye = TowerEyeConfig(size=448, patch=14, vision=TowerConfig(27, 16, 1152, 4304))
    assert recipe.model.sight == eye.sight
    at_384 = Sight(TokenSpec(((27, 27),), channels=1152))
    assert recipe.model.seeing(at_384).sight == at_384
    fitted = recipe.model.fitted(vae.spec, recipe.vocab, Marks(2, (1,), 0))
    assert (fitted.begin, fitted.end, fitted.language.vocab) == (256_000, 256_001, 256_002)
    wrapping, spec = recipe.model.wrapping, recipe.model.spec
    assert 1024 + 256 + 2 * 2 + 100 < recipe.row <= recipe.model.length
    assert len(wrapping.plan(spec)) == 256
    goal, head = recipe.objective, recipe.model.head
    assert (goal.text, goal.pictures, goal.over) == (0.005, 1.0, "kinds")
    assert (head.kind, head.depth, head.width) == ("diffusion", 6, 1024)
    assert (recipe.train.batch, recipe.train.steps) == (2048, 1_000_000)


@pytest.mark.parametrize("name", ["unifluid_2b", "shapes_unifluid"])
def test_orders(name):
    random, raster = RECIPES[name](), RECIPES[f"{name}_raster"]()
    assert (random.model.order, random.sampling.order) == ("random", "random")
    assert (raster.model.order, raster.sampling.order) == ("raster", "")
    assert random.sampling.changed(order="") == raster.sampling
    with torch.device("meta"):
        model = modules.module_of(raster.model, modules.UNIFIED)
    raster.sampling.check(model)
    with pytest.raises(ValueError, match="order random is for models that know orders"):
        random.sampling.check(model)


def test_the_small_one_fits_its_tokenizer_and_its_eye():
    recipe = RECIPES["shapes_unifluid"]()
    vae, towers = RECIPES["shapes_klvae_2x2"]().model, RECIPES["shapes_siglip"]().model
    fitted = recipe.model.fitted(vae.spec, 512, Marks(0, (1,), 2))
    fitted = fitted.seeing(recipe.model.eye_of(towers).sight)
    model = modules.module_of(fitted, modules.UNIFIED)
    assert model.spec == TokenSpec(((4, 4),), channels=32)
    assert model.sight == Sight(TokenSpec(((8, 8),), channels=96))
    assert 3.9e6 < sum(p.numel() for p in model.parameters()) < 4e6
    assert recipe.sampling == Sampling.of(
        guidance=2.0, order="random", solver="dpm", head_steps="16"
    )
