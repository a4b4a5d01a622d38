"""Published recipes of MAR, MaskGIT and MaskBit: what their docstrings say, and that they fit."""

import re

import pytest
import torch

from smalti import modules
from smalti.codes import Reads
from smalti.pipeline.sampling import Sampling
from smalti.recipes import RECIPES
from smalti.recipes.var import IMAGES
from smalti.tokenizers.kl_vae import KLVAE
from smalti.tokenizers.maskbit import MaskBitVQGAN
from smalti.tokenizers.maskgit_vqgan import MaskGITVQGAN

SIZES = {
    "mar_b": (208, 20),
    "mar_l": (478, 20),
    "mar_h": (942, 20),
    "maskgit": (173, 16),
    "maskbit_10bit": (305, 20),
}
"""Million parameters, and bytes of each: weights, gradients, two moments, an average if any."""


@pytest.mark.parametrize("name", SIZES)
def test_sizes_and_memory(name):
    recipe, (millions, each) = RECIPES[name](), SIZES[name]
    with torch.device("meta"):
        model = modules.module_of(recipe.model, modules.MODELS)
        vae = KLVAE(RECIPES["kl16"]().model)
        vq = MaskGITVQGAN(RECIPES["maskgit_vqgan"]().model)
        lfq = MaskBitVQGAN(RECIPES["maskbit_tokenizer_10bit"]().model)
    parameters = sum(p.numel() for p in model.parameters())
    assert round(parameters / 1e6) == millions and each == (20 if recipe.train.ema else 16)
    text = RECIPES[name].__doc__ or ""
    assert f"{millions} M parameters" in text
    assert float(re.findall(r"On paper ([\d.]+) GB", text)[0]) == round(parameters * each / 1e9, 1)
    recipe.sampling.check(model)
    tokenizer = {"maskgit": vq, "maskbit_10bit": lfq}.get(name, vae)
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


@pytest.mark.parametrize("bits", [10, 12, 14, 16, 18])
def test_maskbit(bits):
    recipe, first = RECIPES[f"maskbit_{bits}bit"](), RECIPES[f"maskbit_tokenizer_{bits}bit"]()
    assert recipe.model.channels == first.model.bits == bits and recipe.model.groups == 2
    with torch.device("meta"):
        tokenizer = MaskBitVQGAN(first.model)
    assert recipe.model.fitted(tokenizer, Reads(1000)) == recipe.model
    optim, goal = recipe.train.optim, recipe.objective
    assert (optim.lr, optim.betas, optim.weight_decay) == (1e-4, (0.9, 0.96), 0.045)
    assert (goal.masking, goal.smoothing, goal.known_weight) == ("arccos", 0.1, 1.0)
    assert recipe.train.steps == first.train.steps == 1_350_000
    assert recipe.train.steps * 1024 // IMAGES == 1079 and first.train.steps * 256 // IMAGES == 269
    losses = first.objective
    weights = (losses.pixel_weight, losses.commitment, losses.entropy, losses.gan_weight)
    assert weights == (1.0, 0.25, 0.02, 0.02) and losses.gan_start == 20_000
    sampling = recipe.sampling
    assert (sampling.reveal.steps, sampling.reveal.schedule) == (64, "arccos")
    assert sampling.guidance.schedule == "power-cosine"


def test_the_small_maskbit_has_the_parameters_of_the_others():
    def parameters(name: str) -> int:
        with torch.device("meta"):
            model = modules.module_of(RECIPES[name]().model, modules.MODELS)
        return sum(p.numel() for p in model.parameters())

    assert parameters("emoji_maskbit") == pytest.approx(parameters("emoji_llamagen"), rel=0.02)
    spec = RECIPES["emoji_lfq"]().model.spec
    assert RECIPES["emoji_maskbit"]().model.spec == spec
