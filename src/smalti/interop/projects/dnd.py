"""DnD-Transformer (chenllliang/DnD-Transformer, commit 4a8b982).

Its tokenizer is an RQ-VAE of kakaobrain's code with a table for each depth: a checkpoint with the
key `state_dict`, and a `config.yaml` beside it. Its generators are checkpoints of LlamaGen's
trainer. Tensors do not tell the heads, nor the layers behind which codes are predicted: these come
from stored options, from the command, or from the published sizes. The grid is the tokenizer's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from smalti.interop.pickles import Checkpoint
from smalti.interop.project import Part, Project
from smalti.interop.projects.rq import TOKENIZER
from smalti.interop.saved import Dtype
from smalti.interop.tensor_shapes import count, ffn_settings, option, shape
from smalti.models.dnd import SIZES, DnD, DnDConfig
from smalti.pipeline.sampling import Sampling
from smalti.tokenizers.rq_vae import RQVAEConfig

NAME = "DnD-Transformer"
GUIDANCE = {"XXL": 2.0, "XXXL": 1.7}
"""Published for classes; 2.0 for other sizes."""
LAYERS = {(48, 1): (47,), (48, 2): (39, 47), (48, 8): (26, 29, 32, 35, 38, 41, 44, 47)}
"""Where the published generators predict their codes, by their layers and depths."""
TABLE = "cls_embedding.embedding_table.weight"
HEAD = re.compile(r"output\.(\d+)\.weight")


@dataclass(frozen=True)
class DnDFiles:
    """A tokenizer and a generator of DnD-Transformer as a pipeline; without --model, the tokenizer,
    an RQ-VAE, alone.

    smalti convert dnd --tokenizer rqvae/model.pt --model dnd/XXL.pt --out dnd-xxl
    """

    tokenizer: Path
    """Checkpoint of the tokenizer with its config.yaml beside it, their folder, or a tar of it."""
    model: Path | None = None
    """Checkpoint of the generator."""
    heads: int | None = None
    """Attention heads; needed for sizes that were never published."""
    at: str = ""
    """The layers behind which codes are predicted, counted from 0: 39,47. Needed where the
    checkpoint does not say and the size was never published."""
    weights: Literal["ema", "model"] = "model"
    """The moving average, or the weights as trained."""
    dtype: Dtype = "stored"
    """Of the generator's weights in the pipeline."""


# -- configurations


def gpt_sizes(
    checkpoint: Checkpoint,
    grid: tuple[int, int],
    heads: int | None = None,
    at: tuple[int, ...] = (),
) -> DnDConfig:
    """The config of a generator's checkpoint that draws `grid` codes.

    `heads` and `at` are needed where neither the file nor a published size says them. Raises
    ValueError if one is missing, or if the tensors are not those of such a generator.
    """
    state = checkpoint.state
    vocab, dim = shape(checkpoint, "tok_embeddings.weight", 2, NAME)
    depth, layers = count(checkpoint, "norm."), count(checkpoint, "layers.")
    at = at or _stored(checkpoint) or LAYERS.get((layers, depth), ())
    if len(at) != depth or not at:
        raise ValueError(
            f"{checkpoint.path} predicts {depth} codes at each position: give --at the {depth} of "
            f"its {layers} layers behind which it does, got {','.join(map(str, at)) or 'none'}"
        )
    ffn = shape(checkpoint, "layers.0.feed_forward.w1.weight", 2, NAME)[0]
    multiple_of, multiplier = ffn_settings(dim, ffn)
    return DnDConfig(
        grid=grid,
        vocab=vocab,
        depth=depth,
        at=at,
        shared_heads=depth > 1 and _shared(state),
        classes=_classes(checkpoint),
        layers=at[-1] + 1,
        heads=heads or _heads(checkpoint, layers, dim),
        dim=dim,
        multiple_of=multiple_of,
        ffn_multiplier=multiplier,
        dropout=option(checkpoint, "dropout_p", DnDConfig.dropout),
        drop_path=option(checkpoint, "drop_path_rate", DnDConfig.drop_path),
    )


def layers_of(text: str, where: str) -> tuple[int, ...]:
    """Layers as they are typed, "39,47"; () if there are none. Raises ValueError naming `where`."""
    if not re.fullmatch(r"(\d+(,\d+)*)?", text.replace(" ", "")):
        raise ValueError(f"{where} must be layers such as 39,47, got {text!r}")
    return tuple(int(number) for number in text.split(",") if number)


def _stored(checkpoint: Checkpoint) -> tuple[int, ...]:
    """The layers that a training script stored."""
    where = f"{checkpoint.path}: pred_head_positions"
    return layers_of(option(checkpoint, "pred_head_positions", ""), where)


def _shared(state: Mapping[str, Tensor]) -> bool:
    """Whether all depths have one classifier, of which files may hold a copy for each."""
    first, *others = (t for name, t in state.items() if HEAD.fullmatch(name))
    return all(tensor.equal(first) for tensor in others)


def _classes(checkpoint: Checkpoint) -> int:
    """Classes of a table, in which a null class has a row if classes were dropped in training. A
    table of one row has none: its model knows one kind of picture."""
    rows = shape(checkpoint, TABLE, 2, NAME)[0]
    bare = rows == 1 or option(checkpoint, "class_dropout_prob", 0.1) == 0
    return rows if bare else rows - 1


def _heads(checkpoint: Checkpoint, layers: int, dim: int) -> int:
    for settings in SIZES.values():
        if (settings["layers"], settings["dim"]) == (layers, dim):
            return settings["heads"]
    raise ValueError(
        f"{checkpoint.path}: no published model has {layers} layers of width {dim}; give --heads"
    )


# -- names


def gpt_state(state: Mapping[str, Tensor], config: DnDConfig) -> dict[str, Tensor]:
    """Our state dict of an official one, without layers that nothing reads, and rotary tables. A
    null class that was not learned is the mean of all classes."""
    ours = dict[str, Tensor]()
    for name, tensor in state.items():
        if name in ("freqs_cis", "causal_mask") or ".kv_cache." in name:
            continue
        if name.startswith("layers.") and int(name.split(".")[1]) >= config.layers:
            continue
        if found := HEAD.fullmatch(name):
            if int(found[1]) and config.shared_heads:
                continue
            name = f"head.parts.{found[1]}.proj.weight"
        elif name == TABLE:
            name, tensor = "cls_embedding.weight", _with_null(tensor, config.classes)
        elif name.startswith("norm."):
            name = f"head.norms.{name.removeprefix('norm.')}"
        ours[TEXT_NAMES.get(name, name)] = tensor
    return ours


TEXT_NAMES = {
    "cls_embedding.uncond_embedding": "text_prefix.uncond",
    "cls_embedding.cap_proj.fc1.weight": "text_prefix.fc1.weight",
    "cls_embedding.cap_proj.fc2.weight": "text_prefix.fc2.weight",
}


def _with_null(table: Tensor, classes: int) -> Tensor:
    if len(table) > classes:
        return table
    return torch.cat((table, table.float().mean(0, keepdim=True).to(table.dtype)))


# -- the record


def _generator(checkpoint: Checkpoint, options: DnDFiles, codes: RQVAEConfig) -> DnDConfig:
    at = layers_of(options.at, "--at")
    config = gpt_sizes(checkpoint, codes.spec.grids[0], options.heads, at)
    if (config.vocab, config.depth) != (codes.vocab, codes.depth):
        raise ValueError(
            f"{checkpoint.path} draws {config.depth} codes out of {config.vocab} at each position; "
            f"the tokenizer has {codes.depth} out of {codes.vocab}"
        )
    return config


def _sampling(config: DnDConfig) -> Sampling:
    if config.classes == 1:
        return Sampling.of(temperature=0.1)
    sizes = {(s["layers"], s["dim"]): name for name, s in SIZES.items()}
    return Sampling.of(guidance=GUIDANCE.get(sizes.get((config.layers, config.dim), ""), 2.0))


def _same(codes: Any, *_: Any) -> Any:
    return codes


MODEL = Part(
    title="a DnD-Transformer generator",
    marks=("tok_embeddings.", "layers.0.feed_forward.w3.", "norm.0."),
    module=DnD,
    config=_generator,
    state=lambda state, config, _: gpt_state(state, config),
)

PROJECT = Project(
    options=DnDFiles,
    tokenizer=TOKENIZER,
    alone=_same,
    model=MODEL,
    fit=_same,
    sampling=_sampling,
)
