"""What does a training step of the classics cost, beside the operations on paper?

    python benchmarks/classic_steps.py [--quick] [--only NAME ...] [--rounds N]

Generators (taming's GPT, DALL-E, Parti, ImageGPT, TiTok's) are timed beside a LlamaGen of the same
width, depth and number of positions, as `bit_steps.py` has it, and tokenizers (DALL-E's dVAE,
ViT-VQGAN, DC-AE, TiTok) beside the small VQGAN, all as their small recipes train them, and those of
published widths (`_large`) on pictures of 128 pixels, with the small recipes' losses, beside VQ-16.
`ratio` is measured / paper; the target is at most 1.1.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from bit_steps import CASES, LARGE, LIKELIHOOD, SMALL, Case, Steps, compare, measure
from common import report
from smalti import modules
from smalti.models.dalle import DALLEConfig
from smalti.models.imagegpt import ImageGPTConfig
from smalti.models.parti import PartiConfig
from smalti.models.taming import TamingConfig
from smalti.models.titok import TiTokGeneratorConfig
from smalti.recipes.base import TokenizerRecipe
from smalti.recipes.dalle import dalle_dvae, emoji_dvae
from smalti.recipes.dcae import emoji_dcae
from smalti.recipes.llamagen import emoji_vqgan, llamagen_vq16
from smalti.recipes.parti import emoji_vit_vqgan, vit_vqgan_small
from smalti.recipes.titok import emoji_titok, titok_bl128_tokenizer
from smalti.tokenizers import dcae
from smalti.train.masked_loss import MaskedConfig
from smalti.train.optim import adamw
from smalti.train.parallel import keep_freed_memory

MASKED = MaskedConfig(masking="arccos", known_weight=0.1)
GENERATORS: dict[str, Callable[[], Case]] = {
    "taming_small": lambda: Case(
        TamingConfig(grid=(8, 8), vocab=512, classes=9, **SMALL), LIKELIHOOD, 16),
    "taming_large": lambda: Case(
        TamingConfig(grid=(16, 16), vocab=16384, classes=1000, **LARGE), LIKELIHOOD, 4),
    "dalle_small": lambda: Case(
        DALLEConfig(grid=(8, 8), vocab=512, text_length=16, text_vocab=512, square=5, **SMALL),
        LIKELIHOOD, 16),
    "dalle_large": lambda: Case(
        DALLEConfig(grid=(16, 16), text_length=64, **LARGE), LIKELIHOOD, 4),
    "parti_small": lambda: Case(
        PartiConfig(grid=(8, 8), vocab=512, text_length=16, text_dim=1, text_vocab=512,
                    encoder_layers=2, ffn_dim=768, **SMALL), LIKELIHOOD, 16),
    "parti_large": lambda: Case(
        PartiConfig(grid=(16, 16), text_dim=1, text_vocab=16384, encoder_layers=4, ffn_dim=3072,
                    **LARGE), LIKELIHOOD, 4),
    "imagegpt_small": lambda: Case(
        ImageGPTConfig(grid=(16, 16), classes=9, **SMALL), LIKELIHOOD, 8),
    "imagegpt_large": lambda: Case(ImageGPTConfig(**LARGE), LIKELIHOOD, 1),
    "titok_small": lambda: Case(
        TiTokGeneratorConfig(vocab=1024, classes=9, ffn_dim=768, **SMALL), MASKED, 16),
    "titok_large": lambda: Case(
        TiTokGeneratorConfig(grid=(1, 128), network="uvit", **LARGE), MASKED, 4),
}  # fmt: skip


def wide(small: Callable[[], TokenizerRecipe], model: Any) -> TokenizerRecipe:
    """A model of published widths, with the losses of a small one: others look through LPIPS."""
    recipe = small()
    model = replace(model, size=(128, 128))
    return replace(recipe, model=model, train=replace(recipe.train, batch=2))


TOKENIZERS: dict[str, Callable[[], TokenizerRecipe]] = {
    "dvae": emoji_dvae,
    "vit_vqgan": emoji_vit_vqgan,
    "dcae": emoji_dcae,
    "titok_tokenizer": emoji_titok,
    "dvae_large": lambda: wide(emoji_dvae, dalle_dvae().model),
    "vit_vqgan_large": lambda: wide(emoji_vit_vqgan, vit_vqgan_small().model),
    "dcae_large": lambda: wide(emoji_dcae, dcae.f32c32(128)),
    "titok_tokenizer_large": lambda: wide(emoji_titok, titok_bl128_tokenizer().model),
}


class Coding(Steps):
    """A tokenizer of a recipe with its optimizer and a batch of pictures."""

    def __init__(self, recipe: TokenizerRecipe) -> None:
        torch.manual_seed(0)
        model: Any = modules.module_of(recipe.model, modules.TOKENIZERS)
        goal = recipe.objective.objective(model, 0, recipe.train.steps, begun=True)
        self.objective: Any = goal.train()
        self.optimizer = adamw(model, recipe.train.optim)
        images = torch.randint(0, 256, (recipe.train.batch, 3, *model.config.size))
        self.batch = {
            "images": images.to(torch.uint8),
            "labels": torch.zeros(len(images), dtype=torch.int64),
            "shuffle": torch.arange(len(images)),
        }


def coded(name: str, rounds: int, count: int) -> dict[str, Any]:
    """A tokenizer beside a VQGAN."""
    large = name.endswith("_large")
    beside = wide(emoji_vqgan, llamagen_vq16().model) if large else emoji_vqgan()
    two: list[Steps] = [Coding(TOKENIZERS[name]()), Coding(beside)]
    found: dict[str, Any] = compare(two, rounds, 1 if large else count)
    return {"case": name, "vqgan_ms": found.pop("beside_ms")} | found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one round of one step")
    parser.add_argument("--only", nargs="+", choices=(*GENERATORS, *TOKENIZERS))
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    rounds, count = (1, 1) if args.quick else (args.rounds, 3)
    keep_freed_memory()
    CASES.update(GENERATORS)
    for name in args.only or (*GENERATORS, *TOKENIZERS):
        report((coded if name in TOKENIZERS else measure)(name, rounds, count))


if __name__ == "__main__":
    main()
