"""Flamingo as OpenFlamingo trained it (Awadalla et al. 2023, arXiv:2308.01390), and a small one for
two CPU cores.

Marks: [C] read in the released code (open_flamingo, commit 655f693), [M] remembered of that code or
of the paper, to be checked before it is quoted; all without a mark is ours. The language models
that it was released with, MPT (ALiBi in the place of rotations) and GPT-NeoX (an exact GELU), are
not known here; the first release, with Llama-7B, is.
"""

from __future__ import annotations

from dataclasses import replace

from smalti.models.flamingo import LLAMA, FlamingoConfig
from smalti.models.language import LanguageConfig
from smalti.nn.perceiver import ResamplerConfig
from smalti.recipes.base import DataConfig, UnifiedRecipe
from smalti.recipes.llm2clip import WRITER
from smalti.train.joint import JointConfig
from smalti.train.optim import OptimConfig
from smalti.train.settings import TrainConfig

MPT_SIZES = LanguageConfig(
    50_304, 24, 16, 2048, 8192, norm="layer", feed_forward="plain", qkv_bias=True, out_bias=True,
    tied=True,
)  # fmt: skip
"""A decoder of the sizes of MPT-1B [M], with rotations and biases, which that one does not have."""


def open_flamingo(language: LanguageConfig, every: int) -> UnifiedRecipe:
    """OpenFlamingo with a language model, and a gated layer before every so manieth of its layers.

    CLIP ViT-L/14, 64 latents of 6 layers, 8 heads of 64; a resampler, gated layers and the vectors
    of new ids are trained [C], those of pictures and of the end of a text. Labels are those of
    text behind a picture [C]. AdamW, a rate of 1e-4 after some thousand steps, weight decay 0.1,
    gradients of norm 1 [M]; documents of MMC4 and pairs of LAION-2B in one step, of which gradients
    are added [C], here in one mixture.
    """
    return UnifiedRecipe(
        vocab=language.vocab,
        data=DataConfig(
            source="captioned:parquet:captions+docs:interleaved.arrow", flip=False, holdout=0.001
        ),
        row=256,
        model=FlamingoConfig(language, every=every, picture=language.vocab + 1),
        objective=JointConfig(cond_dropout=0.0),
        train=TrainConfig(
            steps=250_000,
            batch=512,
            optim=OptimConfig(lr=1e-4, warmup=5000, betas=(0.9, 0.999), weight_decay=0.1),
            eval_every=10_000,
            preview_every=0,
            save_every=5000,
            recompute=True,
        ),
    )


def flamingo_3b() -> UnifiedRecipe:
    """OpenFlamingo-3B, in the shape of a decoder that is known here: 2.3 B parameters beside those
    of CLIP, of which 0.9 B are trained.

    A gated layer before each layer [C]. Published, with MPT-1B: COCO captions from four examples at
    CIDEr 77.3 [C].

    torchrun --nproc-per-node 8 -m smalti train flamingo_3b --train.parallel fsdp \\
        --language LANGUAGE/ --eye openai/clip-vit-large-patch14 --out runs/flamingo-3b
    with a decoder of transformers in LANGUAGE/.
    """
    return open_flamingo(MPT_SIZES, 1)


def flamingo_9b() -> UnifiedRecipe:
    """The first OpenFlamingo-9B, with Llama-7B: 7.9 B parameters beside those of CLIP, of which
    1.2 B are trained.

    A gated layer before every fourth layer [C].

    torchrun --nproc-per-node 8 -m smalti train flamingo_9b --train.parallel fsdp \\
        --language llama-7b/ --eye openai/clip-vit-large-patch14 --out runs/flamingo-9b
    """
    return open_flamingo(LLAMA, 4)


def shapes_flamingo() -> UnifiedRecipe:
    """A small frozen language model that looks at shapes, describes them and answers questions.

    smalti train shapes_language --out runs/language
    smalti train shapes_siglip --out runs/siglip
    smalti train shapes_flamingo --language runs/language/language --eye runs/siglip/towers \\
        --out runs/flamingo
    smalti ask runs/flamingo/pipeline "What colour is the circle?" --image picture.png
    """
    look = ResamplerConfig(dim=96, layers=2, heads=3, head_dim=32, latents=16)
    model = FlamingoConfig(
        WRITER, look, (8, 8), every=1, heads=4, head_dim=32, picture=WRITER.vocab, length=512
    )
    return UnifiedRecipe(
        data=DataConfig(source="shapes-all:12000:caption,questions", flip=False, holdout=0.02),
        row=128,
        model=replace(model, added=1),
        objective=JointConfig(cond_dropout=0.0),
        train=TrainConfig(
            steps=1500,
            batch=16,
            optim=OptimConfig(lr=1.5e-3, schedule="cosine", final_lr=0.1, warmup=100),
            eval_every=300,
            preview_every=0,
            save_every=250,
        ),
    )
