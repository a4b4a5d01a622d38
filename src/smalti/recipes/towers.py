"""Towers that match pictures and texts: CLIP (Radford et al. 2021, arXiv:2103.00020) and SigLIP
(Zhai et al. 2023, arXiv:2303.15343), as published and small.

[M] marks what is remembered of the papers. Their pictures were never published, and neither was
SigLIP's code of training at scale; texts are read by a text tokenizer that is made of the captions.
"""

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


def clip_vit_l14() -> TowersRecipe:
    """CLIP ViT-L/14, 428 M parameters: 32 epochs of 400 M pairs, 32,768 in each step, a rate of
    4e-4 down a cosine after 2,000 steps of warm-up, a random square of each picture and no other
    augmentation [M]. Published: 75.5 % of ImageNet without having learned its classes [M].

    torchrun --nproc-per-node 8 -m smalti train clip_vit_l14 --out runs/clip
    """
    return TowersRecipe(
        vocab=49_408,
        data=DataConfig(source="parquet:captions", flip=False, crop="random", holdout=0.0001),
        model=TowersConfig(
            kind="clip",
            size=224,
            patch=14,
            mean=(0.48145466, 0.4578275, 0.40821073),
            std=(0.26862954, 0.26130258, 0.27577711),
            length=77,
            vocab=49_408,
            features=768,
            vision=TowerConfig(24, 16, 1024, 4096, "sigmoid", 1e-5),
            text=TowerConfig(12, 12, 768, 3072, "sigmoid", 1e-5),
        ),
        objective=PairsConfig(loss="softmax"),
        train=TrainConfig(
            steps=390_625,
            batch=32_768,
            optim=OptimConfig(
                lr=4e-4,
                schedule="cosine",
                warmup=2000,
                betas=(0.9, 0.98),
                eps=1e-6,
                weight_decay=0.2,
                clip=0.0,
            ),
            eval_every=10_000,
            preview_every=10_000,
            save_every=2000,
        ),
    )


def siglip_so400m() -> TowersRecipe:
    """SigLIP so400m/14 of 224 pixels, 877 M parameters: 40 billion pairs, 32,768 in each step, a
    rate of 1e-3 down a cosine after 20,000 steps of warm-up, weight decay 1e-4 [M].

    torchrun --nproc-per-node 8 -m smalti train siglip_so400m --out runs/siglip
    """
    tower, recipe = TowerConfig(27, 16, 1152, 4304), clip_vit_l14()
    optim = replace(
        recipe.train.optim,
        lr=1e-3,
        warmup=20_000,
        betas=(0.9, 0.95),
        eps=1e-8,
        weight_decay=1e-4,
        clip=1.0,
    )
    return replace(
        recipe,
        vocab=32_000,
        model=TowersConfig(
            size=224, patch=14, length=64, vocab=32_000, features=1152, vision=tower, text=tower
        ),
        objective=PairsConfig(),
        train=replace(recipe.train, steps=1_220_703, optim=optim),
    )


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
