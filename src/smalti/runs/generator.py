"""A generator recipe and a folder in, a trained pipeline out: of classes or of texts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from smalti import modules
from smalti.codes import Reads
from smalti.data.code_batches import CodeBatches
from smalti.data.open import class_of
from smalti.data.source import credited
from smalti.data.token_cache import TokenCache
from smalti.engine import stream
from smalti.eval.codebook import baseline_bits, histograms
from smalti.eval.likelihood import likelihood
from smalti.eval.matching import matching
from smalti.loading import load_tokenizer
from smalti.models.generator import Generator, GeneratorConfig
from smalti.pictures import named_grid, save_png, to_pil
from smalti.pipeline.folders import check_pipeline
from smalti.pipeline.pipeline import Pipeline
from smalti.pipeline.wording import KEYS
from smalti.progress import say
from smalti.recipes.base import GeneratorRecipe, MapRecipe, TextRecipe
from smalti.runs.codes import open_codes
from smalti.runs.finetune import adapted, built, open_pipeline, share
from smalti.runs.folder import Report, claim, finish, without_held_out
from smalti.runs.image_coder import check_map
from smalti.runs.tokenizer import spread
from smalti.sampling import orders
from smalti.sampling.noise import Noise
from smalti.text.encoders import TextEncoder, condition
from smalti.tokenizers.base import ImageTokenizer
from smalti.train.base import Objective
from smalti.train.lora import merge
from smalti.train.objectives import LikelihoodConfig
from smalti.train.parallel import World, autocast, on_main
from smalti.train.trainer import LiveLine, Trainer

C = TypeVar("C", bound=GeneratorConfig)


@dataclass(frozen=True)
class Parts:
    """What a run trains and what it reads."""

    pipeline: Pipeline
    """Holds the model that is trained."""
    learned: TextEncoder | None
    """The text encoder, if it is trained too."""
    cache: TokenCache
    chosen: np.ndarray
    """Rows of the cache to train on."""
    held: np.ndarray
    """Rows of the cache to measure on."""
    begun: str
    """Fingerprint of the pipeline that the run goes on from, or ""."""

    def batches(self, recipe: GeneratorRecipe, world: World) -> CodeBatches:
        size, seed = recipe.train.batch, recipe.train.seed
        text = self.pipeline.text
        batches = CodeBatches(
            self.cache, self.chosen, size, seed, world.rank, world.size, encoder=text
        )
        return self._with_maps(batches)

    def held_out(self, recipe: GeneratorRecipe) -> CodeBatches:
        size, text = recipe.train.batch, self.pipeline.text
        return self._with_maps(CodeBatches(self.cache, self.held, size, train=False, encoder=text))

    def some(self, rows: list[int]) -> CodeBatches:
        """Some rows of the cache, in order."""
        text = self.pipeline.text
        return self._with_maps(CodeBatches(self.cache, rows, 32, train=False, encoder=text))

    def _with_maps(self, batches: CodeBatches) -> CodeBatches:
        batches.maps = self.pipeline.map is not None
        return batches


@dataclass(frozen=True)
class Look:
    """What is seen of a generator, on the way and in the end."""

    parts: Parts
    recipe: GeneratorRecipe
    world: World

    def evaluate(self) -> dict[str, float]:
        """How likely held-out codes are."""
        model, device = self.parts.pipeline.model, self.world.device
        batches = self.parts.held_out(self.recipe).evaluation(64)
        with autocast(device, self.recipe.train.precision):
            return likelihood(model, batches, device, encoder=self.parts.learned)

    def preview(self, path: Path) -> None:
        """Draw pictures of all classes, or of held-out captions."""
        # not under autocast: keys and values are cached in the dtype of the weights
        parts, pipeline = self.parts, self.parts.pipeline
        if pipeline.classes:
            count = max(32, min(64, len(pipeline.classes) * 4))
            batch = {"labels": torch.arange(count) % len(pipeline.classes)}
            names = [pipeline.classes[label] for label in batch["labels"]]
        else:
            some = spread(parts.held, 32)
            batch, names = next(parts.some(some).evaluation(32)), parts.cache.captions_of(some)
            names = names if pipeline.text is not None else parts.cache.keys(np.asarray(some))
        images = drawn(pipeline, batch, parts.learned, self.recipe.train.seed)
        save_png(named_grid(images, names, 2 if images[0].width <= 64 else 1), path, {})

    def measured(self) -> dict[str, float]:
        """What the report says of held-out codes, in every order of a model that knows many."""
        pipeline = self.parts.pipeline
        measured = {f"held_out_{k}": v for k, v in self.evaluate().items()}
        if pipeline.sampling.sees_known_first(pipeline.model):
            measured |= self.by_order()
        return measured

    def by_order(self) -> dict[str, float]:
        """Held-out bits per token in every order."""
        found, device = dict[str, float](), self.world.device
        model, batches = self.parts.pipeline.model, self.parts.held_out(self.recipe)
        for name in orders.NAMES:
            with autocast(device, self.recipe.train.precision):
                told = likelihood(model, batches.evaluation(64), device, order=name)
            found[f"bits_per_token_{name.replace('-', '_')}"] = told["bits_per_token"]
        return found


def train_generator(recipe: GeneratorRecipe, out: Path, world: World, note: str = "") -> Report:
    """Train a generator on codes; `out`/pipeline is what `smalti sample` takes."""
    on_main(world, lambda: check_pipeline(out / "pipeline"))
    parts = open_parts(recipe, out, world)
    pipeline, cache, look = parts.pipeline, parts.cache, Look(parts, recipe, world)
    objective = objective_of(pipeline.model, recipe, parts.learned)
    trainer = Trainer(
        objective,
        parts.batches(recipe, world),
        recipe.train,
        out,
        world,
        LiveLine("generator", unit="tokens", units_per_item=pipeline.model.spec.positions),
        look.evaluate,
        look.preview,
    )
    codes = cache.fingerprint() if recipe.codes else ""
    claim(out, recipe, world, fingerprint=parts.begun, tokenizer=cache.tokenizer, codes=codes)
    if note and world.main:
        say(note)
    if parts.begun and world.main:
        say(f"generator: {share(objective.model)}")
    trainer.fit()
    with trainer.averaged():
        if not world.main:
            return {}
        objective.eval()
        measured = look.measured()
        merge(pipeline.model)
        pipeline.save_pretrained(out / "pipeline")
        measured |= compared(parts, measured, recipe.train.seed)
    return finish(out, recipe, measured)


def open_parts(recipe: GeneratorRecipe, out: Path, world: World) -> Parts:
    """Open or make everything that a run needs."""
    begun = open_pipeline(recipe, out, world.device) if recipe.init else None
    tokenizer = begun.tokenizer if begun else open_tokenizer(recipe, world)
    encoder, map = open_encoder(recipe, begun), open_map(recipe, begun, tokenizer, world)
    one_order = settles(recipe)
    if not begun:  # before the codes are made
        fitted(recipe.model, tokenizer, 1, encoder, map)
    cache = open_codes(recipe, out, tokenizer, encoder, map, world)
    chosen, held = cache.indices("train"), cache.indices("held_out")
    held = held if len(held) else without_held_out(chosen, world)
    classes = [] if encoder or map else cache.classes or ["image"]
    learned = encoder if encoder is not None and encoder.learned else None
    if encoder is not None and not begun:
        encoder.learn_from(cache.captions_of(chosen))
    if begun:
        model = adapted(begun, recipe, classes, cache.spec)
    else:
        config = fitted(recipe.model, tokenizer, len(classes), encoder, map)
        model = fresh(config, learned, recipe.train.seed)
        model.learn_from(tokenizer.coder)
        if encoder is not None:
            model.learn_text(encoder)
    sampling = begun.sampling if begun else recipe.sampling
    if model.any_order and not begun and one_order:
        sampling = sampling.changed(known_first=False)  # it learns a single order
    sampling.check(model)  # not at the first preview
    told = origin(cache, begun) | (wording(cache) if encoder is not None else {})
    pipeline = Pipeline(tokenizer, model, classes, sampling, told, encoder, map)
    return Parts(pipeline, learned, cache, chosen, held, begun.fingerprint if begun else "")


def settles(recipe: GeneratorRecipe) -> bool:
    """Whether the model learns its own order alone. Raises ValueError if it would not have settled
    on that in the end."""
    goal, steps = recipe.objective, recipe.train.steps
    if not isinstance(goal, LikelihoodConfig):
        return True
    if goal.random_end > steps:
        raise ValueError(
            f"objective.random_end must be at most train.steps {steps}, for the model to settle on "
            f"its own order, got {goal.random_end}"
        )
    return not goal.random_end


def fresh(config: GeneratorConfig, learned: TextEncoder | None, seed: int) -> Generator:
    """A new model, and new weights of the text encoder that learns with it."""
    model: Generator = modules.module_of(config, modules.MODELS)
    torch.manual_seed(seed)
    for part in (model, learned):
        if part is not None:
            part.init_weights()
    return model


def objective_of(
    model: Generator, recipe: GeneratorRecipe, learned: TextEncoder | None
) -> Objective:
    """What the model minimises. Raises ValueError if the recipe's objective is for another loop."""
    goal = recipe.objective
    if goal.LOOP != model.loop:
        name = type(model.config).__name__.removesuffix("Config")
        wanted = {"causal": "LikelihoodConfig", "masked": "MaskedConfig"}[model.loop]
        raise ValueError(f"{name} is trained by {wanted}, got {type(goal).__name__}")
    return goal.objective(model, learned, recipe.train.seed)


def compared(parts: Parts, told: dict[str, float], seed: int) -> dict[str, float]:
    """How far below the unigram model of the training codes, and how well shapes match captions."""
    measured: dict[str, float] = {}
    if parts.cache.spec.discrete:
        bits = told.get("held_out_bits_per_token") or told["held_out_bits_per_token_bound"]
        unigram = unigram_of(parts)
        measured = {"unigram_bits_per_token": unigram, "below_unigram": 1 - bits / unigram}
    if parts.learned is not None and class_of(parts.cache.source).recognised:
        captions = sorted(set(parts.cache.captions_of(parts.held)))
        found = matching(parts.pipeline, captions, seed)
        measured |= {f"matching_{k}": v for k, v in found.items()}
    return measured


def unigram_of(parts: Parts) -> float:
    """Bits per position of the held-out codes by how often each occurs in training."""
    cache = parts.cache
    blocks = np.array_split(parts.chosen, len(parts.chosen) // 4096 + 1)  # never all in memory
    views = ((rows, v) for rows in blocks for v in range(cache.views))
    counts = sum((histograms(cache.codes(*v), cache.spec) for v in views), torch.tensor(0))
    return baseline_bits(counts, cache.codes(parts.held, 0), cache.spec)


def open_tokenizer(recipe: GeneratorRecipe, world: World) -> ImageTokenizer:
    """The recipe's tokenizer, on the device of the run."""
    if not recipe.tokenizer:
        raise ValueError("a generator needs --tokenizer DIR, a folder made by training a tokenizer")
    return load_tokenizer(recipe.tokenizer, world.device)


def open_encoder(recipe: GeneratorRecipe, begun: Pipeline | None) -> TextEncoder | None:
    """The text encoder, of the pipeline that the run begins from or of the recipe; None if it
    trains on classes."""
    if begun:
        given = begun.text
        if given is None or not given.learned:
            return given
        return built(given.config, modules.TEXT, given.state_dict())
    if not isinstance(recipe, TextRecipe):
        return None
    return modules.module_of(recipe.text, modules.TEXT)


def open_map(
    recipe: GeneratorRecipe, begun: Pipeline | None, tokenizer: ImageTokenizer, world: World
) -> ImageTokenizer | None:
    """The tokenizer of maps, of the pipeline that the run begins from or of the recipe; None if it
    trains without maps."""
    if begun:
        return begun.map
    if not isinstance(recipe, MapRecipe):
        return None
    if not recipe.map:
        raise ValueError("maps need --map DIR, a folder made by training a tokenizer of maps")
    map = load_tokenizer(recipe.map, world.device)
    check_map(map, tokenizer)
    return map


def fitted(
    config: C,
    tokenizer: ImageTokenizer,
    classes: int,
    encoder: TextEncoder | None,
    map: ImageTokenizer | None = None,
) -> C:
    """A model's configuration with what the codes and the condition decide.

    Raises ValueError if the model predicts other codes than the tokenizer gives.
    """
    reads = Reads(classes) if map is None else Reads(map=map.spec)
    if encoder is not None:
        told = encoder.config
        reads = Reads(0, told.length, told.dim, told.ids)
    return config.fitted(tokenizer.coder, reads)


@torch.inference_mode()
def drawn(
    pipeline: Pipeline, batch: dict[str, Tensor], encoder: TextEncoder | None, seed: int
) -> list[Image.Image]:
    """Pictures for the labels or captions of a batch. Cached features are used as they are. They do
    not tell the texts, so that a decoder which reads texts reads empty ones."""
    batch = {k: v.to(pipeline.device) for k, v in batch.items()}
    cond = condition(batch, encoder)
    noise = Noise.request(seed, cond.batch, device=pipeline.device)
    *_, last = stream(pipeline.model, pipeline.sampling.request(pipeline.model, cond, noise))
    texts = [""] * cond.batch if pipeline.tokenizer.told else None
    return to_pil(pipeline.decode(last.drawn, texts=texts))


def origin(cache: TokenCache, begun: Pipeline | None) -> dict[str, str | float]:
    """What a pipeline says of where it comes from; whose art it began from stays said."""
    art = class_of(cache.source).credit
    told = {"source": cache.source, "credit": art, "holdout": cache.holdout}
    if begun:
        told |= {"init": begun.fingerprint, "credit": credited(art, begun.info.get("credit"))}
    return {k: v for k, v in told.items() if v}


def wording(cache: TokenCache) -> dict[str, list[str]]:
    """What prompts may be made of, by what a cache holds: names of classes, where more is learned
    than captions, and styles."""
    classes = cache.classes if cache.wordings else []
    found = classes, cache.styles
    return {key: names for key, names in zip(KEYS, found, strict=True) if names}
