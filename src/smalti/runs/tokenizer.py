"""A tokenizer recipe and a folder in, a trained tokenizer out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from smalti import modules
from smalti.data.loader import Images
from smalti.data.maps import alone
from smalti.data.open import open_source
from smalti.data.skipped import tell
from smalti.data.source import Source, require_captions, split
from smalti.data.transforms import Transform, to_float, to_uint8
from smalti.eval.reconstruction import latent_std, reconstruction
from smalti.modules import check_module, fingerprint, save_module
from smalti.pictures import grid, save_png, to_pil
from smalti.progress import say
from smalti.recipes.base import AroundRecipe, SeeingRecipe, TokenizerRecipe
from smalti.runs.data import check_data
from smalti.runs.finetune import open_coder, open_tokenizer, open_towers
from smalti.runs.folder import Report, claim, finish, without_held_out
from smalti.tokenizers.base import ImageTokenizer, reading
from smalti.train.parallel import World, on_main
from smalti.train.trainer import LiveLine, Trainer


@dataclass(frozen=True)
class Pictures:
    """The images that a run learns from and is measured on."""

    source: Source
    chosen: list[int]
    """Those of training."""
    transform: Transform
    training: Images
    held_out: Images
    shown: Images
    """Some of those held out."""


@dataclass(frozen=True)
class Look:
    """What is seen of a tokenizer, on the way and in the end."""

    tokenizer: ImageTokenizer
    pictures: Pictures
    device: torch.device

    def evaluate(self) -> dict[str, float]:
        """How well held-out images come back."""
        return reconstruction(self.tokenizer, self.pictures.held_out.evaluation(64), self.device)

    def preview(self, path: Path) -> None:
        """Write held-out images and what comes back."""
        images = next(self.pictures.shown.evaluation(32))["images"]
        save_png(comparison(self.tokenizer, images.to(self.device)), path, {})

    def measured(self) -> dict[str, float]:
        """What the report says of a trained one, which takes note of the scale of its latents."""
        self.tokenizer.eval()
        measured = {f"held_out_{k}": v for k, v in self.evaluate().items()}
        if self.tokenizer.scaled:
            pictures, chosen = self.pictures, self.pictures.chosen
            some = chosen[:: len(chosen) // 512 + 1]
            seen = Images(pictures.source, some, pictures.transform, 64).evaluation(64)
            measured |= self.tokenizer.rescale(latent_std(self.tokenizer, seen, self.device))
        return measured


def train_tokenizer(recipe: TokenizerRecipe, out: Path, world: World, note: str = "") -> Report:
    """Train a tokenizer; `out`/tokenizer is what `smalti encode` and generators take."""
    source = open_source(recipe.data.source)
    on_main(world, lambda: check_data(out, source, recipe.data, classes=False))
    on_main(world, lambda: check_module(out / "tokenizer"))
    known = tell(source) if world.main else 0
    begun = open_tokenizer(recipe, out) if recipe.init else None
    frozen = open_frozen(recipe, out)
    shape = begun.config if begun else recipe.sized(recipe.model)
    pictures = open_pictures(recipe, alone(source, shape.of_map), shape.size, world)
    objective = objective_of(recipe, begun, frozen)
    if objective.reader is not None:
        on_main(world, lambda: require_captions(source))
        pictures.training.tokenize = objective.reader.tokenize
    look = Look(objective.model, pictures, world.device)
    trainer = Trainer(
        objective,
        pictures.training,
        recipe.train,
        out,
        world,
        LiveLine("tokenizer", ("loss", "psnr", *objective.shown)),
        look.evaluate,
        look.preview,
    )
    other = begun or frozen
    mark = fingerprint(other) if other else ""
    inside = mark if isinstance(recipe, AroundRecipe) and not recipe.init else ""
    claim(out, recipe, world, source, fingerprint=mark, tokenizer=inside)
    if world.main:
        say_notes(recipe, note)
    trainer.fit()
    with trainer.averaged():
        if not world.main:
            return {}
        measured = look.measured()
        learned_on = {"source": source.name, "holdout": recipe.data.holdout}
        save_module(look.tokenizer, out / "tokenizer", **learned_on)
    tell(source, known)
    return finish(out, recipe, measured, source)


def open_pictures(
    recipe: TokenizerRecipe, source: Source, size: tuple[int, int], world: World
) -> Pictures:
    """The images of a source for a tokenizer of this size. Raises ValueError if it is no square."""
    height, width = size
    if height != width:
        raise ValueError(f"training takes square images, got model.size {size}")
    transform, batch, seed = recipe.data.transform(height), recipe.train.batch, recipe.train.seed
    chosen, held = split(source, recipe.data.holdout)
    training = Images(source, chosen, transform, batch, seed, world.rank, world.size)
    held = held if held else without_held_out(chosen, world)
    plain = replace(transform, flip=False)
    held_out = Images(source, held, plain, batch, seed)
    shown = Images(source, spread(held, 32), plain, batch, seed)
    return Pictures(source, chosen, transform, training, held_out, shown)


def open_frozen(recipe: TokenizerRecipe, out: Path) -> Any:
    """What a new tokenizer is made around: towers whose ViT it sees with, or another tokenizer; of
    most None."""
    if isinstance(recipe, SeeingRecipe):
        return open_towers(recipe, out)
    return open_coder(recipe, out) if isinstance(recipe, AroundRecipe) else None


def objective_of(recipe: TokenizerRecipe, begun: Any = None, frozen: Any = None) -> Any:
    """What a new tokenizer, made around what is frozen, or the one that the run begins from,
    minimises."""
    steps, seed = recipe.train.steps, recipe.train.seed
    torch.manual_seed(seed)
    fresh = begun or made(recipe, frozen)
    return recipe.objective.objective(fresh, seed, steps, begun is not None)


def made(recipe: TokenizerRecipe, frozen: Any) -> Any:
    """A new tokenizer around what is frozen."""
    model: Any = recipe.sized(recipe.model)
    if frozen is None:
        return modules.module_of(model, modules.TOKENIZERS)
    if isinstance(recipe, AroundRecipe):
        fresh: Any = modules.module_of(model.coding(frozen), modules.TOKENIZERS)
        fresh.code_by(frozen)
    else:
        fresh = modules.module_of(model.seeing(frozen.config), modules.TOKENIZERS)
        fresh.see_with(frozen)
    return fresh


def say_notes(recipe: TokenizerRecipe, note: str) -> None:
    """Say what is to be known once the work begins."""
    for line in (note, recipe.objective.note(recipe.train.steps)):
        if line:
            say(line)


def spread(indices: Sequence[int] | np.ndarray, n: int) -> list[int]:
    """At most n of the indices, evenly spread over them: sources put what is alike together."""
    n = min(n, len(indices))
    return [int(indices[i * len(indices) // n]) for i in range(n)]


@torch.inference_mode()
def comparison(
    model: ImageTokenizer,
    images: torch.Tensor,
    depth: int | None = None,
    texts: Sequence[str] | None = None,
) -> Image.Image:
    """Images (B, 3, H, W) uint8 and what comes back, of the first `depth` scales or depths, all if
    None, and of the `texts` that the decoder reads: rows of originals over reconstructions."""
    codes = model.encode(to_float(images))
    more = reading(model, texts)
    back = to_uint8(model.decode(codes, **more) if depth is None else model.preview(codes, depth))
    rows, images = list[Image.Image](), to_uint8(model.seen(to_float(images)))
    for i in range(0, len(images), 8):
        rows += to_pil(images[i : i + 8]) + to_pil(back[i : i + 8])
    return grid(rows, columns=min(8, len(images)), zoom=max(1, 64 // images.shape[-1]))
