"""VILA-U as published (Wu et al. 2024, arXiv:2409.04429), and small ones for two CPU cores.

Marks: [C] read in the released code, [M] remembered of the paper, to be checked before it is
quoted; all without a mark is ours.
"""

from __future__ import annotations

from dataclasses import replace

from smalti.heads.depth import DepthConfig
from smalti.interop.projects.vila_u import DRAWN
from smalti.models.depth_language import DepthLanguageConfig
from smalti.nn.vision import TowerConfig
from smalti.pipeline.sampling import Sampling
from smalti.recipes.base import DataConfig, Demo, TokenizerRecipe, UnifiedRecipe
from smalti.recipes.chameleon import MIXED, emoji_chameleon, shapes_chameleon, small
from smalti.recipes.liquid import tuned
from smalti.recipes.rq import emoji_rq
from smalti.text.byte_words import BytesConfig
from smalti.tokenizers.vila_u import VILAUConfig
from smalti.train.codebook_care import CodebookConfig
from smalti.train.contrastive import ContrastiveConfig
from smalti.train.joint import JointConfig
from smalti.train.optim import OptimConfig
from smalti.train.settings import TrainConfig

PAIRS = 700_000_000
"""Pictures with captions of COYO-700M that the tower sees, once [M]."""


def vila_u_tower() -> TokenizerRecipe:
    """VILA-U's tower at 256 pixels, 16 x 16 positions of 4 codes out of 16384, with captions.

    Contrastive and reconstruction losses weigh 1 each [M]; tables are moving averages of 0.99 [C].
    There the tower is a SigLIP that was trained before, without which it does not come to match
    texts [M], and a frozen one reads captions; here both are new, and bytes are read. Published:
    rFID 1.80 and 73.3 % zero-shot on ImageNet [M].

    torchrun --nproc-per-node 8 -m smalti train vila_u_tower --data.source parquet:coyo \\
        --out runs/vila-u-tower
    """
    steps, batch = PAIRS // 4096, 4096
    return TokenizerRecipe(
        data=DataConfig(source="parquet:coyo", crop="center", flip=False, holdout=0.0001),
        model=VILAUConfig(),
        objective=ContrastiveConfig(
            codebook=CodebookConfig(decay=0.99),
            pairs="sigmoid",
            text=BytesConfig(length=64, dim=1024, layers=24, heads=16),
        ),
        train=TrainConfig(
            steps=steps,
            batch=batch,
            optim=OptimConfig(lr=1e-4, schedule="cosine", warmup=steps // 100, weight_decay=0.02),
            eval_every=5000,
            preview_every=5000,
            save_every=2500,
        ),
    )


def vila_u_7b() -> UnifiedRecipe:
    """VILA-U, 7.3 B parameters: Llama-2-7B and six layers over depth, on pictures of 256 pixels.

    Rows of 8192 ids, 512 in a step at a rate of 5e-5, and the loss is that of text and that of
    codes, each a mean of its own [C]; a cosine after 3 % of the steps, no weight decay [M]. There
    the language model is trained on; here weights are new. Pictures are drawn at guidance 3, each
    code of the 900 likeliest [C].

    smalti convert vila-u --tokenizer vila-u-7b-256/ --out vila-u-tower
    torchrun --nproc-per-node 8 -m smalti train vila_u_7b --train.parallel fsdp \\
        --tokenizer vila-u-tower --words vila-u-7b-256/llm --out runs/vila-u
    """
    return UnifiedRecipe(
        vocab=32_000,
        data=MIXED,
        row=8192,
        model=DepthLanguageConfig(length=8192),
        objective=JointConfig(over="kinds", cond_dropout=0.1),
        sampling=DRAWN,
        train=tuned(100_000, 512, 5e-5),
    )


def shapes_vilau_tower() -> TokenizerRecipe:
    """A small tower that codes shapes and learns with their captions, 32 pixels to 4 x 4 positions
    of 4 codes out of 512.

    smalti train shapes_vilau_tower --out runs/vilau-tower
    """
    recipe = emoji_rq()
    return replace(
        recipe,
        data=DataConfig(source="shapes", flip=False),
        model=VILAUConfig(
            size=(32, 32),
            patch=2,
            channels=48,
            multipliers=(1, 2, 2),
            blocks=1,
            latent=64,
            attention=False,
            vision=TowerConfig(4, 4, 128, 256),
            cell=8,
            vocab=512,
            depth=4,
        ),
        objective=ContrastiveConfig(
            perceptual="none",
            gan_weight=0.0,
            codebook=CodebookConfig(decay=0.99),
            contrastive=0.1,
            pairs="sigmoid",
            text=BytesConfig(length=12, dim=128, layers=1),
        ),
        train=replace(recipe.train, steps=1500, eval_every=300, preview_every=750, save_every=750),
    )


def over_depth(dim: int = 192, layers: int = 2) -> DepthConfig:
    """A head as VILA-U's, of a few layers."""
    return DepthConfig(layers, dim // 64, dim, "gpt", positions=True, bias=True, sums=True)


def shapes_vilau() -> UnifiedRecipe:
    """A small model whose pictures are stacks of codes, that draws, describes, answers and edits
    shapes.

    smalti train shapes_vilau_tower --out runs/vilau-tower
    smalti train shapes_vilau --tokenizer runs/vilau-tower/tokenizer --out runs/vilau
    """
    return replace(
        shapes_chameleon(),
        model=DepthLanguageConfig(small(), head=over_depth(), length=512),
        objective=JointConfig(text=3.0, pictures=2.0, cond_dropout=0.05),
    )


def emoji_vila_u_tower() -> TokenizerRecipe:
    """The tower of `shapes_vilau_tower` for emoji and their names.

    smalti train emoji_vila_u_tower --out runs/vila-u-tower
    """
    return replace(
        shapes_vilau_tower(), data=DataConfig(source="emoji", flip=False), train=emoji_rq().train
    )


def emoji_vila_u() -> UnifiedRecipe:
    """A small model of stacks of codes that draws emoji from their names and names them.

    smalti train emoji_vila_u_tower --out runs/vila-u-tower
    smalti train emoji_vila_u --tokenizer runs/vila-u-tower/tokenizer --out runs/vila-u
    """
    return replace(
        emoji_chameleon(),
        model=DepthLanguageConfig(small(dropout=0.1), head=over_depth(), length=512),
        sampling=Sampling.of(guidance=2.0, top_p=0.95),
    )


DEMO = Demo(
    emoji_vila_u_tower,
    emoji_vila_u,
    what="one transformer reads and writes text and stacks of codes that were learned with text",
    predicts="the next id of a name, or the stack of codes of the next position of a picture",
)
