"""Published recipes of Transfusion: what their docstrings say, and that they fit together."""

import re

import pytest

from smalti import modules
from smalti.models.unified import Marks
from smalti.nn.unfilled import unfilled
from smalti.pipeline.sampling import Sampling
from smalti.recipes import RECIPES


def test_sizes_and_memory():
    recipe, vae = RECIPES["transfusion_7b"](), RECIPES["transfusion_klvae"]().model
    with unfilled():
        model = modules.module_of(recipe.model, modules.UNIFIED)
        tokenizer = modules.module_of(vae, modules.TOKENIZERS)
    millions, those = (sum(p.numel() for p in m.parameters()) / 1e6 for m in (model, tokenizer))
    text = RECIPES["transfusion_7b"].__doc__ or ""
    assert f"{millions / 1e3:.1f} B parameters" in text
    (memory,) = re.findall(r"On paper ([\d.]+) GB", text)
    assert float(memory) == round(millions * 16 / 1e3, 1)
    assert f"{those:.0f} M parameters" in (RECIPES["transfusion_klvae"].__doc__ or "")
    assert model.spec == tokenizer.spec and recipe.model.patch == vae.group
    assert recipe.model.fitted(tokenizer.spec, 32000, Marks(1, (2,), 0)) == recipe.model


def test_it_is_trained_and_drawn_as_published():
    recipe = RECIPES["transfusion_7b"]()
    train, optim, goal = recipe.train, recipe.train.optim, recipe.objective
    assert train.batch * recipe.row == 2**21 and train.steps == 250_000
    assert (optim.lr, optim.betas, optim.weight_decay) == (3e-4, (0.9, 0.95), 0.1)
    assert (optim.warmup, optim.clip, optim.schedule) == (4000, 1.0, "cosine")
    assert optim.lr * optim.final_lr == pytest.approx(1.5e-5)
    assert (goal.text, goal.pictures, goal.over) == (1.0, 5.0, "kinds")
    assert recipe.sampling == Sampling.of(guidance=3.0, head_steps="250")
    assert (recipe.model.timesteps, recipe.model.seen_to) == (1000, 500)
