"""RAR's released files as pipelines, and where on the hub they are.

yucornetto/RAR publishes generators as .bin files, flat state dicts; their tokenizer is in
fun-research/TiTok.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from smalti.interop.files import Dtype, Repository, dtype_of, pair, save_pipeline
from smalti.interop.kinds import RAR as KIND
from smalti.interop.kinds import expect
from smalti.interop.maskgit_vqgan import maskgit, open_maskgit
from smalti.interop.pickles import Checkpoint, read_checkpoint
from smalti.interop.rar import EXTRA_POSITIONS, EXTRA_STEPS, rar_state
from smalti.interop.shapes import count, shape
from smalti.models.rar import RAR, SIZES, RARConfig
from smalti.pipeline import Pipeline
from smalti.settings import Sampling
from smalti.storage import assemble

PROJECT = "RAR"

REPOSITORIES = {
    "yucornetto/RAR": Repository(
        ("maskgit-vqgan-imagenet-f16-256.bin",),
        ("rar_b.bin", "rar_l.bin", "rar_xl.bin", "rar_xxl.bin"),
        home="fun-research/TiTok",
    )
}

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
    return Sampling(guidance, "power-cosine", power, temperature=temperature)


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


def convert(files: RARFiles, out: Path, source: str) -> None:
    """Write the pipeline of two checkpoints as the folder `out`; `source` is where they are from.

    Raises ValueError naming the file, or the option, that does not fit.
    """
    save_pipeline(lambda: _pipeline(files), out, source, files.tokenizer, files.model)


def _pipeline(files: RARFiles) -> Pipeline:
    vq, codes = open_maskgit(files.tokenizer)
    checkpoint = expect(read_checkpoint(files.model), KIND)
    config = rar_sizes(checkpoint, pair("--grid", files.grid, 1) if files.grid else None)
    state = rar_state(checkpoint.state, config)
    model = assemble(RAR, config, state, str(files.model), dtype_of(files.dtype))
    return Pipeline(maskgit(vq, codes, config.grid), model, sampling=sampling(config))


def sampling(config: RARConfig) -> Sampling:
    """The published evaluation of a size; upstream's demo settings for sizes without one."""
    for name, size in SIZES.items():
        if all(getattr(config, field) == value for field, value in size.items()):
            return fid_sampling(name)
    return Sampling(guidance=4.0)


def rar_sizes(checkpoint: Checkpoint, grid: tuple[int, int] | None = None) -> RARConfig:
    """The config of a generator's checkpoint, of a square grid if none is given.

    Raises ValueError if the tensors are not those of RAR, or are of another number of codes.
    """

    def size(name: str, axes: int) -> tuple[int, ...]:
        return shape(checkpoint, name, axes, PROJECT)

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
