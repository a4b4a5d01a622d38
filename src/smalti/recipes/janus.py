"""Janus and Janus-Pro as published (Wu et al. 2024, arXiv:2410.13848; Chen et al. 2025,
arXiv:2501.17811), and a small one for two CPU cores.

Only weights and the code that draws were published, no trainer. Marks: [C] read in that code, [M]
remembered of the papers, to be checked before it is quoted; all without a mark is ours.
"""

from __future__ import annotations

from dataclasses import replace

from smalti.interop.projects.janus import DRAWN
from smalti.models.janus import DEEPSEEK_1B, JanusConfig
from smalti.models.language import LanguageConfig
from smalti.pipeline.sampling import Sampling
from smalti.recipes.base import UnifiedRecipe
from smalti.recipes.chameleon import MIXED, shapes_chameleon
from smalti.train.joint import JointConfig
from smalti.train.optim import OptimConfig
from smalti.train.settings import TrainConfig

DEEPSEEK_7B = LanguageConfig(102_400, 30, 32, 4096, 11_008, norm_eps=1e-6)
"""The language model of Janus-Pro-7B [M]."""


def janus(language: LanguageConfig, steps: int) -> UnifiedRecipe:
    """Janus of a size, on pictures of 384 pixels: 576 vectors of a SigLIP on the way in, 576 codes
    on the way out [C].

    The longest of three stages: AdamW (0.9, 0.95), gradients of norm 1, a rate of 1e-4 after 5000
    steps, 512 rows of 4096 positions in each, a tenth of the pictures learned without their text
    [M]; text and pictures count as means of their own. Before it, what lies between the parts is
    trained alone, and behind it comes instruction tuning, both with rates of their own [M]: two
    more runs with --init. There the tower learns with the model in the last two stages [M], here
    the eye is frozen; pictures are padded to squares there [C], here cropped to their middle.
    """
    return UnifiedRecipe(
        vocab=102_400 - 2,
        data=MIXED,
        row=4096,
        model=JanusConfig(language),
        objective=JointConfig(over="kinds", cond_dropout=0.1),
        sampling=DRAWN,
        train=TrainConfig(
            steps=steps,
            batch=512,
            optim=OptimConfig(lr=1e-4, schedule="constant", warmup=5000, weight_decay=0.0),
            eval_every=10_000,
            preview_every=10_000,
            save_every=5000,
            recompute=True,
        ),
    )


def janus_1b() -> UnifiedRecipe:
    """Janus-1.3B, 1.7 B parameters beside an eye of 0.3 B: 180,000 steps [M].

    smalti convert llamagen --tokenizer vq_ds16_t2i.pt --size 384 --out vq-384
    torchrun --nproc-per-node 8 -m smalti train janus_1b --train.parallel fsdp \\
        --tokenizer vq-384 --eye google/siglip-large-patch16-384 --out runs/janus-1b
    """
    return janus(DEEPSEEK_1B, 180_000)


def janus_pro_1b() -> UnifiedRecipe:
    """Janus-Pro-1B, the same with twice the steps, 360,000 [M].

    torchrun --nproc-per-node 8 -m smalti train janus_pro_1b --train.parallel fsdp \\
        --tokenizer vq-384 --eye google/siglip-large-patch16-384 --out runs/janus-pro-1b
    Published: GenEval 0.73 [M].
    """
    return janus(DEEPSEEK_1B, 360_000)


def janus_pro_7b() -> UnifiedRecipe:
    """Janus-Pro-7B, 7.0 B parameters beside an eye of 0.3 B: 360,000 steps [M].

    torchrun --nproc-per-node 8 -m smalti train janus_pro_7b --train.parallel fsdp \\
        --tokenizer vq-384 --eye google/siglip-large-patch16-384 --out runs/janus-pro-7b
    Published: GenEval 0.80, DPG 84.2, MMBench 79.2 [M].
    """
    return janus(DEEPSEEK_7B, 360_000)


def small(dim: int = 192, layers: int = 6) -> LanguageConfig:
    """A decoder as Janus's, of some million parameters. How many ids it knows its text tokenizer
    decides."""
    return replace(
        DEEPSEEK_1B, vocab=1 << 17, layers=layers, heads=dim // 32, dim=dim, ffn_dim=3 * dim
    )


def shapes_janus() -> UnifiedRecipe:
    """A small model that reads shapes as a SigLIP sees them and draws them as codes.

    smalti train shapes_vqgan --data.source scenes:10000 --out runs/shapes-tokenizer
    smalti train shapes_siglip --out runs/siglip
    smalti train shapes_janus --tokenizer runs/shapes-tokenizer/tokenizer \\
        --eye runs/siglip/towers --out runs/janus
    """
    return replace(
        shapes_chameleon(),
        model=JanusConfig(small(), length=512),
        objective=JointConfig(over="kinds", cond_dropout=0.1),
        sampling=Sampling.of(guidance=2.0, top_p=0.9),
    )
