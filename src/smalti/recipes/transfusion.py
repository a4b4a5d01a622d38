"""Transfusion (Zhou et al. 2024, arXiv:2408.11039) as published, and small models of its kind for
two CPU cores, with pictures of few vectors, each of many numbers."""

from __future__ import annotations

from dataclasses import replace

from smalti.models.transfusion import TransfusionConfig
from smalti.models.transfusion_paper import SIZES, TransfusionPaperConfig, sized
from smalti.pipeline.sampling import Sampling
from smalti.recipes.base import DataConfig, Demo, KLRecipe, UnifiedRecipe
from smalti.recipes.chameleon import emoji_chameleon, shapes_chameleon
from smalti.recipes.mar import emoji_klvae, kl16
from smalti.tokenizers.kl_vae import KLVAEConfig
from smalti.train.joint import JointConfig
from smalti.train.optim import OptimConfig
from smalti.train.settings import TrainConfig


def transfusion_klvae() -> KLRecipe:
    """The KL-VAE of Transfusion, 256 pixels to 32 x 32 latents of 8 numbers, 84 M parameters.

    Published are its latents and 86 M parameters, not how they are divided: levels are those of
    latent diffusion's f8. Of 2 x 2 latents a vector is made: 16 x 16 of 32 numbers. Losses and
    training are those of `kl16`.

    torchrun --nproc-per-node 8 -m smalti train transfusion_klvae --out runs/transfusion-klvae
    """
    vae = KLVAEConfig((256, 256), multipliers=(1, 2, 4, 4), latent=8, group=2, attention_at=())
    return replace(kl16(), model=vae)


def transfusion_7b() -> UnifiedRecipe:
    """Transfusion-7B with the U-Net, 7.0 B parameters, as the paper compares sizes: 250,000 steps
    of 2 M positions.

    Other sizes are in `models.transfusion_paper.SIZES`. The paper's data are not public: half of
    the positions are text, and four of five captions stand before their pictures; here it is as
    `data.source` has it, where captions stand before and behind pictures equally often. There
    pictures before captions are learned as well, here they are read. A tenth of the texts is
    dropped, for guidance; the paper does not say how many.

    On paper 112.2 GB of weights, gradients and AdamW's state, beside activations.

    torchrun --nproc-per-node 8 -m smalti train transfusion_7b --train.parallel fsdp \\
        --tokenizer runs/transfusion-klvae --words llama-2/tokenizer.json --out runs/transfusion-7b
    """
    return UnifiedRecipe(
        data=DataConfig(source="captioned:folder:pictures+text:corpus", flip=False, holdout=0.001),
        row=4096,
        model=TransfusionPaperConfig(SIZES["7B"]),
        objective=JointConfig(pictures=5.0, over="kinds"),
        sampling=Sampling.of(guidance=3.0, head_steps="250"),
        train=TrainConfig(
            steps=250_000,
            batch=512,
            optim=OptimConfig(
                lr=3e-4, schedule="cosine", final_lr=0.05, warmup=4000, weight_decay=0.1
            ),
            eval_every=10_000,
            preview_every=10_000,
            save_every=5000,
            recompute=True,
        ),
    )


def emoji_klvae_2x2() -> KLRecipe:
    """The KL-VAE of `emoji_klvae`, of whose vectors 2 x 2 neighbours make one: 4 x 4 of 32 numbers.

    smalti train emoji_klvae_2x2 --out runs/emoji-klvae
    """
    recipe = emoji_klvae()
    return replace(recipe, model=replace(recipe.model, group=2))


def shapes_klvae_2x2() -> KLRecipe:
    """The same for pictures of shapes.

    smalti train shapes_klvae_2x2 --out runs/shapes-klvae
    """
    return replace(emoji_klvae_2x2(), data=DataConfig(source="scenes:10000", flip=False))


def emoji_transfusion() -> UnifiedRecipe:
    """A small Transfusion that draws emoji from their names and names them.

    smalti train emoji_klvae_2x2 --out runs/emoji-klvae
    smalti train emoji_transfusion --tokenizer runs/emoji-klvae/tokenizer --out runs/transfusion
    """
    return _flow(emoji_chameleon(), TransfusionConfig(layers=6, heads=6, head_dim=32, dim=192))


def shapes_transfusion() -> UnifiedRecipe:
    """A small Transfusion that draws, describes, answers, edits and tells of shapes. Of its 3
    million parameters what the time decides has half; three times as many learn less at equal
    operations.

    smalti train shapes_klvae_2x2 --out runs/shapes-klvae
    smalti train shapes_transfusion --tokenizer runs/shapes-klvae/tokenizer \\
        --out runs/transfusion
    """
    model = TransfusionConfig(layers=6, heads=4, head_dim=28, dim=112)
    return _flow(shapes_chameleon(), model)


def shapes_transfusion_paper() -> UnifiedRecipe:
    """A small Transfusion with the paper's decoder, U-Net and diffusion that draws, describes,
    answers, edits and tells of shapes.

    smalti train shapes_klvae_2x2 --out runs/shapes-klvae
    smalti train shapes_transfusion_paper --tokenizer runs/shapes-klvae/tokenizer \\
        --out runs/transfusion-paper
    """
    recipe, language = shapes_transfusion(), sized(6, 4, 256)
    train = replace(recipe.train, steps=3600, eval_every=720, preview_every=1800, save_every=720)
    return replace(
        recipe,
        train=train,
        model=TransfusionPaperConfig(language, width=64, blocks=2, length=512),
        objective=replace(recipe.objective, over="kinds"),
        sampling=Sampling.of(guidance=2.0, head_steps="50"),
    )


def _flow(recipe: UnifiedRecipe, model: TransfusionConfig) -> UnifiedRecipe:
    """The recipe of a small Chameleon for a Transfusion."""
    return replace(
        recipe,
        model=replace(model, length=512),
        objective=JointConfig(pictures=5.0, cond_dropout=recipe.objective.cond_dropout),
        sampling=Sampling.of(guidance=2.0, head_steps="25"),
    )


DEMO = Demo(
    emoji_klvae_2x2,
    emoji_transfusion,
    what="one transformer writes text word by word and draws pictures by a flow",
    predicts="the next id of a name, and where noise is going that becomes a picture",
)
