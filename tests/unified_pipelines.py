"""Pipelines of text and pictures with random weights."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch

from smalti import modules
from smalti.models import eye as eyes
from smalti.models.unified import Marks, UnifiedConfig
from smalti.pipeline.unified import UnifiedPipeline
from smalti.text.words import Words
from smalti.tokenizers import dual, kl_vae, rendered, rq_vae, vqgan


def home_of(config: UnifiedConfig, marks: Marks, words: int) -> Any:
    """The first tokenizer whose codes a model of this kind writes."""
    for home in (vqgan, kl_vae, rq_vae, dual, rendered):
        tokenizer = modules.module_of(home.tiny(), modules.TOKENIZERS)
        with suppress(ValueError):
            config.fitted(tokenizer.spec, words, marks)
            return tokenizer.eval().requires_grad_(False)
    raise AssertionError(f"no tokenizer fits {config}")


def made(kind: str, **changes: Any) -> UnifiedPipeline:
    """A pipeline of a registered model with random weights, some of its settings changed."""
    tiny = modules.UNIFIED[kind].tiny()
    torch.manual_seed(0)
    words = Words.train(["a red heart", "a blue star", "what is it?", "draw"], 280)
    assert words.stop is not None
    marks = Marks(words.start, (words.stop,), words.pad)
    tokenizer = home_of(tiny, marks, words.vocab) if tiny.drawing else None
    config = tiny.fitted(tokenizer.spec if tokenizer else tiny.spec, words.vocab, marks)
    config = replace(config, length=160, **changes)
    if tokenizer is not None:
        config = config.with_codebook(tokenizer.codebook)
    if config.sight is not None:
        config = config.seeing(eyes.tiny().sight)
    model = modules.module_of(config, modules.UNIFIED).eval().requires_grad_(False)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    eye = None
    if model.sight is not None:
        eye = modules.module_of(eyes.tiny(), modules.EYES).eval().requires_grad_(False)
        eye.init_weights()
    return UnifiedPipeline(tokenizer, model, words, eye=eye)
