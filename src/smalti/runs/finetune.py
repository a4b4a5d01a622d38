"""Where a run begins that goes on from something trained: `init` of a recipe.

A generator goes on from a pipeline, of which it takes model, tokenizer and sampling; a tokenizer
from a tokenizer; a model of text and pictures from a pipeline of them. The run remembers the
fingerprint in init.json, so that a pipeline which changed behind a half-finished run is noticed.
C classes, D width.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from smalti import modules
from smalti.arguments import an
from smalti.codes import TokenSpec
from smalti.config import read_json
from smalti.loading import (
    download,
    load_pipeline,
    load_tokenizer,
    load_towers,
    load_unified,
    tokenizer_at,
)
from smalti.models.generator import Generator
from smalti.models.towers import Towers
from smalti.models.unified import Unified
from smalti.modules import fingerprint, load_module, tokenizer_folder
from smalti.nn.unfilled import unfilled
from smalti.pipeline.pipeline import Pipeline
from smalti.pipeline.unified import UnifiedPipeline
from smalti.recipes.base import (
    AroundRecipe,
    GeneratorRecipe,
    MapRecipe,
    SeeingRecipe,
    TextRecipe,
    TokenizerRecipe,
    UnifiedRecipe,
)
from smalti.tokenizers.base import ImageTokenizer
from smalti.train.lora import adapt, targets

RATES = ("dropout", "drop_path")
"""What a run that goes on takes of its own recipe's model."""


def open_pipeline(recipe: GeneratorRecipe, out: Path, device: torch.device) -> Pipeline:
    """The pipeline that a run in `out` begins from; its model stays on the CPU, in float32.

    Raises ValueError if it is none, if it cannot be trained by this recipe or with its LoRA, if the
    recipe names another tokenizer, of pictures or of maps, or if the run began from another
    pipeline.
    """
    pipe = load_pipeline(recipe.init, "cpu", torch.float32)
    check_model(recipe, pipe.model)
    theirs = "text" if pipe.text else "maps" if pipe.map else "classes"
    texts, maps = (isinstance(recipe, kind) for kind in (TextRecipe, MapRecipe))
    ours = "text" if texts else "maps" if maps else "classes"
    if theirs != ours:
        raise ValueError(f"{recipe.init} draws from {theirs}, this recipe trains on {ours}")
    if recipe.lora.rank:
        targets(pipe.model, recipe.lora)
    require_same(out, recipe.init, pipe.fingerprint)
    if recipe.tokenizer:
        pipe.tokenizer = same_but_for_size(recipe, pipe.tokenizer)
    require_map(recipe, pipe)
    for tokenizer in (pipe.tokenizer, pipe.map):
        if tokenizer is not None:
            tokenizer.to(device)
    return pipe


def require_map(recipe: GeneratorRecipe, pipe: Pipeline) -> None:
    """Raise ValueError if the recipe names another tokenizer of maps than the pipeline's."""
    if not isinstance(recipe, MapRecipe) or not recipe.map:
        return
    mine = fingerprint(load_tokenizer(recipe.map, "cpu").coder)
    theirs = "none" if pipe.map is None else fingerprint(pipe.map.coder)
    if mine != theirs:
        raise ValueError(
            f"{recipe.map} is tokenizer of maps {mine}, but {recipe.init} has {theirs}: leave "
            "--map out"
        )


def check_model(recipe: GeneratorRecipe | UnifiedRecipe, model: Generator | Unified) -> None:
    """Raise ValueError if the recipe trains another system than the pipeline's model is of."""
    if type(model.config) is not type(recipe.model):
        raise ValueError(
            f"{recipe.init} holds {an(modules.name_of(model))}, which this recipe does not "
            f"train: it takes {type(recipe.model).__name__}"
        )


def open_unified(recipe: UnifiedRecipe, out: Path, device: torch.device) -> UnifiedPipeline:
    """The pipeline of text and pictures that a run in `out` begins from, in float32.

    Raises ValueError if it is none, if its model is of another system than the recipe's, if the
    recipe names another tokenizer of pictures than the pipeline's, or if the run began from another
    pipeline.
    """
    pipe = load_unified(recipe.init, device, "float32")
    check_model(recipe, pipe.model)
    require_same(out, recipe.init, pipe.fingerprint)
    if not recipe.tokenizer:
        return pipe
    if pipe.tokenizer is None:
        raise ValueError(f"the model of {recipe.init} draws no pictures: leave --tokenizer out")
    mine = fingerprint(load_tokenizer(recipe.tokenizer, "cpu"))
    if mine != (theirs := fingerprint(pipe.tokenizer)):
        raise ValueError(
            f"{recipe.tokenizer} is tokenizer {mine}, but {recipe.init} has {theirs}: leave "
            "--tokenizer out, its own is then taken"
        )
    return pipe


def same_but_for_size(recipe: GeneratorRecipe, tokenizer: ImageTokenizer) -> ImageTokenizer:
    """The recipe's tokenizer, which must be the pipeline's, perhaps for images of another size."""
    other = load_tokenizer(recipe.tokenizer, "cpu")
    sized = copy.copy(tokenizer)
    if type(other.config) is type(tokenizer.config):
        sizes = [f.name for f in fields(other.config) if f.name in ("size", "scales")]
        sized.config = replace(
            tokenizer.config, **{name: getattr(other.config, name) for name in sizes}
        )
    if fingerprint(other.coder) != fingerprint(sized.coder):
        raise ValueError(
            f"{recipe.init} has tokenizer {fingerprint(tokenizer.coder)}, but {recipe.tokenizer} "
            f"is {fingerprint(other.coder)}; leave --tokenizer out"
        )
    return other


def open_tokenizer(recipe: TokenizerRecipe, out: Path) -> ImageTokenizer:
    """The tokenizer that a run in `out` begins from: a folder, a pipeline's or a hub id's.

    Raises ValueError if there is none, if it is of another kind than the recipe's, or if the run
    began from another.
    """
    folder = tokenizer_at(recipe.init)
    folder = folder if folder.is_dir() else tokenizer_folder(download(recipe.init))
    model, _ = load_module(folder, modules.TOKENIZERS)
    if type(model.config) is not type(recipe.model):
        raise ValueError(
            f"{recipe.init} holds {an(modules.name_of(model))}, which this recipe does not train: "
            f"it takes {type(recipe.model).__name__}"
        )
    require_same(out, recipe.init, fingerprint(model))
    return built(recipe.sized(model.config), modules.TOKENIZERS, model.state_dict())


def open_towers(recipe: SeeingRecipe, out: Path) -> Towers | None:
    """The towers whose ViT a new tokenizer has, None for a run that begins from a tokenizer.

    Raises ValueError if there are none, if there is a tokenizer as well, or if the run began with
    others.
    """
    if recipe.init and recipe.towers:
        raise ValueError(f"the tokenizer of --init {recipe.init} has a ViT: leave --towers out")
    if recipe.init:
        return None
    if not recipe.towers:
        raise ValueError(
            "a tokenizer that codes what a ViT sees needs --towers DIR, made by training towers, "
            "or --init, a tokenizer that has one"
        )
    towers = load_towers(recipe.towers).towers
    require_same(out, recipe.towers, fingerprint(towers))
    return towers


def open_coder(recipe: AroundRecipe, out: Path) -> ImageTokenizer | None:
    """The tokenizer that a new one is made around, None for a run that begins from a tokenizer.

    Raises ValueError if there is none, if there are two, or if the run began with another.
    """
    if recipe.init and recipe.tokenizer:
        raise ValueError(f"--init {recipe.init} has a tokenizer inside: leave --tokenizer out")
    if recipe.init:
        return None
    if not recipe.tokenizer:
        raise ValueError(
            "a tokenizer that is made around another one needs --tokenizer DIR, made by "
            "training that, or --init, a tokenizer that has one"
        )
    tokenizer = load_tokenizer(recipe.tokenizer, "cpu").coder
    require_same(out, recipe.tokenizer, fingerprint(tokenizer))
    return tokenizer


def adapted(
    pipe: Pipeline, recipe: GeneratorRecipe, classes: Sequence[str], spec: TokenSpec
) -> Generator:
    """The pipeline's model for other classes, with the recipe's dropout and LoRA, and for other
    grids if it has no weights of them.

    Raises ValueError if the codes have other grids than the model's positions.
    """
    torch.manual_seed(recipe.train.seed)
    weights, config = pipe.model.state_dict(), pipe.model.config
    wanted = recipe.model
    rates = {f.name: getattr(wanted, f.name) for f in fields(wanted) if f.name in RATES}
    config = replace(config, **rates)
    if pipe.model.any_grid:
        config = config.with_known(grid=spec.grids[0], scales=spec.grids)
    elif config.spec.grids != spec.grids:
        raise ValueError(
            f"{recipe.init} has positions for grids {config.spec.grids}, "
            f"the codes have {spec.grids}"
        )
    if pipe.model.reads.classes:  # a model of texts takes new captions as it is
        if "cls_embedding.weight" in weights:  # else classes have the rows of something else
            table = class_table(weights["cls_embedding.weight"], pipe.classes, classes)
            weights["cls_embedding.weight"] = table
        config = replace(config, classes=len(classes))
    try:
        model: Generator = built(config, modules.MODELS, weights)
    except RuntimeError as error:  # a table whose rows are not those of classes alone
        raise ValueError(
            f"{recipe.init} has {len(pipe.classes)} classes, whose weights do not fit "
            f"{len(classes)}: {str(error).splitlines()[-1].strip()}"
        ) from None
    if recipe.lora.rank:
        adapt(model, recipe.lora, whole=[model.reader])
    return model


def class_table(old: Tensor, before: Sequence[str], after: Sequence[str]) -> Tensor:
    """The class embeddings (C + 1, D) of the classes `before`, for the classes `after`.

    A class of both (case does not matter) and the null class keep their rows; a new class begins
    at the mean of all old ones, a little apart from other new ones.
    """
    rows = {name.lower(): row for name, row in zip(before, old[:-1], strict=True)}
    mean = old[:-1].mean(0)  # (D,)
    begun = [rows.get(name.lower(), mean + 0.02 * torch.randn_like(mean)) for name in after]
    return torch.stack([*begun, old[-1]])  # (C + 1, D)


def built(config: object, among: dict[str, modules.Entry], weights: dict[str, Tensor]) -> Any:
    """A registered module with copies of the weights, all of them to be trained."""
    with unfilled():
        model = modules.module_of(config, among)
    model.load_state_dict({k: v.clone() for k, v in weights.items()}, assign=True)
    return model


def require_same(out: Path, init: str, mark: str) -> None:
    """Raise ValueError if the run in `out` began from something else than `mark`."""
    path = out / "init.json"
    begun = read_json(path).get("fingerprint", mark) if path.is_file() else mark
    if begun != mark:
        raise ValueError(
            f"{out} began from {begun}, but {init} is now {mark}. Bring the old one back, or give "
            "another --out"
        )


def learn(model: Unified | Towers) -> None:
    """Let all weights of a model be trained but those that stay as they are."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not name.startswith(model.FROZEN))


def share(model: nn.Module) -> str:
    """How much of a model is trained, in words."""
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    trained = sum(n for n, on in sizes if on)
    return f"training {trained:,} of {sum(n for n, _ in sizes):,} parameters"
