"""taming-transformers in its published sizes (Esser et al. 2020, arXiv:2012.09841), and small ones.

Learning rates are 4.5e-6 for each image of a batch. [M] marks what is remembered, not read.
"""

from __future__ import annotations

from dataclasses import replace

from smalti.models.taming import SIZES, TamingConfig
from smalti.pipeline.sampling import Sampling
from smalti.recipes.base import DataConfig, Demo, GeneratorRecipe, MapRecipe, TokenizerRecipe
from smalti.recipes.llamagen import emoji_llamagen, emoji_vqgan
from smalti.tokenizers.vqgan import VQGANConfig, taming_f16, taming_gumbel_f8
from smalti.train.codebook_care import CodebookConfig
from smalti.train.objectives import LikelihoodConfig, ReconstructionConfig
from smalti.train.optim import OptimConfig
from smalti.train.relaxed import RelaxedConfig
from smalti.train.settings import TrainConfig

RATE = 4.5e-6
"""Learning rate for each image of a batch."""
LEGACY = ReconstructionConfig(
    pixel="l1",
    gan_weight=0.8,
    gan_adaptive=True,
    gan_start=250_001,
    quantizer_weight=0.25,
    commitment=1.0,
    codebook=CodebookConfig(kmeans=False, warmup=0),
)
"""As every released checkpoint learned: 0.25 stands before what moves codes, not latents."""


def training(batch: int, steps: int, betas: tuple[float, float], decay: float) -> TrainConfig:
    """So many steps of Adam, at a constant rate."""
    optim = OptimConfig(lr=RATE * batch, betas=betas, weight_decay=decay)
    return TrainConfig(
        steps=steps,
        batch=batch,
        optim=optim,
        eval_every=10_000,
        preview_every=10_000,
        save_every=5000,
    )


def vqgan(model: VQGANConfig, source: str, objective: ReconstructionConfig) -> TokenizerRecipe:
    """A published VQGAN: batches of 12, Adam with betas 0.5 and 0.9; how many steps is ours."""
    return TokenizerRecipe(
        data=DataConfig(source=source, crop="random", flip=True, holdout=0.01),
        model=model,
        objective=objective,
        train=training(12, 1_000_000, (0.5, 0.9), 0.0),
    )


def taming_vqgan() -> TokenizerRecipe:
    """VQGAN f16, 1024 codes, on ImageNet. Published: reconstruction FID 7.94.

    smalti train taming_vqgan --out runs/taming-vqgan
    """
    return vqgan(taming_f16(), "folder:imagenet/train", LEGACY)


def taming_vqgan_16384() -> TokenizerRecipe:
    """VQGAN f16, 16384 codes, on ImageNet. Published: reconstruction FID 4.98."""
    return vqgan(taming_f16(16384), "folder:imagenet/train", LEGACY)


def taming_gumbel() -> TokenizerRecipe:
    """VQGAN f8 that draws its 8192 codes, on OpenImages. Published: reconstruction FID 1.49."""
    relaxed = RelaxedConfig(
        kl=1e-8, temperature=0.9, final_temperature=1e-6, temperature_steps=1_000_000
    )  # [M] but kl
    goal = replace(LEGACY, relaxed=relaxed, codebook=CodebookConfig())
    return vqgan(taming_gumbel_f8(), "folder:openimages/train", goal)


def taming_depth_vqgan() -> TokenizerRecipe:
    """VQGAN f16 of depth maps, which are in the folder depth beside the pictures.

    smalti train taming_depth_vqgan --out runs/taming-depth
    """
    goal = replace(LEGACY, gan_weight=0.75, gan_start=50_001)
    return vqgan(replace(taming_f16(), map="depth"), "folder:imagenet/train", goal)


def taming_segmentation_vqgan() -> TokenizerRecipe:
    """VQGAN f16 of segmentations into 182 kinds, in the folder segmentation beside the pictures."""
    goal = replace(LEGACY, pixel="kinds", perceptual="none", gan_weight=0.0)
    model = replace(taming_f16(), map="segmentation", kinds=182)
    return vqgan(model, "folder:sflckr/train", goal)


def taming_cin() -> GeneratorRecipe:
    """The GPT of ImageNet's classes, 1.4 B parameters, on `taming_vqgan_16384`. Published: FID
    15.78 at 256, less where a classifier rejects pictures.

    torchrun --nproc-per-node 8 -m smalti train taming_cin --train.parallel fsdp \\
        --tokenizer runs/taming-vqgan-16384/tokenizer --out runs/taming-cin
    """
    return GeneratorRecipe(
        data=DataConfig(source="folder:imagenet/train", holdout=0.01),
        model=TamingConfig(**SIZES["imagenet"]),
        objective=LikelihoodConfig(cond_dropout=0.0),
        sampling=Sampling.of(top_k=600, top_p=0.92),
        train=training(64, 1_000_000, (0.9, 0.95), 0.01),  # batch [M]
    )


def taming_drin() -> MapRecipe:
    """The GPT from depth to ImageNet's pictures (D-RIN), on `taming_vqgan` and
    `taming_depth_vqgan`.

    smalti train taming_drin --tokenizer runs/taming-vqgan/tokenizer \\
        --map runs/taming-depth/tokenizer --out runs/taming-drin
    """
    return MapRecipe(
        data=DataConfig(source="folder:imagenet/train", holdout=0.01),
        model=TamingConfig(
            vocab=1024, classes=0, map_grid=(16, 16), map_vocab=1024, **SIZES["faces"]
        ),
        objective=LikelihoodConfig(cond_dropout=0.0),
        sampling=Sampling.of(top_k=100),
        train=training(48, 500_000, (0.9, 0.95), 0.01),  # batch [M]
    )


def taming_sflckr() -> MapRecipe:
    """The GPT from segmentations to landscapes (S-FLCKR), from which larger pictures are drawn by
    windows, on `taming_vqgan` and `taming_segmentation_vqgan`."""
    recipe = taming_drin()
    data = DataConfig(source="folder:sflckr/train", holdout=0.01)
    return replace(recipe, data=data)


def taming_ffhq() -> GeneratorRecipe:
    """The GPT of faces (FFHQ), without a condition. Published: FID 9.6 at 256."""
    return GeneratorRecipe(
        data=DataConfig(source="folder:ffhq/train?label=", holdout=0.01),
        model=TamingConfig(vocab=1024, classes=1, **SIZES["faces"]),
        objective=LikelihoodConfig(cond_dropout=0.0),
        sampling=Sampling.of(top_k=250),
        train=training(48, 500_000, (0.9, 0.95), 0.01),  # batch [M]
    )


def taming_faceshq() -> GeneratorRecipe:
    """The GPT of faces (FacesHQ), which knows where in its picture each code is."""
    recipe = taming_ffhq()
    model = replace(recipe.model, places=1024)
    return replace(
        recipe, data=replace(recipe.data, source="folder:faceshq/train?label="), model=model
    )


def emoji_taming() -> GeneratorRecipe:
    """A small GPT on the codes of `emoji_vqgan`, whose classes have the rows of codes.

    smalti train emoji_taming --tokenizer runs/emoji-tokenizer/tokenizer --out runs/emoji-taming
    """
    recipe = emoji_llamagen()
    return replace(
        recipe,
        model=TamingConfig(
            grid=(8, 8),
            vocab=512,
            classes=9,
            keep=0.9,
            layers=4,
            heads=4,
            dim=160,
            dropout=0.2,
            attention_dropout=0.1,
        ),
    )


def emoji_edges() -> TokenizerRecipe:
    """A small VQGAN of the edges of emoji, 32 pixels to 8 x 8 codes of 128.

    smalti train emoji_edges --out runs/emoji-edges
    """
    recipe = emoji_vqgan()
    train = replace(recipe.train, steps=400, eval_every=80, preview_every=200, save_every=200)
    return replace(recipe, model=replace(recipe.model, map="edges", vocab=128), train=train)


def emoji_taming_edges() -> MapRecipe:
    """A small GPT from the edges of emoji to emoji, on `emoji_vqgan` and `emoji_edges`.

    smalti train emoji_taming_edges --tokenizer runs/emoji-tokenizer/tokenizer \\
        --map runs/emoji-edges/tokenizer --out runs/emoji-taming-edges
    """
    recipe = emoji_taming()
    model = replace(recipe.model, classes=0, map_grid=(8, 8), map_vocab=128, unmasked=64)
    return MapRecipe(
        data=recipe.data,
        model=model,
        sampling=Sampling.of(guidance=1.5, top_p=0.95),
        train=replace(recipe.train, steps=2000, eval_every=400, preview_every=1000),
    )


DEMO = Demo(
    emoji_vqgan,
    emoji_taming,
    what="classes that are codes",
    predicts="each code from its class, as one more code, and those before it",
)
