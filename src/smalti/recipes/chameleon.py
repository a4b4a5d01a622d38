"""Chameleon as published (Meta 2024, arXiv:2405.09818), and small models of its kind for two CPU
cores.

Only weights and the code that draws were published, no trainer. Marks: [C] read in that code, [S]
in a summary of the paper, [M] remembered of the paper, to be checked before it is quoted; all
without a mark is ours.
"""

from __future__ import annotations

from dataclasses import replace

from smalti.interop.projects.chameleon import DRAWN, WRITTEN
from smalti.models.language import LanguageConfig
from smalti.models.one_vocabulary import CHAMELEON, OneVocabularyConfig
from smalti.pipeline.sampling import Sampling
from smalti.recipes.base import DataConfig, Demo, UnifiedRecipe
from smalti.recipes.llamagen import emoji_vqgan
from smalti.train.joint import JointConfig
from smalti.train.optim import OptimConfig
from smalti.train.settings import TrainConfig

MIXED = DataConfig(
    source="text:texts+captioned:parquet:captions+docs:interleaved.arrow", flip=False, holdout=0.001
)
"""Text, captioned pictures in both directions, and documents of both, which published models learn
in mixtures of their own."""
WORDS = 65_536 - 8192 - 2
"""Ids of text in a vocabulary of 65,536, which codes of pictures are in."""


def chameleon(language: LanguageConfig, batch: int, steps: int) -> UnifiedRecipe:
    """Chameleon of a size, on rows of 4096 ids [C], among them 1024 of a picture of 512 pixels [C].

    AdamW (0.9, 0.95) with 1e-5 beside its second moment, weight decay 0.1, gradients of norm 1, a
    rate of 1e-4 after 4000 steps [M]; 1e-5 times the squared logarithm of what logits are divided
    by [S]. There the rate falls exponentially to 0 [M], here by half a cosine; text is 60 % of the
    ids for 80 % of the time, then half of them are of better data [M]; and every id is learned,
    here those that a document ends with. Whether conditions are left out on purpose is not known:
    as pictures come first in half of the pairs [M], many are learned without any.
    """
    return UnifiedRecipe(
        vocab=WORDS,
        data=MIXED,
        row=4096,
        model=OneVocabularyConfig(language, z_loss=1e-5),
        objective=JointConfig(cond_dropout=0.1),
        sampling=DRAWN,
        writing=WRITTEN,
        train=TrainConfig(
            steps=steps,
            batch=batch,
            optim=OptimConfig(
                lr=1e-4, schedule="cosine", warmup=4000, eps=1e-5, weight_decay=0.1, clip=1.0
            ),
            eval_every=10_000,
            preview_every=10_000,
            save_every=5000,
            recompute=True,
        ),
    )


def chameleon_7b() -> UnifiedRecipe:
    """Chameleon-7B, 7.0 B parameters, with dropout [M]: 9.2 T ids [M], 8 M in each step [M].

    torchrun --nproc-per-node 8 -m smalti train chameleon_7b --train.parallel fsdp \\
        --tokenizer chameleon-vq --out runs/chameleon-7b
    with `chameleon-vq` from `smalti convert chameleon --tokenizer vqgan.ckpt --out chameleon-vq`.
    """
    return chameleon(replace(CHAMELEON, dropout=0.1), 2048, 1_100_000)


def chameleon_34b() -> UnifiedRecipe:
    """Chameleon-34B, 34.3 B parameters, norms behind attention and feed-forward [C]: 9.2 T ids [S].

    Width, layers, heads and a feed-forward of 22,016, no dropout, and 12 M ids in each step are
    remembered [M]. Published: COCO captions at CIDEr 120.2 [M], GSM8K 61.4 [M].

    torchrun --nproc-per-node 8 -m smalti train chameleon_34b --train.parallel fsdp \\
        --tokenizer chameleon-vq --out runs/chameleon-34b
    """
    language = LanguageConfig(
        65_536, 48, 64, 8192, 22_016, kv_heads=8, order="swin", qk_norm="heads"
    )
    return chameleon(language, 3072, 730_000)


def small(dim: int = 192, layers: int = 6, dropout: float = 0.0) -> LanguageConfig:
    """A decoder as Chameleon's, of some million parameters, with heads of 32 numbers: with half as
    many of 64 questions about several shapes are learned much later. How many ids it knows its
    tokenizers decide."""
    return LanguageConfig(
        1 << 16, layers, dim // 32, dim, 3 * dim, qk_norm="heads", dropout=dropout
    )


def emoji_chameleon() -> UnifiedRecipe:
    """A small model of one vocabulary that draws emoji from their names and names them.

    smalti train emoji_vqgan --out runs/emoji-tokenizer
    smalti train emoji_chameleon --tokenizer runs/emoji-tokenizer/tokenizer --out runs/chameleon
    """
    recipe = shapes_chameleon()
    return replace(
        recipe,
        data=DataConfig(source="captioned:emoji", flip=False),
        objective=JointConfig(cond_dropout=0.1),
        model=replace(recipe.model, language=small(dropout=0.1)),
        sampling=Sampling.of(guidance=2.0, top_p=0.95),
        train=replace(recipe.train, steps=4000, eval_every=800, preview_every=2000),
    )


def shapes_chameleon() -> UnifiedRecipe:
    """A small model of one vocabulary that draws, describes, answers, edits and tells of shapes.

    smalti train shapes_vqgan --data.source scenes:10000 --out runs/shapes-tokenizer
    smalti train shapes_chameleon --tokenizer runs/shapes-tokenizer/tokenizer --out runs/chameleon
    """
    return UnifiedRecipe(
        data=DataConfig(source="shapes-all:30000", flip=False, holdout=0.02),
        row=300,
        model=OneVocabularyConfig(small(), length=512),
        objective=JointConfig(text=3.0, cond_dropout=0.05),
        sampling=Sampling.of(guidance=2.0, top_p=0.9),
        train=TrainConfig(
            steps=8000,
            batch=8,
            optim=OptimConfig(lr=1e-3, schedule="cosine", warmup=300),
            eval_every=1600,
            preview_every=4000,
            save_every=500,
        ),
    )


DEMO = Demo(
    emoji_vqgan,
    emoji_chameleon,
    what="one transformer writes text and pictures as ids of one vocabulary",
    predicts="the next id, of a name or of a picture, from all before it",
)
