"""Released files to pipelines and tokenizers: one way for every project."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from smalti.codes import TokenSpec
from smalti.interop.kinds import expect
from smalti.interop.pickles import Checkpoint
from smalti.interop.project import Part, Project, sized, words_of
from smalti.interop.saved import dtype_of, save_pipeline, save_tokenizer
from smalti.modules import assemble
from smalti.nn.finite import require_finite_weights
from smalti.nn.unfilled import unfilled
from smalti.pipeline.pipeline import Pipeline
from smalti.pipeline.unified import UnifiedPipeline


def convert(
    project: Project,
    options: Any,
    out: Path,
    source: str,
    card: Mapping[str, Any] | None = None,
) -> None:
    """Write the pipeline of two checkpoints, or the tokenizer of one, as the folder `out`.

    `source` says where the files are from, `card` what the pipeline's model card is to say
    (`pipeline/card.py`). Raises ValueError naming the file, or the option, that
    does not fit.
    """
    files = [file for name in project.files if (file := getattr(options, name, None)) is not None]
    if not files:
        raise ValueError("give --tokenizer FILE, --model FILE or both")
    if getattr(options, "model", None) is None:
        save_tokenizer(lambda: tokenizer_of(project, options), out, source, options.tokenizer)
    else:
        save_pipeline(lambda: pipeline_of(project, options), out, source, *files, card=card)


def tokenizer_of(project: Project, options: Any) -> nn.Module:
    """The tokenizer of a file, without a model."""
    assert project.tokenizer is not None
    checkpoint = read_part(project.tokenizer, options.tokenizer, wanted_weights(options))
    codes = project.tokenizer.config(checkpoint, options)
    return build(project.tokenizer, checkpoint, project.alone(codes, checkpoint, options))


def pipeline_of(project: Project, options: Any) -> Pipeline | UnifiedPipeline:
    """The pipeline of two files, or of one that holds all of it, whose weights stay in them unless
    they are of another dtype."""
    assert project.model is not None
    checkpoint = read_part(project.model, options.model, wanted_weights(options))
    if project.whole is not None:
        return project.whole(checkpoint, options)
    assert project.tokenizer is not None
    vq = read_part(project.tokenizer, options.tokenizer or options.model, project.tokenizer.weights)
    codes = project.tokenizer.config(vq, options)
    config = project.model.config(checkpoint, options, codes)
    tokenizer = build(project.tokenizer, vq, project.fit(codes, config))
    dtype = dtype_of(options.dtype)
    if project.model.fill is None:
        model = build(project.model, checkpoint, config, tokenizer, dtype)
    else:
        model = filled(project.model, checkpoint, config, dtype)
    if project.phrases is not None:
        words, drawn, writing = words_of(options), project.sampling(config), project.writing
        phrases, eye = project.phrases, eye_of(project, options)
        phrases = phrases(options) if callable(phrases) else phrases
        for mark in phrases.marks:
            words.id(mark)
        return UnifiedPipeline(tokenizer, model, words, drawn, writing, phrases, eye=eye)
    text = project.text(config, options)
    if text is not None:
        model.learn_text(text)
    map = map_of(project, options, model.reads.map)
    return Pipeline(tokenizer, model, sampling=project.sampling(config), text=text, map=map)


def eye_of(project: Project, options: Any) -> Any:
    """The eye that is in the file of the model; None where models have none."""
    if project.eye is None:
        return None
    checkpoint = read_part(project.eye, options.model)
    return build(project.eye, checkpoint, project.eye.config(checkpoint, options))


def map_of(project: Project, options: Any, spec: TokenSpec | None) -> Any:
    """The tokenizer of maps that is in the file of the model, for maps of such codes; None where
    the model reads none."""
    if project.map is None or spec is None:
        return None
    checkpoint = read_part(project.map, options.model)
    codes = project.map.config(checkpoint, options)
    return build(project.map, checkpoint, sized(codes, spec.grids[0]))


def filled(part: Part, checkpoint: Checkpoint, config: Any, dtype: torch.dtype | None) -> Any:
    """The module of a checkpoint, filled shard by shard; `dtype` None is that of the file."""
    assert part.fill is not None
    with unfilled():
        module = part.module(config)
    kinds = [t.dtype for t in checkpoint.state.values() if t.is_floating_point()]
    module = module.to(dtype or next(iter(kinds), torch.float32)).to_empty(device="cpu")
    with torch.no_grad():
        part.fill(module, checkpoint.path)
    return module.eval().requires_grad_(False)


def wanted_weights(options: Any) -> str:
    """Which weights of a file are asked for; "", where the project leaves it to the file."""
    return getattr(options, "weights", "model") or ""


def read_part(part: Part, path: Path, weights: str = "model") -> Checkpoint:
    """A file of this kind. Raises ValueError naming what it is if it is of another."""
    return expect(part.read(path, weights, part.inside), part)


def build(
    part: Part,
    checkpoint: Checkpoint,
    config: Any,
    tokenizer: nn.Module | None = None,
    dtype: torch.dtype | None = torch.float32,
) -> Any:
    """The module of a checkpoint; numbers that are none are named as the file names them."""
    state, where = part.state(checkpoint.state, config, tokenizer), str(checkpoint.path)
    names = {t.data_ptr(): name for name, t in checkpoint.state.items()}
    require_finite_weights({names.get(t.data_ptr(), n): t for n, t in state.items()}, where)
    return assemble(part.module, config, state, where, dtype)
