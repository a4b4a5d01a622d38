"""VAR as published (Tian et al. 2024, arXiv:2404.02905), and small ones for two CPU cores."""

from __future__ import annotations

from dataclasses import replace

from smalti.interop.projects.var import FID
from smalti.models.var import SIZES, VARConfig
from smalti.pipeline.sampling import Sampling
from smalti.recipes.base import DataConfig, Demo, GeneratorRecipe, TokenizerRecipe
from smalti.recipes.llamagen import emoji_llamagen, published_tokenizer
from smalti.tokenizers.multiscale_vqvae import VAR512, MultiScaleConfig, var256
from smalti.tokenizers.quantize.multiscale import pyramid
from smalti.train.codebook_care import CodebookConfig
from smalti.train.objectives import ReconstructionConfig
from smalti.train.optim import OptimConfig
from smalti.train.settings import TrainConfig


def var_vqvae() -> TokenizerRecipe:
    """VAR's tokenizer, 256 pixels to 10 scales of codes up to 16 x 16, 108.9 M parameters.

    Only the weights were published (trained on OpenImages), never the trainer: the architecture and
    the loss of the quantizer are theirs, all else is LlamaGen's VQ-16 recipe with our care for the
    codebook.

    torchrun --nproc-per-node 8 -m smalti train var_vqvae --out runs/var-tokenizer
    """
    return published_tokenizer(var256(), ReconstructionConfig())


def emoji_msvqvae() -> TokenizerRecipe:
    """A small multi-scale VQ-VAE, 32 pixels to six scales of codes, 1 x 1 to 8 x 8.

    Codes of 256; about two minutes on two CPU cores.

    smalti train emoji_msvqvae --out runs/emoji-scales
    """
    return TokenizerRecipe(
        data=DataConfig(source="emoji", flip=True),
        model=MultiScaleConfig(
            size=(32, 32),
            patch=2,
            channels=48,
            multipliers=(1, 2),
            blocks=1,
            scales=pyramid(1, 2, 3, 4, 6, 8),
            vocab=256,
            dim=8,
            attention=False,
        ),
        objective=ReconstructionConfig(
            perceptual="none",
            gan_weight=0.0,
            codebook=CodebookConfig(patience=50, share=0.55),  # of few images, with coarse scales
        ),
        train=TrainConfig(
            steps=1500,
            batch=16,
            optim=OptimConfig(lr=2e-3, schedule="cosine", warmup=50, weight_decay=0.0),
            eval_every=300,
            preview_every=500,
            save_every=500,
        ),
    )


IMAGES = 1_281_167
"""Of ImageNet's training set, by which epochs are counted."""


def var(
    size: str,
    epochs: int,
    lr: float,
    gate: float,
    batch: int = 768,
    final_lr: float = 0.01,
    final_weight_decay: float | None = None,
    model: VARConfig | None = None,
) -> GeneratorRecipe:
    """VAR of a published size, its rate given for a batch of 256; a warm-up of a fiftieth, then a
    twentieth at the peak, then a line down. Codes are cached, of the middle of each image and its
    mirror; upstream encodes random crops as it goes."""
    steps = epochs * IMAGES // batch
    depth, warmup = SIZES[size]["layers"], steps // 50
    model = replace(model or VARConfig(), drop_path=0.1 * depth / 24, gate=gate, **SIZES[size])
    return GeneratorRecipe(
        data=DataConfig(source="folder:imagenet/train", holdout=0.01),
        model=model,
        sampling=FID,
        train=TrainConfig(
            steps=steps,
            batch=batch,
            optim=OptimConfig(
                lr=lr * batch / 256,
                schedule="linear",
                warmup=warmup,
                hold=(steps - warmup) // 20,
                final_lr=final_lr,
                final_weight_decay=final_weight_decay,
                clip=2.0,
            ),
            eval_every=10_000,
            preview_every=10_000,
            save_every=5000,
        ),
    )


def var_d16() -> GeneratorRecipe:
    """VAR-d16, 310 M parameters. Published: FID 3.55 at 256 (3.30 in the paper).

    On paper 5.0 GB of weights, gradients and AdamW's state, beside activations.

    smalti encode folder:imagenet/train --tokenizer var-tokenizer --out codes.arrow
    torchrun --nproc-per-node 8 -m smalti train var_d16 --tokenizer var-tokenizer \\
        --codes codes.arrow --out runs/var-d16
    """
    return var("d16", 200, 1e-4, 1e-3, final_lr=0.1)


def var_d20() -> GeneratorRecipe:
    """VAR-d20, 600 M parameters. Published: FID 2.95 at 256.

    On paper 9.6 GB of weights, gradients and AdamW's state, beside activations.

    torchrun --nproc-per-node 8 -m smalti train var_d20 --tokenizer var-tokenizer \\
        --codes codes.arrow --out runs/var-d20
    """
    return var("d20", 250, 1e-4, 1e-3, final_lr=0.1)


def var_d24() -> GeneratorRecipe:
    """VAR-d24, 1.0 B parameters. Published: FID 2.33 at 256.

    On paper 16.5 GB of weights, gradients and AdamW's state, beside activations.

    torchrun --nproc-per-node 8 -m smalti train var_d24 --tokenizer var-tokenizer \\
        --codes codes.arrow --out runs/var-d24
    """
    return var("d24", 350, 8e-5, 1e-4)


def var_d30() -> GeneratorRecipe:
    """VAR-d30, 2.0 B parameters. Published: FID 1.97 at 256, 1.80 with rejection sampling.

    On paper 32.2 GB of weights, gradients and AdamW's state, beside activations.

    torchrun --nproc-per-node 8 -m smalti train var_d30 --tokenizer var-tokenizer \\
        --codes codes.arrow --out runs/var-d30
    """
    return var("d30", 350, 8e-5, 1e-5, batch=1024, final_weight_decay=0.08)


def var_d36_512() -> GeneratorRecipe:
    """VAR-d36 for 512 pixels, 2.35 B parameters. Published: FID 2.63 at 512.

    One modulation for all layers. On paper 37.7 GB of weights, gradients and AdamW's state, beside
    activations.

    smalti convert var --tokenizer vae_ch160v4096z32.pth --scales 1 2 3 4 6 9 13 18 24 32 \\
        --out var-tokenizer-512
    smalti encode folder:imagenet/train --tokenizer var-tokenizer-512 --out codes-512.arrow
    torchrun --nproc-per-node 8 -m smalti train var_d36_512 --tokenizer var-tokenizer-512 \\
        --codes codes-512.arrow --out runs/var-d36-512
    """
    large = VARConfig(scales=VAR512, shared_adaln=True)
    return var("d36", 350, 8e-5, 5e-6, final_weight_decay=0.08, model=large)


def emoji_var() -> GeneratorRecipe:
    """A small VAR on the codes of `emoji_msvqvae`, about three minutes on two CPU cores.

    As many parameters as `emoji_llamagen`, and as many operations in training.

    smalti train emoji_var --tokenizer runs/emoji-scales/tokenizer --out runs/emoji-var
    """
    recipe = emoji_llamagen()
    return replace(
        recipe,
        model=VARConfig(
            scales=pyramid(1, 2, 3, 4, 6, 8),
            vocab=256,
            latent=8,
            classes=9,
            layers=4,
            heads=4,
            dim=160,
            dropout=0.2,
            drop_path=0.1,
        ),
        sampling=Sampling.of(guidance=2.0, schedule="linear", top_p=0.95),
        train=replace(
            recipe.train, steps=2020, eval_every=404, preview_every=1010, save_every=1010
        ),
    )


DEMO = Demo(
    emoji_msvqvae,
    emoji_var,
    what="scale by scale",
    predicts="all codes of a scale at once from the scales before it",
    minutes=(5, 10),
)
