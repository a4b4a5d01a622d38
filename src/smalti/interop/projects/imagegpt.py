"""ImageGPT as transformers has it (version 5.24.0), and the colours that OpenAI published.

A checkpoint is a GPT-2's: products are stored as (inputs, outputs), and the start is the last row
of the table of colours. The colours are in the settings of the image processor, or an array. What
no tensor tells is read in the config.json beside the weights, or else is as published.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from smalti.interop.pickles import Checkpoint, read_checkpoint, read_described
from smalti.interop.project import Part, Project
from smalti.interop.saved import Dtype, Repository, pair
from smalti.interop.tensor_shapes import count, option, shape
from smalti.models.imagegpt import SIZES, ImageGPT, ImageGPTConfig
from smalti.nn.mlp import Gelu
from smalti.tokenizers.palette import Palette, PaletteConfig

NAME = "ImageGPT"


@dataclass(frozen=True)
class ImageGPTFiles:
    """The colours and a model of ImageGPT as a pipeline; without --model, the palette alone.

    smalti convert imagegpt --tokenizer preprocessor_config.json --model pytorch_model.bin \\
        --out imagegpt-s
    """

    tokenizer: Path
    """Colours: preprocessor_config.json of a model, kmeans_centers.npy, or a checkpoint."""
    model: Path | None = None
    """Checkpoint of the model."""
    size: str = ""
    """Pixels of an image, 32 or height x width, 32x48; default: a square of the model's positions,
    or 32 without a model."""
    heads: int | None = None
    """Attention heads; needed for sizes that were never published, without a config.json."""
    dtype: Dtype = "stored"
    """Of the model's weights in the pipeline."""


def read_colours(path: Path, weights: str = "model", part: str = "") -> Checkpoint:
    """The colours (V, 3) of a file under the name "clusters", in [-1, 1].

    Raises ValueError naming the file if there are none.
    """
    if path.suffix not in (".json", ".npy") or path.name.endswith(".index.json"):
        return read_checkpoint(path, weights, part)
    if not path.is_file():
        raise ValueError(f"{path} is not a file")
    try:
        held = json.loads(path.read_text()).get("clusters") if path.suffix == ".json" else path
        values = np.load(held, allow_pickle=False) if held is path else np.array(held, dtype=float)
        colours = torch.from_numpy(values).float()
    except (ValueError, TypeError, AttributeError, OSError) as error:
        raise ValueError(f"{path} holds no colours: {error}") from None
    if colours.dim() != 2 or colours.shape[1] != 3:
        raise ValueError(f"{path} must hold colours (V, 3), got shape {tuple(colours.shape)}")
    return Checkpoint(path, {"clusters": colours}, {})


def palette_sizes(checkpoint: Checkpoint) -> PaletteConfig:
    """The config of a palette, for images of a single pixel."""
    return PaletteConfig(size=(1, 1), vocab=shape(checkpoint, "clusters", 2, NAME)[0])


def model_sizes(checkpoint: Checkpoint, options: ImageGPTFiles, codes: Any) -> ImageGPTConfig:
    """The config of a model's checkpoint.

    Raises ValueError if the tensors are not those of an ImageGPT, or if the grid or the number of
    heads cannot be known.
    """
    path = checkpoint.path
    vocab, dim = shape(checkpoint, "lm_head.weight", 2, NAME)
    rows, positions = (
        shape(checkpoint, f"transformer.{name}.weight", 2, NAME)[0] for name in ("wte", "wpe")
    )
    if rows != vocab + 1 or vocab != codes.vocab:
        raise ValueError(
            f"{path} has {vocab} colours and a table of {rows}, which must be one more, for the "
            f"start; the palette has {codes.vocab} colours"
        )
    side = math.isqrt(positions)
    grid = pair("--size", options.size, 1) if options.size else (side, side)
    if math.prod(grid) != positions:
        raise ValueError(
            f"{path} has {positions} positions, not {grid[0]} x {grid[1]}; give --size"
        )
    for name, wanted in SCALED.items():
        if option(checkpoint, name, wanted) != wanted:
            raise ValueError(f"{path}: {name} must be {wanted}, got {not wanted}")
    layers = count(checkpoint, "transformer.h.")
    known = {(s["layers"], s["dim"]): s["heads"] for s in SIZES.values()}
    heads = options.heads or option(checkpoint, "n_head", known.get((layers, dim), 0))
    if not heads:
        raise ValueError(
            f"{path}: no published model has {layers} layers of width {dim}; give --heads"
        )
    width = shape(checkpoint, "transformer.h.0.mlp.c_fc.weight", 2, NAME)[1]
    return ImageGPTConfig(
        grid=grid,
        vocab=vocab,
        layers=layers,
        heads=heads,
        dim=dim,
        ffn_dim=width if width != 4 * dim else 0,
        gelu=gelu_of(option(checkpoint, "activation_function", "quick_gelu")),
        norm_eps=option(checkpoint, "layer_norm_epsilon", ImageGPTConfig.norm_eps),
        dropout=option(checkpoint, "resid_pdrop", 0.1),
    )


def gelu_of(name: str) -> Gelu:
    """Our name of a nonlinearity of transformers. Raises ValueError if it is no GELU."""
    if name not in GELUS:
        raise ValueError(f"activation_function must be one of {', '.join(GELUS)}, got {name!r}")
    return GELUS[name]


GELUS: dict[str, Gelu] = {
    **{"quick_gelu": "sigmoid", "gelu": "none", "gelu_new": "tanh"},
    **{"gelu_pytorch_tanh": "tanh", "gelu_fast": "tanh"},
}
SCALED = {"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False}
"""How products of queries and keys are scaled, by transformers' options: as in other models."""
PARTS = {
    "ln_1": "attention_norm",
    "ln_2": "ffn_norm",
    "attn.c_attn": "attention.wqkv",
    "attn.c_proj": "attention.wo",
    "mlp.c_fc": "feed_forward.w1",
    "mlp.c_proj": "feed_forward.w2",
}
"""Official names of what a layer has, and ours."""


def model_state(state: Mapping[str, Tensor], config: ImageGPTConfig) -> dict[str, Tensor]:
    """Our state dict of an official one, of which the one start is that of every row."""
    table = state["transformer.wte.weight"]
    found = {
        "tok_embeddings.weight": table[:-1],
        "cls_embedding.weight": table[-1:].expand(config.classes + 1, -1).contiguous(),
        "positions": state["transformer.wpe.weight"],
        "norm.weight": state["transformer.ln_f.weight"],
        "head.proj.weight": state["lm_head.weight"],
    }
    for layer in range(config.layers):
        for theirs, ours in PARTS.items():
            for kind in ("weight", "bias"):
                tensor = state.get(f"transformer.h.{layer}.{theirs}.{kind}")
                if tensor is not None:
                    whole = tensor.T.contiguous() if tensor.dim() == 2 else tensor
                    found[f"layers.{layer}.{ours}.{kind}"] = whole
    return found


TOKENIZER = Part(
    title="a palette of ImageGPT",
    marks=("clusters",),
    module=Palette,
    config=lambda checkpoint, options: palette_sizes(checkpoint),
    state=lambda state, *_: {"quantize.embedding.weight": state["clusters"]},
    read=read_colours,
)

MODEL = Part(
    title="an ImageGPT",
    marks=("transformer.wpe.", "transformer.h.0.attn.c_attn.", "lm_head."),
    module=ImageGPT,
    config=model_sizes,
    state=lambda state, config, _: model_state(state, config),
    read=read_described,
)


def _alone(codes: PaletteConfig, checkpoint: Checkpoint, options: ImageGPTFiles) -> PaletteConfig:
    return PaletteConfig(pair("--size", options.size or "32", 1), codes.vocab)


PROJECT = Project(
    options=ImageGPTFiles,
    tokenizer=TOKENIZER,
    alone=_alone,
    model=MODEL,
    repositories={
        f"openai/imagegpt-{size}": Repository(("preprocessor_config.json",), ("pytorch_model.bin",))
        for size in ("small", "medium", "large")
    },
)
