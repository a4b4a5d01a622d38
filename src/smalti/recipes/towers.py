"""Towers that match pictures and texts, small ones for two CPU cores: SigLIP (Zhai et al. 2023,
arXiv:2303.15343) and CLIP (Radford et al. 2021, arXiv:2103.00020)."""

from __future__ import annotations

from dataclasses import replace

from smalti.models.towers import TowerConfig, TowersConfig
from smalti.recipes.base import DataConfig, TowersRecipe
from smalti.train.optim import OptimConfig
from smalti.train.pairs import PairsConfig
from smalti.train.settings import TrainConfig


def small(layers: int, heads: int = 3) -> TowerConfig:
    """A tower of so many layers and heads, each 32 wide."""
    return TowerConfig(layers=layers, heads=heads, dim=32 * heads, ffn_dim=128 * heads)


def shapes_siglip() -> TowersRecipe:
    """A small SigLIP that matches drawn shapes and what captions say of them.

    smalti train shapes_siglip --out runs/siglip
    smalti eval runs/siglip/towers --metrics zero_shot retrieval
    """
    return TowersRecipe(
        data=DataConfig(source="shapes", flip=False),
        model=TowersConfig(
            size=32, patch=4, length=12, features=96, vision=small(3), text=small(2)
        ),
        train=TrainConfig(
            steps=1000,
            batch=64,
            optim=OptimConfig(lr=1.5e-3, schedule="cosine", warmup=80),
            eval_every=200,
            preview_every=500,
            save_every=250,
        ),
    )


def shapes_clip() -> TowersRecipe:
    """A small CLIP that matches drawn shapes and what captions say of them.

    smalti train shapes_clip --out runs/clip
    smalti eval runs/clip/towers --metrics zero_shot retrieval
    """
    recipe = shapes_siglip()
    return replace(
        recipe,
        model=replace(recipe.model, kind="clip"),
        objective=PairsConfig(loss="softmax"),
    )


def emoji_siglip() -> TowersRecipe:
    """A small SigLIP that matches emoji and their names.

    smalti train emoji_siglip --out runs/emoji-siglip
    smalti eval runs/emoji-siglip/towers --metrics retrieval
    """
    recipe = shapes_siglip()
    model = TowersConfig(
        size=48, patch=6, length=20, features=192, vision=small(4, 6), text=small(4, 6)
    )
    data = DataConfig(source="emoji", flip=False, crop="random")
    return replace(recipe, data=data, vocab=1024, model=model)
