"""What smalti has to know of a project to make pipelines of the files that it released."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from smalti.interop.pickles import PARTS, Checkpoint, read_checkpoint
from smalti.interop.saved import Repository, pair
from smalti.pipeline.conversation import Phrases, Writing
from smalti.pipeline.sampling import Sampling
from smalti.text.words import FILE, Words


class Part(NamedTuple):
    """One kind of file: a project's tokenizers or its models."""

    title: str
    """What such a file is, with its article: "a LlamaGen generator"."""
    marks: tuple[str, ...]
    """How names of tensors begin of which every such file has all."""
    module: Callable[[Any], nn.Module]
    """The class, or what makes one of several of a configuration."""
    config: Callable[..., Any]
    """The module's configuration, of the checkpoint and the options: of a tokenizer for images of
    as few codes as can be, of a model also of the tokenizer's configuration. Raises ValueError
    naming the file, or the option, that does not fit."""
    state: Callable[[dict[str, Tensor], Any, nn.Module | None], dict[str, Tensor]]
    """The module's tensors, of those of the file, the configuration and a model's tokenizer."""
    lacks: tuple[str, ...] = ()
    """How names begin of which such a file has none, where the marks are another kind's too."""
    inside: str = PARTS[0]
    """Where a file of VAR's trainer holds it."""
    read: Callable[[Path, str, str], Checkpoint] = read_checkpoint
    """What reads such a file, of its path, the weights that are wanted, and `inside`."""
    weights: str = "model"
    """Which weights a tokenizer has in a pipeline: "model", "ema", or "" for the moving average
    where its file has one."""
    fill: Callable[[Any, Path], None] | None = None
    """What writes the weights of a file, or of a folder of shards, into a new module, one shard
    after another, so that converting needs the memory of one beside the module; `state` is not
    used then."""


def on_grid(codes: Any, config: Any) -> Any:
    """The tokenizer's configuration for images of the grid that a model draws."""
    return sized(codes, config.grid)


def sized(codes: Any, grid: tuple[int, int]) -> Any:
    """A tokenizer's configuration for images of `grid` codes, height and width."""
    return replace(codes, size=(grid[0] * codes.factor, grid[1] * codes.factor))


def at_size(codes: Any, checkpoint: Checkpoint, options: Any) -> Any:
    """A tokenizer's configuration for images of the option --size, in pixels."""
    return sized(codes, pair("--size", options.size, codes.factor))


def no_text(config: Any, options: Any) -> Any:
    """The text encoder of a project whose models read none."""
    return None


def words_of(options: Any) -> Words:
    """The text tokenizer of a file, or of the folder that the model is in.

    Raises ValueError naming the option if there is none.
    """
    folder = options.model if options.model.is_dir() else options.model.parent
    if options.words is None and not (folder / FILE).is_file():
        raise ValueError(f"{folder} has no {FILE}: give --words, a text tokenizer or its folder")
    return Words.open(options.words or folder)


class Project(NamedTuple):
    """A project whose released files become pipelines. A new one is a file in `projects` with
    such a record, named `PROJECT`."""

    options: type[Any]
    """A dataclass whose fields are the command's options: the file `tokenizer` (None: it is in that
    of the model), the file `model` (which may be None, or lack where there are no models),
    `weights` and `dtype` where there is a choice, and what else the files do not say. Its docstring
    is the command's help."""
    tokenizer: Part | None
    """None: its models draw no pictures."""
    alone: Callable[[Any, Any, Any], Any]
    """The configuration of a tokenizer without a model, of that of its part, the checkpoint and the
    options."""
    model: Part | None = None
    eye: Part | None = None
    """What sees pictures, of models that read them in another form than they draw them; it is in
    the file of the model, and its configuration is that of the checkpoint and the options."""
    map: Part | None = None
    """What makes codes of maps, of models whose condition these may be; it is in the file of the
    model, and its configuration is that of the checkpoint and the options."""
    fit: Callable[[Any, Any], Any] = on_grid
    """The tokenizer's configuration that goes with a model's, of both."""
    sampling: Callable[[Any], Sampling] = lambda config: Sampling()
    """How a pipeline draws, of its model's configuration."""
    text: Callable[[Any, Any], Any] = no_text
    """The text encoder that goes with a model's configuration and the options."""
    phrases: Phrases | Callable[[Any], Phrases] | None = None
    """Of models of text and pictures: how what people ask is put to them, which may depend on the
    options. These then have the file `words` of the text tokenizer; None: it is in the folder of
    the model."""
    writing: Writing = Writing()
    """Of those: how they write text."""
    whole: Callable[[Checkpoint, Any], Any] | None = None
    """What makes the pipeline, of the checkpoint of the model and the options, where other parts
    are files of other kinds."""
    files: tuple[str, ...] = ("tokenizer", "model")
    """The options that are files of weights."""
    repositories: dict[str, Repository] = {}
    """What is published on the hub, by id."""
