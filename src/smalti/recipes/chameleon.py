"""Chameleon (Meta 2024, arXiv:2405.09818) and a small model of its kind for two CPU cores."""

from __future__ import annotations

from dataclasses import replace

from smalti.models.language import LanguageConfig
from smalti.models.one_vocabulary import OneVocabularyConfig
from smalti.pipeline.sampling import Sampling
from smalti.recipes.base import DataConfig, Demo, UnifiedRecipe
from smalti.recipes.llamagen import emoji_vqgan
from smalti.train.joint import JointConfig
from smalti.train.optim import OptimConfig
from smalti.train.trainer import TrainConfig


def small(dim: int = 192, layers: int = 6, dropout: float = 0.0) -> LanguageConfig:
    """A decoder as Chameleon's, of some million parameters. How many ids it knows its tokenizers
    decide."""
    return LanguageConfig(
        1 << 16, layers, dim // 64, dim, 3 * dim, qk_norm="heads", dropout=dropout
    )


def emoji_chameleon() -> UnifiedRecipe:
    """A small model of one vocabulary that draws emoji from their names and names them.

    smalti train emoji_chameleon --tokenizer runs/emoji-tokenizer/tokenizer --out runs/chameleon
    """
    recipe = shapes_chameleon()
    return replace(
        recipe,
        data=DataConfig(source="captioned:emoji", flip=False),
        objective=JointConfig(cond_dropout=0.1),
        model=replace(recipe.model, language=small(dropout=0.1)),
        sampling=Sampling.of(guidance=2.0, top_p=0.95),
        train=replace(recipe.train, steps=2000, eval_every=400, preview_every=1000),
    )


def shapes_chameleon() -> UnifiedRecipe:
    """A small model of one vocabulary that draws, describes, answers, edits and tells of shapes.

    smalti train shapes_vqgan --out runs/shapes-tokenizer
    smalti train shapes_chameleon --tokenizer runs/shapes-tokenizer/tokenizer --out runs/chameleon
    """
    return UnifiedRecipe(
        data=DataConfig(source="shapes-all:30000", flip=False, holdout=0.02),
        row=240,
        model=OneVocabularyConfig(small(), length=512),
        objective=JointConfig(text=3.0, cond_dropout=0.05),
        sampling=Sampling.of(guidance=2.0, top_p=0.9),
        train=TrainConfig(
            steps=2800,
            batch=20,
            optim=OptimConfig(lr=1e-3, schedule="cosine", final_lr=1e-4, warmup=150),
            eval_every=560,
            preview_every=1400,
            save_every=250,
        ),
    )


DEMO = Demo(
    emoji_vqgan,
    emoji_chameleon,
    what="one transformer writes text and pictures as ids of one vocabulary",
    predicts="the next id, of a name or of a picture, from all before it",
)
