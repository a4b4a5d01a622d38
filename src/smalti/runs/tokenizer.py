"""A tokenizer recipe and a folder in, a trained tokenizer out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from smalti import modules
from smalti.data.loader import Images
from smalti.data.open import open_source
from smalti.data.skipped import tell
from smalti.data.source import split
from smalti.data.transforms import to_float, to_uint8
from smalti.eval.reconstruction import latent_std, reconstruction
from smalti.modules import check_module, fingerprint, save_module
from smalti.pictures import grid, save_png, to_pil
from smalti.progress import say
from smalti.recipes.base import TokenizerRecipe
from smalti.runs.data import check_data
from smalti.runs.finetune import open_tokenizer
from smalti.runs.folder import claim, finish, without_held_out
from smalti.train.parallel import World, on_main
from smalti.train.trainer import Trainer


def train_tokenizer(
    recipe: TokenizerRecipe, out: Path, world: World, note: str = ""
) -> dict[str, Any]:
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
    plain = replace(transform, flip=False)
    held_out = Images(source, held, plain, config.batch, seed)
    some = Images(source, spread(held, 32), plain, config.batch, seed)
    torch.manual_seed(seed)
    mark = fingerprint(begun) if begun else ""
    fresh = begun or modules.module_of(recipe.model, modules.TOKENIZERS)
    objective = recipe.objective.objective(fresh, seed, config.steps, begun is not None)
    model = objective.model

    def evaluate() -> dict[str, float]:
        return reconstruction(model, held_out.evaluation(64), world.device)

    def preview(path: Path) -> None:
        images = next(some.evaluation(32))["images"]
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
    if note and world.main:
        say(note)
    if recipe.objective.gan_weight and recipe.objective.gan_start >= config.steps and world.main:
        start = f"objective.gan_start {recipe.objective.gan_start}"
        say(f"no discriminator takes part: {start} is not before the last of {config.steps} steps")
    trainer.fit()
    with trainer.averaged():
        if not world.main:
            return {}
        model.eval()
        measured = {f"held_out_{k}": v for k, v in evaluate().items()}
        if model.distributions:
            seen = Images(source, chosen[:: len(chosen) // 512 + 1], transform, config.batch)
            measured |= model.rescale(latent_std(model, seen.evaluation(64), world.device))
        learned_on = {"source": source.name, "holdout": recipe.data.holdout}
        save_module(model, out / "tokenizer", **learned_on)
    tell(source, known)
    return finish(out, recipe, measured, source)


def spread(indices: Sequence[int], n: int) -> list[int]:
    """At most n of the indices, evenly spread over them: sources put what is alike together."""
    n = min(n, len(indices))
    return [int(indices[i * len(indices) // n]) for i in range(n)]


@torch.inference_mode()
def comparison(model: Any, images: torch.Tensor) -> Any:
    """Images (B, 3, H, W) uint8 and what comes back: rows of originals over reconstructions."""
    back = to_uint8(model.decode(model.encode(to_float(images))))
    rows: list[Any] = []
    for i in range(0, len(images), 8):
        rows += to_pil(images[i : i + 8]) + to_pil(back[i : i + 8])
    return grid(rows, columns=min(8, len(images)), zoom=max(1, 64 // images.shape[-1]))
