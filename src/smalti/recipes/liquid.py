"""Liquid as published (Wu, Jiang, Ma et al. 2024, arXiv:2412.04332).

Marks: [C] read in the released code (commit 4609c47), [S] in a table of others, [M] remembered of
the paper, to be checked before it is quoted; all without a mark is ours. A small model of one
vocabulary that learns all by itself is `shapes_chameleon`.
"""

from __future__ import annotations

from smalti.interop.projects.liquid import DRAWN
from smalti.models.language import LanguageConfig
from smalti.models.one_vocabulary import OneVocabularyConfig
from smalti.models.unified import Marks
from smalti.recipes.base import UnifiedRecipe
from smalti.recipes.chameleon import MIXED
from smalti.train.joint import JointConfig
from smalti.train.optim import OptimConfig
from smalti.train.settings import TrainConfig

GEMMA = LanguageConfig(
    256_000 + 8192, 28, 16, 3072, 24_576, head_dim=256, norm_eps=1e-6, feed_forward="gelu",
    tied=True, embedding_scale=3072**0.5,
)  # fmt: skip
"""Gemma-7B with a row more for each of 8192 codes of pictures."""


def tuned(steps: int, batch: int, lr: float) -> TrainConfig:
    """How a language model of text goes on with pictures: a cosine after 3 % of the steps, without
    weight decay."""
    return TrainConfig(
        steps=steps,
        batch=batch,
        optim=OptimConfig(
            lr=lr,
            schedule="cosine",
            warmup=round(0.03 * steps),
            betas=(0.9, 0.999),
            weight_decay=0.0,
        ),
        eval_every=5000,
        preview_every=5000,
        save_every=1000,
        recompute=True,
    )


def liquid_7b() -> UnifiedRecipe:
    """Liquid-7B, 8.6 B parameters: Gemma-7B that learns to draw pictures of 512 pixels.

    Rows of 2048 ids, 1024 in a step, a cosine from 2e-5 after 3 % of the steps, no weight decay, a
    tenth of the texts before pictures left out, one loss of all ids [C]; the released script also
    has LoRA on [C]. 30 M texts and 30 M captioned pictures once [M]. A rate of 2e-5 is one to go on
    with: the folder to begin from must hold the language model with its table extended. Published:
    FID 5.47 of MJHQ-30K, 71.3 on VQAv2, 58.4 on GQA [S]. Documents are put in the phrases of the
    folder to begin from, of which there is one before a picture; the released script takes one of
    ten sentences [C].

    smalti convert liquid --tokenizer vqgan.ckpt --model Liquid_V1_7B/ --out liquid
    torchrun --nproc-per-node 8 -m smalti train liquid_7b --train.parallel fsdp \\
        --init liquid --out runs/liquid-7b
    """
    steps = 60_000_000 // 1024
    return UnifiedRecipe(
        vocab=256_000,
        data=MIXED,
        row=2048,
        model=OneVocabularyConfig(
            GEMMA,
            first=256_000,
            begin=7,
            end=8,
            learns_begin=False,
            marks=Marks(2, (1,), 0, 9),
            length=2048,
        ),
        objective=JointConfig(cond_dropout=0.1),
        sampling=DRAWN,
        train=tuned(steps, 1024, 2e-5),
    )
