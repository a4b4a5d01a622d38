"""ILLUME+ as published (Huang, Wang, Yang et al. 2025, arXiv:2504.01934), and small models of its
kind, and of ILLUME's (Wang, Lu et al. 2024, arXiv:2412.06673), for two CPU cores.

Marks: [C] read in the released code, [M] remembered of the paper, to be checked before it is
quoted; all without a mark is ours.
"""

from __future__ import annotations

from dataclasses import replace

from smalti.interop.projects.illume import DRAWN
from smalti.models.illume import IllumeConfig
from smalti.models.language import LanguageConfig
from smalti.nn.adapters import AdapterConfig
from smalti.nn.frozen_vit import FrozenViTConfig
from smalti.nn.vision import TowerConfig
from smalti.recipes.base import DataConfig, DualRecipe, RefineRecipe, UnifiedRecipe
from smalti.recipes.chameleon import MIXED, shapes_chameleon
from smalti.recipes.metamorph import metamorph_renderer, shapes_renderer
from smalti.recipes.text import shapes_vqgan
from smalti.tokenizers.dual import DualConfig
from smalti.tokenizers.dual_pixels import PixelConfig
from smalti.tokenizers.refined import RefinedConfig
from smalti.tokenizers.renderer import RendererConfig
from smalti.train.dual import DualObjectiveConfig
from smalti.train.joint import JointConfig
from smalti.train.optim import OptimConfig
from smalti.train.rendering import RenderingConfig
from smalti.train.settings import TrainConfig

HALF = (0.5, 0.5, 0.5)
"""What a SigLIP takes from pixels in [0, 1], and divides them by."""


def dualvitok() -> DualRecipe:
    """DualViTok, 256 pixels to 9 x 9 codes of 32,768 and 16 x 16 of 98,304, with the frozen ViT of
    Qwen2-VL [C].

    AdamW (0.9, 0.95) at 1e-4, weight decay 0.05, gradients of norm 1, batch 256 [C]; how many steps
    is not known. There pictures have any shape of up to 512 x 512 pixels [C].

    smalti convert illume --tokenizer dualvitok.pth --out dualvitok
    torchrun --nproc-per-node 8 -m smalti train dualvitok --init dualvitok \\
        --data.source parquet:pictures --out runs/dualvitok
    """
    return DualRecipe(
        data=DataConfig(source="parquet:pictures", crop="random", holdout=0.001),
        train=TrainConfig(
            steps=200_000,
            batch=256,
            optim=OptimConfig(lr=1e-4, weight_decay=0.05, clip=1.0),
            ema=0.9999,
            eval_every=5000,
            preview_every=5000,
            save_every=2500,
        ),
    )


def illume_plus_3b() -> UnifiedRecipe:
    """ILLUME+ 3B, Qwen2.5-3B on pictures of 512 pixels, 18 x 18 codes and 32 x 32, as its last
    stage trains it [C]: a cosine from 2e-5, batch 256, rows of 4096 ids.

    There the language model reads features of pictures before they are quantized, and the last
    layers of its eye learn along at 2e-6 [C]; two stages before this one teach new ids and pairs
    [M]. The text of a picture is left out in a tenth [C]. How many steps is not known.

    smalti convert illume --tokenizer dualvitok.pth --model ILLUME_plus-qwen2_5-3b/ --size 512 \\
        --out illume
    torchrun --nproc-per-node 8 -m smalti train illume_plus_3b --train.parallel fsdp \\
        --init illume --out runs/illume
    """
    steps = 20_000
    return UnifiedRecipe(
        data=MIXED,
        row=4096,
        model=IllumeConfig(),
        objective=JointConfig(cond_dropout=0.1),
        sampling=DRAWN,
        train=TrainConfig(
            steps=steps,
            batch=256,
            optim=OptimConfig(lr=2e-5, schedule="cosine", warmup=round(0.03 * steps)),
            eval_every=1000,
            preview_every=1000,
            save_every=500,
            recompute=True,
        ),
    )


def small_pixels(latent: int) -> PixelConfig:
    """Convolutions of a small tokenizer, four pixels to a code along one side."""
    return PixelConfig(48, (1, 2), 1, (), latent, patch=2)


def shapes_dual() -> DualRecipe:
    """A small tokenizer of two levels, 32 pixels to 4 x 4 codes out of 4,096 of what a SigLIP sees
    and 8 x 8 out of 512 of pixels.

    smalti train shapes_siglip --out runs/siglip
    smalti train shapes_dual --towers runs/siglip/towers --out runs/dual
    """
    recipe = shapes_vqgan()
    return DualRecipe(
        data=recipe.data,
        model=DualConfig(
            size=(32, 32),
            vit=FrozenViTConfig("siglip", 32, 4, 2, 96, HALF, HALF, TowerConfig(3, 3, 96, 384)),
            width=96,
            layers=1,
            decoder_layers=1,
            heads=3,
            semantic_vocab=4096,
            semantic_dim=16,
            pixel_vocab=512,
            pixel_dim=8,
            rotate=True,
            encoder=small_pixels(8),
            decoder=small_pixels(16),
        ),
        objective=DualObjectiveConfig(perceptual="none", gan_weight=0.0),
        train=recipe.train,
    )


def shapes_semantic() -> DualRecipe:
    """A small tokenizer of what a SigLIP sees alone, 32 pixels to 8 x 8 codes out of 4,096, as
    ILLUME's, with a decoder of convolutions.

    smalti train shapes_siglip --out runs/siglip
    smalti train shapes_semantic --towers runs/siglip/towers --out runs/semantic
    """
    recipe = shapes_dual()
    vit = replace(recipe.model.vit, merge=1)
    model = replace(recipe.model, vit=vit, pixel_vocab=0, decoder=small_pixels(8))
    return replace(recipe, model=model)


def illume_refiner() -> RefineRecipe:
    """A renderer of DualViTok's codes that draws pictures of 512 pixels from codes of 256.

    Published is SDXL's U-Net of 2.6 billion parameters, to whose four channels of latents 64 of
    codes are added; codes are left out for guidance of 1.5 to 2, and 50 evaluations draw [C]. Its
    rates, batches and steps are not known. Here a transformer of 0.2 billion parameters that knows
    no latents takes its place, with the numbers of `metamorph_renderer`.

    smalti convert illume --tokenizer dualvitok.pth --out dualvitok
    torchrun --nproc-per-node 8 -m smalti train illume_refiner --tokenizer dualvitok \\
        --data.source parquet:pictures --out runs/illume-refiner
    """
    adapter, like = AdapterConfig("mlp", 2, 512, 1024), metamorph_renderer()
    return RefineRecipe(
        data=DataConfig(source="parquet:pictures", crop="random", holdout=0.001),
        model=RefinedConfig(
            renderer=RendererConfig(adapter, 18, 16, 1024, 16), evaluations=50, guidance=1.5
        ),
        objective=like.objective,
        train=like.train,
    )


def shapes_refined() -> RefineRecipe:
    """A small renderer of the codes of `shapes_dual`, whose pictures are of 64 pixels where those
    that are coded are of 32.

    Any other tokenizer of 32 pixels can be given as well, and --model.size 32 32 makes pictures as
    large as they are.

    smalti train shapes_siglip --out runs/siglip
    smalti train shapes_dual --towers runs/siglip/towers --out runs/dual
    smalti train shapes_refined --tokenizer runs/dual/tokenizer --out runs/refined
    smalti repack runs/illume/pipeline --tokenizer runs/refined/tokenizer --out runs/illume-64
    """
    recipe, adapter = shapes_dual(), AdapterConfig("mlp", 2, 128, 256)
    return RefineRecipe(
        data=recipe.data,
        model=RefinedConfig(
            size=(64, 64),
            tokenizer=recipe.model,
            cells=(8, 8),
            channels=16,
            renderer=RendererConfig(adapter, 4, 4, 128, 8),
            guidance=1.5,
        ),
        objective=RenderingConfig(),
        train=shapes_renderer().train,
    )


def small(dim: int = 192, layers: int = 6) -> LanguageConfig:
    """A decoder as Qwen2.5, of some million parameters. How many ids it knows its tokenizers
    decide."""
    heads = dim // 32
    return LanguageConfig(
        1 << 19, layers, heads, dim, 3 * dim, kv_heads=1, qkv_bias=True, rope_base=1e6
    )


def shapes_illume() -> UnifiedRecipe:
    """A small ILLUME+ that draws, describes, answers, edits and tells of shapes, on the codes of
    `shapes_dual`; on those of `shapes_semantic` it is an ILLUME.

    smalti train shapes_siglip --out runs/siglip
    smalti train shapes_dual --towers runs/siglip/towers --out runs/dual
    smalti train shapes_illume --tokenizer runs/dual/tokenizer --out runs/illume
    """
    recipe = shapes_chameleon()
    return replace(recipe, row=368, model=IllumeConfig(small(), seen=(), length=800))
