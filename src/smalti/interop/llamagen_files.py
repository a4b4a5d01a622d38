"""LlamaGen's released files as pipelines, and where on the hub they are.

FoundationVision/LlamaGen and peizesun/llamagen_t2i publish a tokenizer and generators as .pt files;
checkpoints of the official training scripts have the same form.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from smalti.interop.files import Dtype, Repository, dtype_of, pair, save_pipeline, save_tokenizer
from smalti.interop.kinds import LLAMAGEN, LLAMAGEN_VQ, expect
from smalti.interop.llamagen import gpt_state, vq_state
from smalti.interop.llamagen_sizes import PUBLISHED, gpt_sizes, grid_of, vq_sizes
from smalti.interop.pickles import Checkpoint, read_checkpoint
from smalti.models.llamagen import LlamaGen, LlamaGenConfig
from smalti.pipeline import Pipeline
from smalti.settings import Sampling
from smalti.storage import assemble
from smalti.text.t5 import T5, T5Config
from smalti.tokenizers.vqgan import VQGAN, VQGANConfig

GUIDANCE = {"XL": 1.75, "XXL": 1.75, "3B": 1.65}
"""Published for classes; 2.0 for B and L, and here for the sizes without a published one."""

REPOSITORIES = {
    "FoundationVision/LlamaGen": Repository(
        ("vq_ds16_c2i.pt", "vq_ds8_c2i.pt"),
        (
            "c2i_B_256.pt", "c2i_B_384.pt", "c2i_L_256.pt", "c2i_L_384.pt", "c2i_XL_384.pt",
            "c2i_XXL_384.pt", "c2i_3B_384.pt",
        ),
    ),
    "peizesun/llamagen_t2i": Repository(
        ("vq_ds16_t2i.pt",),
        ("t2i_XL_stage1_256.pt", "t2i_XL_stage2_512.pt"),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class LlamaGenFiles:
    """A tokenizer and a generator of LlamaGen as a pipeline; without --model, the tokenizer alone.

    smalti convert llamagen --tokenizer vq_ds16_c2i.pt --model c2i_B_256.pt --out llamagen-b
    """

    tokenizer: Path
    """Checkpoint of the tokenizer: .pt, .pth or .safetensors."""
    model: Path | None = None
    """Checkpoint of the generator."""
    size: str = ""
    """Pixels of an image, 256 or height x width, 256x384; default: what the checkpoint says."""
    grid: str = ""
    """Codes of an image, 16 or 16x24, instead of --size."""
    heads: int | None = None
    """Attention heads; needed for sizes that were never published."""
    weights: Literal["model", "ema"] = "model"
    """The weights as trained, which upstream's samplers use, or their moving average; of the
    generator where there is one, else of the tokenizer."""
    l2_norm: bool = True
    """Whether the tokenizer normalises its codes, as all published ones do."""
    rope_base: float = LlamaGenConfig.rope_base
    """Base of the generator's rotary angles; the default is that of all published ones."""
    norm_eps: float = LlamaGenConfig.norm_eps
    """Epsilon of the generator's norms, likewise."""
    dtype: Dtype = "stored"
    """Of the generator's weights in the pipeline."""
    text: str = "google/flan-t5-xl"
    """T5 whose features a text-to-image generator learned: hub id or folder."""


def convert(files: LlamaGenFiles, out: Path, source: str) -> None:
    """Write the pipeline of two checkpoints, or the tokenizer of one, as the folder `out`.

    `source` says where the files are from. Raises ValueError naming the file, or the option, that
    does not fit.
    """
    model = files.model
    if model is None:
        save_tokenizer(lambda: _tokenizer_alone(files), out, source, files.tokenizer)
    else:
        save_pipeline(lambda: _pipeline(files, model), out, source, files.tokenizer, model)


def _tokenizer_alone(files: LlamaGenFiles) -> VQGAN:
    checkpoint = expect(read_checkpoint(files.tokenizer, files.weights), LLAMAGEN_VQ)
    config = vq_sizes(checkpoint, files.l2_norm)
    return _tokenizer(checkpoint, config, _grid(files, checkpoint, config.factor))


def _pipeline(files: LlamaGenFiles, model: Path) -> Pipeline:
    """A pipeline whose weights stay in the files, unless they are of another dtype."""
    vq = expect(read_checkpoint(files.tokenizer), LLAMAGEN_VQ)
    gpt = expect(read_checkpoint(model, files.weights), LLAMAGEN)
    codes = vq_sizes(vq, files.l2_norm)
    config = gpt_sizes(gpt, _grid(files, gpt, codes.factor), files.heads)
    config = replace(config, rope_base=files.rope_base, norm_eps=files.norm_eps)
    tokenizer = _tokenizer(vq, codes, config.grid)
    state = gpt_state(gpt.state, config)
    generator = assemble(LlamaGen, config, state, str(model), dtype_of(files.dtype))
    if config.classes:
        return Pipeline(tokenizer, generator, sampling=Sampling(guidance=_guidance(config)))
    text = T5(T5Config(files.text, config.text_length, config.text_dim))
    return Pipeline(tokenizer, generator, sampling=Sampling(guidance=7.5, top_k=1000), text=text)


def _tokenizer(checkpoint: Checkpoint, config: VQGANConfig, grid: tuple[int, int]) -> VQGAN:
    config = replace(config, size=(grid[0] * config.factor, grid[1] * config.factor))
    state = vq_state(checkpoint.state)
    return assemble(VQGAN, config, state, str(checkpoint.path), torch.float32)


def _guidance(config: LlamaGenConfig) -> float:
    sizes = {(s["layers"], s["dim"]): name for name, s in PUBLISHED.items()}
    return GUIDANCE.get(sizes.get((config.layers, config.dim), ""), 2.0)


def _grid(files: LlamaGenFiles, checkpoint: Checkpoint, factor: int) -> tuple[int, int]:
    """Height and width in codes, given or found; `factor` is pixels per code."""
    if files.size and files.grid:
        raise ValueError(f"give --size or --grid, not both, got {files.size} and {files.grid}")
    if files.grid:
        return pair("--grid", files.grid, 1)
    return pair("--size", files.size, factor) if files.size else grid_of(checkpoint, factor)
