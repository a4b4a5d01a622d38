"""Recipes of MAR and MaskGIT as published: what their docstrings say, and that they fit."""

import re

import pytest
import torch

from smalti import modules
from smalti.codes import Reads
from smalti.pipeline.sampling import Sampling
from smalti.recipes import RECIPES
from smalti.recipes.var import IMAGES
from smalti.tokenizers.kl_vae import KLVAE
from smalti.tokenizers.maskgit_vqgan import MaskGITVQGAN

SIZES = {"mar_b": (208, 20), "mar_l": (478, 20), "mar_h": (942, 20), "maskgit": (173, 16)}
"""Million parameters, and bytes of each: weights, gradients, two moments, an average if any."""


@pytest.mark.parametrize("name", SIZES)
def test_sizes_and_memory(name):
    recipe, (millions, each) = RECIPES[name](), SIZES[name]
    with torch.device("meta"):
        model = modules.module_of(recipe.model, modules.MODELS)
        vae = KLVAE(RECIPES["kl16"]().model)
        vq = MaskGITVQGAN(RECIPES["maskgit_vqgan"]().model)
    parameters = sum(p.numel() for p in model.parameters())
    assert round(parameters / 1e6) == millions and each == (20 if recipe.train.ema else 16)
    text = RECIPES[name].__doc__ or ""
    assert f"{millions} M parameters" in text
    assert float(re.findall(r"On paper ([\d.]+) GB", text)[0]) == round(parameters * each / 1e9, 1)
    recipe.sampling.check(model)
    tokenizer = vq if name == "maskgit" else vae
    recipe.model.fitted(tokenizer, Reads(recipe.model.classes))
    assert model.spec == tokenizer.spec


@pytest.mark.parametrize(("name", "guidance"), [("mar_b", 2.9), ("mar_l", 3.0), ("mar_h", 3.2)])
def test_mar_is_trained_and_drawn_as_published(name, guidance):
    recipe = RECIPES[name]()
    assert recipe.sampling == Sampling.of(guidance=guidance, schedule="linear", steps=256)
    train, optim = recipe.train, recipe.train.optim
    assert (train.batch, optim.lr, optim.betas) == (2048, 8e-4, (0.9, 0.95))
    assert (optim.weight_decay, optim.clip, train.ema) == (0.02, 3.0, 0.9999)
    assert train.steps * 2048 // IMAGES == 799 and optim.warmup * 2048 // IMAGES == 99
    assert optim.schedule == "constant" and recipe.data.crop == "center" and recipe.data.flip
    goal = recipe.objective
    assert (goal.masking, goal.least, goal.deviation, goal.cond_dropout) == (
        "normal",
        0.7,
        0.25,
        0.1,
    )
    assert recipe.model.head.repeat == 4


def test_maskgit():
    recipe = RECIPES["maskgit"]()
    assert recipe.sampling == Sampling.of(steps=8, confidence=4.5)
    optim, goal = recipe.train.optim, recipe.objective
    assert (optim.lr, optim.betas, optim.weight_decay) == (1e-4, (0.9, 0.96), 0.045)
    assert (goal.masking, goal.smoothing, recipe.train.batch) == ("cosine", 0.1, 256)
