"""RAR (bytedance/1d-tokenizer, commit 942a96f).

yucornetto/RAR publishes generators as .bin files, flat state dicts; their tokenizer is in
fun-research/TiTok. One table embeds codes, an unused mask, classes and the null class; tables of
positions and steps have rows beyond the sequence, which nothing reads: they are dropped.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from smalti.interop.pickles import Checkpoint
from smalti.interop.project import Part, Project
from smalti.interop.projects import maskgit_vqgan
from smalti.interop.saved import Dtype, Repository, pair
from smalti.interop.tensor_shapes import count, shape
from smalti.models.rar import RAR, SIZES, RARConfig
from smalti.pipeline.sampling import Sampling

NAME = "RAR"

FID = {
    "B": (16.0, 2.75, 1.0),
    "L": (15.5, 2.5, 1.02),
    "XL": (6.9, 1.5, 1.02),
    "XXL": (8.0, 1.2, 1.02),
}
"""Guidance, power and temperature of the published evaluation."""


def fid_sampling(size: str) -> Sampling:
    """How a published size was drawn for its FID."""
    guidance, power, temperature = FID[size]
    return Sampling.of(
        guidance=guidance, schedule="power-cosine", power=power, temperature=temperature
    )


@dataclass(frozen=True)
class RARFiles:
    """MaskGIT-VQGAN and a generator of RAR as a pipeline.

    smalti convert rar --tokenizer maskgit-vqgan-imagenet-f16-256.bin --model rar_b.bin --out rar-b
    """

    tokenizer: Path
    """Checkpoint of MaskGIT-VQGAN: .bin, .pt, .pth or .safetensors."""
    model: Path
    """Checkpoint of the generator."""
    grid: str = ""
    """Codes of an image, 16 or 16x24; default: a square of as many as the generator has."""
    dtype: Dtype = "stored"
    """Of the generator's weights in the pipeline."""


def sampling(config: RARConfig) -> Sampling:
    """The published evaluation of a size; upstream's demo settings for sizes without one."""
    for name, size in SIZES.items():
        if all(getattr(config, field) == value for field, value in size.items()):
            return fid_sampling(name)
    return Sampling.of(guidance=4.0)


EXTRA_POSITIONS = 1024
"""Rows of the official tables of positions beyond those of the codes."""
EXTRA_STEPS = 100
"""The same of the official table of steps."""


def rar_sizes(checkpoint: Checkpoint, grid: tuple[int, int] | None = None) -> RARConfig:
    """The config of a generator's checkpoint, of a square grid if none is given.

    Raises ValueError if the tensors are not those of RAR, or are of another number of codes.
    """

    def size(name: str, axes: int) -> tuple[int, ...]:
        return shape(checkpoint, name, axes, NAME)

    vocab, dim = size("lm_head.weight", 2)
    size("cls_token", 3)
    positions = size("pos_embed", 3)[1] - EXTRA_POSITIONS
    for name, extra in (
        ("target_aware_pos_embed", EXTRA_POSITIONS),
        ("timesteps_embeddings", EXTRA_STEPS),
    ):
        if (found := size(name, 3)[1] - extra) != positions:
            raise ValueError(
                f"{checkpoint.path}: pos_embed is of {positions} codes, {name} of {found}"
            )
    side = math.isqrt(max(positions, 0))
    height, width = grid or (side, side)
    if height * width != positions:
        raise ValueError(
            f"{checkpoint.path} has {positions} codes, a grid of {height}x{width} does not: "
            "give --grid"
        )
    return RARConfig(
        grid=(height, width),
        vocab=vocab,
        classes=size("embeddings.weight", 2)[0] - vocab - 2,  # the mask and the null class
        layers=count(checkpoint, "blocks."),
        heads=dim // size("blocks.0.attn.q_norm.weight", 1)[0],
        dim=dim,
        ffn_dim=size("blocks.0.mlp.fc1.weight", 2)[0],
    )


RENAMES = (
    (".attn.qkv.", ".attention.wqkv."),
    (".attn.proj.", ".attention.wo."),
    (".attn.", ".attention."),
    (".mlp.fc1.", ".feed_forward.w1."),
    (".mlp.fc2.", ".feed_forward.w2."),
    ("adaln_before_head.adaLN_modulation.1.", "adaln."),
    (".adaLN_modulation.1.", ".adaln."),
    ("lm_head.", "head.proj."),
    ("blocks.", "layers."),
)
"""Parts of official names and of ours."""


def rar_state(state: Mapping[str, Tensor], config: RARConfig) -> dict[str, Tensor]:
    """Our state dict of an official one. Raises KeyError for a name that is missing."""
    state, n = dict(state), config.spec.positions
    embeddings, positions = state.pop("embeddings.weight"), state.pop("pos_embed")[0]
    ours = {
        "start": state.pop("cls_token")[0, 0],
        "start_pos": positions[:2],
        "cell_pos.weight": positions[2 : 2 + n],
        "target_pos.weight": state.pop("target_aware_pos_embed")[0, 2 : 2 + n],
        "steps.weight": state.pop("timesteps_embeddings")[0, : n + 1],
        "tok_embeddings.weight": embeddings[: config.vocab],
        "cls_embedding.weight": embeddings[config.vocab + 1 :],  # after the mask
    }
    state.pop("attn_mask", None)
    return ours | {renamed(name): tensor for name, tensor in state.items()}


def renamed(name: str) -> str:
    """Our name of an official one."""
    for theirs, our in RENAMES:
        name = name.replace(theirs, our)
    return name


MODEL = Part(
    title="a RAR generator",
    marks=("target_aware_pos_embed",),
    module=RAR,
    config=lambda checkpoint, options, _: rar_sizes(
        checkpoint, pair("--grid", options.grid, 1) if options.grid else None
    ),
    state=lambda state, config, _: rar_state(state, config),
)

PROJECT = Project(
    options=RARFiles,
    tokenizer=maskgit_vqgan.TOKENIZER,
    alone=maskgit_vqgan.PROJECT.alone,
    model=MODEL,
    sampling=sampling,
    repositories={
        "yucornetto/RAR": Repository(
            ("maskgit-vqgan-imagenet-f16-256.bin",),
            ("rar_b.bin", "rar_l.bin", "rar_xl.bin", "rar_xxl.bin"),
            home="fun-research/TiTok",
        )
    },
)
