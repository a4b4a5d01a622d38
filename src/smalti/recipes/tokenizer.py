"""A tokenizer recipe and a folder in, a trained tokenizer out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from smalti import registry
from smalti.data.loader import Images
from smalti.data.skipped import tell
from smalti.data.source import open_source, split
from smalti.data.transforms import to_float, to_uint8
from smalti.eval.reconstruction import latent_std, reconstruction
from smalti.pictures import grid, save_png, to_pil
from smalti.recipes.base import TokenizerRecipe
from smalti.recipes.finetune import open_tokenizer
from smalti.recipes.run_data import check_data
from smalti.recipes.run_folder import claim, finish, without_held_out
from smalti.storage import check_module, fingerprint, save_module
from smalti.tokenizers.kl_vae import KLVAE
from smalti.train.kl import KLConfig, KLObjective
from smalti.train.objectives import ReconstructionObjective
from smalti.train.parallel import World, on_main
from smalti.train.trainer import Trainer


def train_tokenizer(recipe: TokenizerRecipe, out: Path, world: World) -> dict[str, Any]:
    """Train a tokenizer; `out`/tokenizer is what `smalti encode` and generators take."""
    source = open_source(recipe.data.source)
    on_main(world, lambda: check_data(out, source, recipe.data, classes=False))
    on_main(world, lambda: check_module(out / "tokenizer"))
    known = tell(source) if world.main else 0
    begun = open_tokenizer(recipe, out) if recipe.init else None
    shape = begun.config if begun else recipe.model
    height, width = shape.size
    if height != width:
        raise ValueError(f"training takes square images, got model.size {shape.size}")
    transform = recipe.data.transform(height)
    chosen, held = split(source, recipe.data.holdout)
    config, seed = recipe.train, recipe.train.seed
    batches = Images(source, chosen, transform, config.batch, seed, world.rank, world.size)
    held = held if held else without_held_out(chosen, world)
    held_out = Images(source, held, replace(transform, flip=False), config.batch, seed)
    torch.manual_seed(seed)
    mark = fingerprint(begun) if begun else ""
    fresh = begun or registry.module_of(recipe.model, registry.TOKENIZERS)(recipe.model)
    objective = goal(recipe, fresh)
    model = objective.model

    def evaluate() -> dict[str, float]:
        return reconstruction(model, held_out.evaluation(64), world.device)

    def preview(path: Path) -> None:
        images = next(held_out.evaluation(32))["images"]
        save_png(comparison(model, images.to(world.device)), path, {})

    trainer = Trainer(
        objective,
        batches,
        config,
        out,
        world,
        title="tokenizer",
        show=("loss", "psnr", *objective.shown),
        evaluate=evaluate,
        preview=preview,
    )
    claim(out, recipe, world, source, fingerprint=mark)
    trainer.fit()
    with trainer.averaged():
        if not world.main:
            return {}
        model.eval()
        measured = {f"held_out_{k}": v for k, v in evaluate().items()}
        if isinstance(model, KLVAE):
            some = Images(source, chosen[:: len(chosen) // 512 + 1], transform, config.batch)
            measured |= scaled(model, some, world)
        save_module(model, out / "tokenizer", source=source.name)
    tell(source, known)
    return finish(out, recipe, measured, source)


def scaled(model: KLVAE, images: Images, world: World) -> dict[str, float]:
    """Give a tokenizer the scale at which its codes of these images have a standard deviation of
    one; what was measured."""
    std = latent_std(model, images.evaluation(64), world.device)
    model.config = replace(model.config, scale=1 / std)
    return {"latent_std": std, "scale": 1 / std}


def goal(recipe: TokenizerRecipe, model: Any) -> ReconstructionObjective | KLObjective:
    """What the recipe minimises.

    Raises ValueError if there would be no codebook by the end.
    """
    config = recipe.objective
    if isinstance(config, KLConfig):
        return KLObjective(model, config)
    care = config.codebook
    if recipe.init:  # with a codebook that knows images
        care = replace(care, kmeans=False)
    if care.kmeans and care.warmup >= recipe.train.steps:
        raise ValueError(
            f"objective.codebook.warmup must be below train.steps {recipe.train.steps}, "
            f"got {care.warmup}"
        )
    return ReconstructionObjective(model, replace(config, codebook=care), recipe.train.seed)


@torch.inference_mode()
def comparison(model: Any, images: torch.Tensor) -> Any:
    """Images (B, 3, H, W) uint8 and what comes back: rows of originals over reconstructions."""
    back = to_uint8(model.decode(model.encode(to_float(images))))
    rows: list[Any] = []
    for i in range(0, len(images), 8):
        rows += to_pil(images[i : i + 8]) + to_pil(back[i : i + 8])
    return grid(rows, columns=min(8, len(images)), zoom=max(1, 64 // images.shape[-1]))
