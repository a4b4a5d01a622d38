"""MetaMorph (Tong et al. 2024, arXiv:2412.14164) as published, with a renderer in the place of its
diffusion model, and a small one of shapes for two CPU cores."""

from __future__ import annotations

from dataclasses import replace

from smalti.models.metamorph import LLAMA_3, MetaMorphConfig
from smalti.nn.adapters import AdapterConfig
from smalti.pipeline.sampling import Sampling
from smalti.recipes.base import DataConfig, RenderRecipe, UnifiedRecipe
from smalti.recipes.chameleon import shapes_chameleon, small
from smalti.recipes.towers import shapes_siglip
from smalti.tokenizers.rendered import RenderedConfig
from smalti.tokenizers.renderer import RendererConfig
from smalti.train.joint import JointConfig
from smalti.train.optim import OptimConfig
from smalti.train.rendering import RenderingConfig
from smalti.train.settings import TrainConfig


def metamorph_renderer() -> RenderRecipe:
    """A renderer of 64 features of SigLIP-so400m/14 at 384 pixels, pictures of 512 pixels.

    Published is a diffusion model that begins from Stable Diffusion 1.5, whose texts an adapter of
    features replaces: two layers 2048 wide, rate 1e-5, 24 pictures for each GPU, of which the
    features of 80 % are left out. Here a transformer of 0.2 billion parameters takes its place,
    which begins from nothing, so its rate is larger and fewer features are left out.

    torchrun --nproc-per-node 8 -m smalti train metamorph_renderer \\
        --towers google/siglip-so400m-patch14-384 --out runs/metamorph-renderer
    """
    return RenderRecipe(
        data=DataConfig(source="folder:pictures", flip=False, holdout=0.001),
        model=RenderedConfig(
            renderer=RendererConfig(AdapterConfig("mlp", 2, 768, 2048), 18, 16, 1024, 16),
            evaluations=50,
            guidance=6.0,
        ),
        objective=RenderingConfig(cond_dropout=0.1),
        train=TrainConfig(
            steps=200_000,
            batch=192,
            optim=OptimConfig(lr=1e-4, warmup=2000, weight_decay=0.0),
            ema=0.9999,
            eval_every=10_000,
            preview_every=5000,
            save_every=5000,
        ),
    )


def metamorph_8b() -> UnifiedRecipe:
    """MetaMorph-8B, 8.1 B parameters: one epoch of instructions in batches of 1536 [C].

    Documents of visual questions, of captions in reverse, of edits and videos are not public; of
    those that draw, 200,000 are said to be enough beside others that read [M]. The published run
    has two stages, of which the first trains the projector alone, and begins from Llama-3-8B; this
    one trains all from nothing. Rates are those of the second stage [C]; how many documents its
    epoch has is not published, so 6000 steps are ours.

    torchrun --nproc-per-node 8 -m smalti train metamorph_8b --train.parallel fsdp \\
        --tokenizer runs/metamorph-renderer/tokenizer --words llama-3/tokenizer.json \\
        --documents documents.arrow --out runs/metamorph-8b
    """
    return UnifiedRecipe(
        data=DataConfig(source="captioned:folder:pictures", flip=False, holdout=0.001),
        vocab=128_256,
        row=4096,
        model=MetaMorphConfig(LLAMA_3),
        objective=JointConfig(over="kinds", cond_dropout=0.0),
        train=TrainConfig(
            steps=6000,
            batch=1536,
            optim=OptimConfig(lr=3.74e-5, schedule="cosine", warmup=180, weight_decay=0.0),
            eval_every=1000,
            preview_every=1000,
            save_every=500,
        ),
    )


def shapes_renderer() -> RenderRecipe:
    """A small renderer of what the tower of `shapes_siglip` sees of shapes, 32 pixels from 4 x 4
    features, each of which is added to the patch of 8 x 8 pixels where it stands.

    smalti train shapes_siglip --out runs/siglip
    smalti train shapes_renderer --towers runs/siglip/towers --out runs/renderer
    """
    towers = shapes_siglip()
    model = RenderedConfig(
        size=(32, 32),
        grid=(4, 4),
        renderer=RendererConfig(AdapterConfig("mlp", 2, 128, 256), 4, 4, 128, 8),
    )
    return RenderRecipe(
        data=towers.data,
        model=model.seeing(towers.model),
        objective=RenderingConfig(feature_noise=0.2),
        train=TrainConfig(
            steps=1500,
            batch=32,
            optim=OptimConfig(lr=1.5e-3, schedule="cosine", warmup=50, weight_decay=0.0),
            ema=0.99,
            eval_every=300,
            preview_every=500,
            save_every=250,
        ),
    )


def shapes_metamorph() -> UnifiedRecipe:
    """A small MetaMorph that draws shapes from their captions and describes them.

    smalti train shapes_siglip --out runs/siglip
    smalti train shapes_renderer --towers runs/siglip/towers --out runs/renderer
    smalti train shapes_metamorph --tokenizer runs/renderer/tokenizer --out runs/metamorph
    """
    recipe = shapes_chameleon()
    return replace(
        recipe,
        data=DataConfig(source="captioned:shapes", flip=False),
        model=MetaMorphConfig(
            replace(small(128, 4), vocab=LLAMA_3.vocab, qk_norm="none"), length=512
        ),
        objective=JointConfig(over="kinds", cond_dropout=0.0),
        sampling=Sampling(),
        train=replace(
            recipe.train,
            steps=400,
            optim=OptimConfig(lr=2e-3, schedule="cosine", warmup=40),
            eval_every=80,
            preview_every=200,
        ),
    )
