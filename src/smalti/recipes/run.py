"""A recipe and a folder in, a trained tokenizer or pipeline out.

A run's folder holds recipe.json (and init.json, if it began from something trained), metrics.jsonl,
checkpoints/, previews/, and in the end tokenizer/ or pipeline/ and report.json. Run again with the
same recipe it goes on from the last checkpoint; a finished run returns its report at once.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from smalti import registry
from smalti.config import check_output, read_json, to_dict, write_json
from smalti.data import skipped
from smalti.data.loader import Images
from smalti.data.skipped import tell
from smalti.data.source import Source, open_source, require_captions, split
from smalti.data.token_cache import CodeBatches, TokenCache
from smalti.data.transforms import to_float, to_uint8
from smalti.encoding import encode
from smalti.engine.causal import generate
from smalti.eval.codebook import unigram_bits
from smalti.eval.likelihood import likelihood
from smalti.eval.matching import matching
from smalti.eval.reconstruction import reconstruction
from smalti.models.llamagen import LlamaGen, LlamaGenConfig
from smalti.nn.linear import packed
from smalti.pipeline import Pipeline, grid, save_png, to_pil
from smalti.progress import say
from smalti.recipes.base import GeneratorRecipe, Recipe, TextRecipe, TokenizerRecipe
from smalti.recipes.finetune import adapted, built, open_pipeline, open_vqgan, share
from smalti.sampling.noise import Noise
from smalti.storage import fingerprint, load_module, save_module, tokenizer_folder
from smalti.text.bytes import ByteEncoder
from smalti.text.encoders import condition
from smalti.text.t5 import T5, T5Config
from smalti.tokenizers.vqgan import VQGAN
from smalti.train.lora import merge
from smalti.train.objectives import Likelihood, ReconstructionObjective
from smalti.train.parallel import World, autocast, start, stop
from smalti.train.trainer import Trainer

LATER = (
    "log_every",
    "eval_every",
    "preview_every",
    "save_every",
    "keep",
    "device",
    "recompute",
    "guard.on_nan",
    "guard.spike",
    "guard.on_spike",
)
"""Fields of the training configuration that a resumed run may change."""


def train(recipe: Recipe, out: Path) -> dict[str, Any]:
    """Run a recipe to its end in the folder `out` and return the report (None on other ranks).

    Raises ValueError if `out` holds a run of another recipe.
    """
    world = start(recipe.train.device)
    try:
        if world.main:
            check(out, recipe)
        report = out / "report.json"
        if report.is_file() and read_json(report).get("steps") == recipe.train.steps:
            return read_json(report)
        if isinstance(recipe, TokenizerRecipe):
            return train_tokenizer(recipe, out, world)
        return train_generator(recipe, out, world)
    finally:
        stop()


def check(out: Path, recipe: Recipe) -> None:
    """Raise ValueError if the run's folder holds something else than a run of this recipe."""
    check_output(out, folder=True)
    path, mine = out / "recipe.json", to_dict(recipe)
    if path.is_file():
        for name, old, new in differences(read_json(path), mine):
            if name.removeprefix("train.") not in LATER:
                raise ValueError(
                    f"{out} holds a run of another recipe: {name} was {old!r}, now {new!r}. Give "
                    "another --out, or remove the folder to start over"
                )
    elif out.exists() and any(out.iterdir()):
        raise ValueError(f"{out} exists and is not a run; give another --out")


def claim(out: Path, recipe: Recipe, world: World, begun: str = "") -> None:
    """Write the recipe, and the fingerprint of what the run begins from, into the run's folder,
    once nothing but the work itself can fail."""
    if world.main:
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / "recipe.json", to_dict(recipe))
        if begun:
            write_json(out / "init.json", {"init": recipe.init, "fingerprint": begun})


def differences(a: Any, b: Any, name: str = "") -> list[tuple[str, Any, Any]]:
    """Where two JSON values differ: (dotted name, old, new)."""
    if isinstance(a, dict) and isinstance(b, dict):
        keys = dict.fromkeys([*a, *b])
        found = (differences(a.get(k), b.get(k), f"{name}.{k}" if name else k) for k in keys)
        return [d for part in found for d in part]
    return [] if a == b else [(name, a, b)]


def without_held_out(chosen: Any, world: World) -> Any:
    """What is measured where nothing is held out: the training images; says so."""
    if world.main:
        say("no image is held out: what is measured is measured on the images of training")
    return chosen


# -- tokenizers


def train_tokenizer(recipe: TokenizerRecipe, out: Path, world: World) -> dict[str, Any]:
    """Train a tokenizer; `out`/tokenizer is what `smalti encode` and generators take."""
    source = open_source(recipe.data.source)
    known = tell(source) if world.main else 0
    begun, goal = open_vqgan(recipe, out) if recipe.init else None, recipe.objective
    if begun:  # with a codebook that knows images
        goal = replace(goal, codebook=replace(goal.codebook, kmeans=False))
    care = goal.codebook
    if care.kmeans and care.warmup >= recipe.train.steps:
        raise ValueError(
            f"objective.codebook.warmup must be below train.steps {recipe.train.steps}, "
            f"got {care.warmup}"
        )
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
    objective = ReconstructionObjective(begun or VQGAN(recipe.model), goal, seed)
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
        show=("loss", "psnr", "usage"),
        evaluate=evaluate,
        preview=preview,
    )
    claim(out, recipe, world, mark)
    trainer.fit()
    with trainer.averaged():
        if not world.main:
            return {}
        model.eval()
        save_module(model, out / "tokenizer", source=source.name)
        measured = evaluate()
    tell(source, known)
    return finish(out, recipe, {f"held_out_{k}": v for k, v in measured.items()}, source)


@torch.inference_mode()
def comparison(model: Any, images: torch.Tensor) -> Any:
    """Images (B, 3, H, W) uint8 and what comes back: rows of originals over reconstructions."""
    back = to_uint8(model.decode(model.encode(to_float(images))))
    rows: list[Any] = []
    for i in range(0, len(images), 8):
        rows += to_pil(images[i : i + 8]) + to_pil(back[i : i + 8])
    return grid(rows, columns=min(8, len(images)), zoom=max(1, 64 // images.shape[-1]))


# -- generators


def train_generator(recipe: GeneratorRecipe, out: Path, world: World) -> dict[str, Any]:
    """Train a generator on codes; `out`/pipeline is what `smalti sample` takes."""
    config, seed = recipe.train, recipe.train.seed
    begun = open_pipeline(recipe, out, world.device) if recipe.init else None
    tokenizer = begun.tokenizer if begun else open_tokenizer(recipe, world)
    encoder = open_encoder(recipe, begun)
    cache = open_codes(recipe, out, tokenizer, encoder, world)
    chosen, held = cache.indices("train"), cache.indices("held_out")
    held = held if len(held) else without_held_out(chosen, world)
    classes = [] if encoder else cache.classes or ["image"]
    learned = encoder if encoder is not None and encoder.learned else None
    if begun:
        model = adapted(begun, recipe, classes)
    else:
        model = LlamaGen(fitted(recipe.model, cache, len(classes), encoder))
        torch.manual_seed(seed)
        for part in (model, learned):
            if part is not None:
                part.init_weights()
    rank, size = world.rank, world.size
    batches = CodeBatches(cache, chosen, config.batch, seed, rank, size, encoder=encoder)
    held_out = CodeBatches(cache, held, config.batch, seed, train=False, encoder=encoder)
    sampling = begun.sampling if begun else recipe.sampling
    pipeline = Pipeline(tokenizer, model, classes, sampling, origin(cache.source, begun), encoder)

    def evaluate() -> dict[str, float]:
        with autocast(world.device, config.precision):
            return likelihood(model, held_out.evaluation(64), world.device, encoder=learned)

    def preview(path: Path) -> None:
        # not under autocast: keys and values are cached in the dtype of the weights
        if encoder is None:
            images = pipeline(n=max(32, min(64, len(classes) * 4)), seed=seed)
        else:
            images = of_captions(pipeline, next(held_out.evaluation(32)), learned, seed)
        save_png(grid(images, columns=8, zoom=2 if images[0].width <= 64 else 1), path, {})
        pipeline.info.pop("fingerprint", None)  # the weights go on changing

    objective = Likelihood(model, recipe.objective, learned)
    trainer = Trainer(
        objective,
        batches,
        config,
        out,
        world,
        title="generator",
        unit="tokens",
        units_per_item=model.spec.positions,
        evaluate=evaluate,
        preview=preview,
    )
    claim(out, recipe, world, begun.fingerprint if begun else "")
    if begun and world.main:
        Console(stderr=True, highlight=False, soft_wrap=True).print(
            f"generator: {share(objective.model)}"
        )
    trainer.fit()
    with trainer.averaged():
        if not world.main:
            return {}
        objective.eval()
        measured = {f"held_out_{k}": v for k, v in evaluate().items()}
        merge(model)
        pipeline.save_pretrained(out / "pipeline")
        if learned is not None and cache.source.split(":")[0] == "shapes":
            captions = sorted(set(cache.captions_of(held)))
            measured |= {f"matching_{k}": v for k, v in matching(pipeline, captions, seed).items()}
    train_codes = torch.cat([cache.codes(chosen, v) for v in range(cache.views)])
    unigram = unigram_bits(train_codes, cache.codes(held, 0), cache.spec.vocab)
    measured["unigram_bits_per_token"] = unigram
    measured["below_unigram"] = 1 - measured["held_out_bits_per_token"] / unigram
    return finish(out, recipe, measured)


def open_tokenizer(recipe: GeneratorRecipe, world: World) -> Any:
    """The recipe's tokenizer, on the device of the run."""
    if not recipe.tokenizer:
        raise ValueError("a generator needs --tokenizer DIR, a folder made by training a tokenizer")
    folder = tokenizer_folder(Path(recipe.tokenizer))
    return load_module(folder, registry.TOKENIZERS, world.device)[0]


def open_encoder(recipe: GeneratorRecipe, begun: Pipeline | None) -> Any | None:
    """The text encoder, of the pipeline that the run begins from or of the recipe; None if it
    trains on classes."""
    if begun:
        given = begun.text
        if given is None or not given.learned:
            return given
        return built(type(given), given.config, given.state_dict())
    if not isinstance(recipe, TextRecipe):
        return None
    return T5(recipe.text) if isinstance(recipe.text, T5Config) else ByteEncoder(recipe.text)


def fitted(
    config: LlamaGenConfig, cache: TokenCache, classes: int, encoder: Any | None
) -> LlamaGenConfig:
    """The model's configuration with what the codes and the condition decide."""
    config = replace(config, grid=cache.spec.grids[0], vocab=cache.spec.vocab)
    if encoder is None:
        return replace(config, classes=classes, text_length=0)
    length, dim = encoder.config.length, encoder.config.dim
    return replace(config, classes=0, text_length=length, text_dim=dim)


@torch.inference_mode()
def of_captions(
    pipeline: Pipeline, batch: dict[str, torch.Tensor], encoder: Any | None, seed: int
) -> list[Any]:
    """Pictures for the captions of a batch. Cached features are used as they are."""
    batch = {k: v.to(pipeline.device) for k, v in batch.items()}
    cond = condition(batch, encoder)
    noise = Noise.request(seed, cond.batch, device=pipeline.device)
    with packed(pipeline.model):
        codes = generate(pipeline.model, cond, noise, *pipeline.sampling.parts())
    return to_pil(pipeline.decode(codes))


def open_codes(
    recipe: GeneratorRecipe, out: Path, tokenizer: Any, encoder: Any | None, world: World
) -> TokenCache:
    """The recipe's token cache; made in the run's folder where the recipe names none."""
    frozen = encoder if encoder is not None and not encoder.learned else None
    path = Path(recipe.codes) if recipe.codes else out / "codes.arrow"
    if not recipe.codes:
        source = open_source(recipe.data.source)  # its mistakes before the run's folder exists
        if encoder is not None:
            require_captions(source)
        claim(out, recipe, world)
    if not recipe.codes and not path.exists() and world.main:
        source = open_source(recipe.data.source)
        transform = recipe.data.transform(tokenizer.config.size[0])
        share, device = recipe.data.holdout, world.device
        encode(source, tokenizer, transform, path, share, device=device, text=frozen)
    if world.size > 1:
        torch.distributed.barrier()
    cache = TokenCache(path)
    cache.require(fingerprint(tokenizer))
    if encoder is not None:
        cache.require_captions()
    if frozen is not None:
        cache.require_text(fingerprint(frozen))
    return cache


def origin(source: str, begun: Pipeline | None) -> dict[str, Any]:
    """What a pipeline says of where it comes from; whose art it began from stays said."""
    told: dict[str, Any] = {"source": source, "credit": credit(source)}
    if begun:
        told |= {"init": begun.fingerprint, "credit": told["credit"] or begun.info.get("credit")}
    return {k: v for k, v in told.items() if v}


def credit(source: str) -> str | None:
    """Whose art a source shows, where that must be said."""
    if source.split(":")[0] != "emoji":
        return None
    from smalti.data.emoji import CREDIT

    return CREDIT


def finish(
    out: Path, recipe: Recipe, measured: dict[str, Any], source: Source | None = None
) -> dict[str, Any]:
    """Write and return the report."""
    report = {"steps": recipe.train.steps, **measured}
    if source is not None:
        report |= {"source": source.name, "source_fingerprint": source.fingerprint()}
        report |= skipped.report(source.skipped)
    write_json(out / "report.json", report)
    return report
