"""LlamaGen (FoundationVision/LlamaGen, commit ce98ec4).

FoundationVision/LlamaGen and peizesun/llamagen_t2i publish a tokenizer and generators as .pt files;
checkpoints of the official training scripts have the same form. Our modules keep the official names
where they can.

A checkpoint holds no configuration. Shapes tell nearly everything; the grid and the number of heads
come from the options that a training script stored, from the rotary table of old files, from the
file's name (256 px: 16 x 16 codes, 384: 24 x 24) or from the published sizes. What can be had twice
is compared.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from smalti.interop.pickles import Checkpoint
from smalti.interop.project import Part, Project, sized
from smalti.interop.saved import Dtype, Repository, pair
from smalti.interop.tensor_shapes import count, ffn_settings, option, shape
from smalti.models.llamagen import SIZES, LlamaGen, LlamaGenConfig
from smalti.pipeline.sampling import Sampling
from smalti.progress import say
from smalti.text.t5 import T5, T5Config
from smalti.tokenizers.vqgan import VQGAN, VQGANConfig

GUIDANCE = {"XL": 1.75, "XXL": 1.75, "3B": 1.65}
"""Published for classes; 2.0 for B and L, and here for the sizes without a published one."""


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
    """Pixels of an image, 256 or height x width, 256x384; default: what the checkpoint says,
    of a tokenizer alone else 256."""
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


# -- configurations

PUBLISHED = {name: SIZES[name] for name in ("B", "L", "XL", "XXL", "XXXL", "1B", "3B", "7B")}


def vq_sizes(checkpoint: Checkpoint, l2_norm: bool = True) -> VQGANConfig:
    """The config of a tokenizer's checkpoint, for images of a single code.

    That latents are l2-normalised shows in no tensor; stored options may deny it. Raises
    ValueError if the tensors are not those of a LlamaGen tokenizer.
    """
    channels, colours, *_ = _shape(checkpoint, "encoder.conv_in.weight", 4)
    vocab, dim = _shape(checkpoint, "quantize.embedding.weight", 2)
    encoder = _multipliers(checkpoint, "encoder", channels)
    decoder = _multipliers(checkpoint, "decoder", channels)[::-1]
    patch = max(math.isqrt(colours // 3), 1)
    factor = patch * 2 ** (len(encoder) - 1)
    return VQGANConfig(
        size=(factor, factor),
        patch=patch,
        channels=channels,
        multipliers=encoder,
        decoder_multipliers=() if decoder == encoder else decoder,
        blocks=count(checkpoint, "encoder.conv_blocks.0.res."),
        latent=_shape(checkpoint, "encoder.conv_out.weight", 4)[0],
        vocab=vocab,
        dim=dim,
        l2_norm=l2_norm and option(checkpoint, "codebook_l2_norm", True),
        attention="encoder.mid.1.q.weight" in checkpoint.state,
        dropout=option(checkpoint, "dropout_p", 0.0),
    )


def gpt_sizes(
    checkpoint: Checkpoint, grid: tuple[int, int], heads: int | None = None
) -> LlamaGenConfig:
    """The config of a generator's checkpoint that draws `grid` codes.

    `heads` is needed for sizes that were never published. Raises ValueError if it is missing, if
    the tensors are not those of a LlamaGen generator, or if stored options contradict them.
    """
    state = checkpoint.state
    vocab, dim = _shape(checkpoint, "tok_embeddings.weight", 2)
    layers = count(checkpoint, "layers.")
    if "cls_embedding.uncond_embedding" in state:
        classes, (length, width) = 0, _shape(checkpoint, "cls_embedding.uncond_embedding", 2)
    else:
        rows = _shape(checkpoint, "cls_embedding.embedding_table.weight", 2)[0]
        classes, length, width = _classes(checkpoint, rows), 0, LlamaGenConfig.text_dim
    heads = heads or _heads(checkpoint, layers, dim)
    multiple_of, multiplier = ffn_settings(
        dim, _shape(checkpoint, "layers.0.feed_forward.w1.weight", 2)[0]
    )
    drop_path = option(checkpoint, "drop_path_rate", LlamaGenConfig.drop_path)
    found = LlamaGenConfig(
        grid=grid,
        vocab=vocab,
        classes=classes,
        text_length=length,
        text_dim=width,
        layers=layers,
        heads=heads,
        kv_heads=_kv_heads(checkpoint, heads, dim),
        dim=dim,
        multiple_of=multiple_of,
        ffn_multiplier=multiplier,
        # upstream's scripts use either this or the other
        dropout=0.0 if drop_path else option(checkpoint, "dropout_p", LlamaGenConfig.dropout),
        drop_path=drop_path,
    )
    for name, value in (("vocab_size", vocab), ("cls_token_num", found.prefix)):
        if (stored := option(checkpoint, name, value)) != value:
            raise ValueError(f"{checkpoint.path}: {name} is {stored}, its tensors say {value}")
    return found


def grid_of(checkpoint: Checkpoint, factor: int) -> tuple[int, int]:
    """The grid of codes, from stored options, the rotary table or the file's name.

    `factor` is how many pixels of a side the tokenizer puts into one code. Raises ValueError if
    there is no way to know the grid.
    """
    path, table = checkpoint.path, checkpoint.state.get("freqs_cis")
    trained = option(checkpoint, "downsample_size", factor)
    if trained != factor:
        raise ValueError(
            f"{path} learned codes of {trained} pixels a side, the tokenizer's have {factor}"
        )
    if table is not None:
        text = checkpoint.state.get("cls_embedding.uncond_embedding")
        side = math.isqrt(len(table) - (1 if text is None else len(text)))
        return side, side
    named = re.search(r"_(256|384|512)(?![0-9a-zA-Z])", path.stem)
    size = option(checkpoint, "image_size", int(named[1]) if named else 0)
    if size < factor or size % factor:
        raise ValueError(f"{path} does not say the size of its images: give --size or --grid")
    return size // factor, size // factor


def _classes(checkpoint: Checkpoint, rows: int) -> int:
    """Classes of a table with a row for the null class."""
    classes = option(checkpoint, "num_classes", rows - 1)
    if classes == rows:
        raise ValueError(
            f"{checkpoint.path} was trained without dropping classes: its table of {rows} classes "
            "has no row for the null class, which guidance needs"
        )
    if classes != rows - 1:
        raise ValueError(f"{checkpoint.path}: num_classes is {classes}, its table has {rows} rows")
    return classes


def _heads(checkpoint: Checkpoint, layers: int, dim: int) -> int:
    table = checkpoint.state.get("freqs_cis")
    if table is not None:  # (T + N, head_dim / 2, ...)
        return dim // (2 * table.shape[1])
    name = option(checkpoint, "gpt_model", "").removeprefix("GPT-")
    for size, settings in PUBLISHED.items():
        if (settings["layers"], settings["dim"]) == (layers, dim):
            return settings["heads"]
        if size == name:
            raise ValueError(f"{checkpoint.path} says GPT-{name}, but has {layers} layers of {dim}")
    raise ValueError(
        f"{checkpoint.path}: no published model has {layers} layers of width {dim}; give --heads"
    )


def _kv_heads(checkpoint: Checkpoint, heads: int, dim: int) -> int:
    """Heads of keys and values, from the rows H + 2 H_kv; 0 if they are as many as the heads."""
    rows = _shape(checkpoint, "layers.0.attention.wqkv.weight", 2)[0]
    if heads < 1 or dim % heads or rows % (dim // heads):
        raise ValueError(
            f"{checkpoint.path}: {heads} heads do not divide width {dim} and wqkv's {rows} rows"
        )
    kv_heads = (rows // (dim // heads) - heads) // 2
    return 0 if kv_heads == heads else kv_heads


def _shape(checkpoint: Checkpoint, name: str, axes: int) -> tuple[int, ...]:
    return shape(checkpoint, name, axes, "LlamaGen")


def _multipliers(checkpoint: Checkpoint, part: str, channels: int) -> tuple[int, ...]:
    """Widths of the levels, in the order in which they run, by the width of the first."""
    levels = count(checkpoint, f"{part}.conv_blocks.")
    names = [f"{part}.conv_blocks.{i}.res.0.conv1.weight" for i in range(levels)]
    return tuple(_shape(checkpoint, name, 4)[0] // channels for name in names)


# -- names

GPT_NAMES = {
    "cls_embedding.embedding_table.weight": "cls_embedding.weight",
    "cls_embedding.uncond_embedding": "text_prefix.uncond",
    "cls_embedding.cap_proj.fc1.weight": "text_prefix.fc1.weight",
    "cls_embedding.cap_proj.fc2.weight": "text_prefix.fc2.weight",
    "output.weight": "head.proj.weight",
}
"""Official names that are not ours; every other name is the same."""


def gpt_state(state: Mapping[str, Tensor], config: LlamaGenConfig) -> dict[str, Tensor]:
    """Our state dict of an official one, without the rotary table and caches of some files.

    Raises ValueError if the weights are conditioned on something else than `config`.
    """
    text = "cls_embedding.uncond_embedding" in state
    if text != (config.text_length > 0):
        held, wanted = ("t2i", "c2i") if text else ("c2i", "t2i")
        raise ValueError(f"the weights are of a {held} model, the config is of a {wanted} one")
    return {
        GPT_NAMES.get(name, name): tensor
        for name, tensor in state.items()
        if name not in ("freqs_cis", "causal_mask") and ".kv_cache." not in name
    }


def vq_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict of an official one: the window that counts used codes is dropped."""
    return {name: t for name, t in state.items() if name != "quantize.codebook_used"}


# -- the record


def _generator(checkpoint: Checkpoint, options: LlamaGenFiles, codes: Any) -> LlamaGenConfig:
    config = gpt_sizes(checkpoint, _grid(options, checkpoint, codes.factor), options.heads)
    return replace(config, rope_base=options.rope_base, norm_eps=options.norm_eps)


def _grid(options: LlamaGenFiles, checkpoint: Checkpoint, factor: int) -> tuple[int, int]:
    """Height and width in codes, given or found; `factor` is pixels per code."""
    if options.size and options.grid:
        raise ValueError(f"give --size or --grid, not both, got {options.size} and {options.grid}")
    if options.grid:
        return pair("--grid", options.grid, 1)
    return pair("--size", options.size, factor) if options.size else grid_of(checkpoint, factor)


def _alone(codes: Any, checkpoint: Checkpoint, options: LlamaGenFiles) -> Any:
    """For images of 256 pixels where nothing says otherwise: it has codes of any size."""
    if not (options.size or options.grid or option(checkpoint, "image_size", 0)):
        options = replace(options, size="256")
        say("nothing says for images of what size the tokenizer is: taken for 256 pixels (--size)")
    return sized(codes, _grid(options, checkpoint, codes.factor))


def _sampling(config: LlamaGenConfig) -> Sampling:
    if not config.classes:
        return Sampling.of(guidance=7.5, top_k=1000)
    sizes = {(s["layers"], s["dim"]): name for name, s in PUBLISHED.items()}
    return Sampling.of(guidance=GUIDANCE.get(sizes.get((config.layers, config.dim), ""), 2.0))


def _text(config: LlamaGenConfig, options: LlamaGenFiles) -> T5 | None:
    if config.classes:
        return None
    return T5(T5Config(options.text, config.text_length, config.text_dim))


TOKENIZER = Part(
    title="a LlamaGen tokenizer",
    marks=("encoder.conv_blocks.",),
    module=VQGAN,
    config=lambda checkpoint, options: vq_sizes(checkpoint, options.l2_norm),
    state=lambda state, *_: vq_state(state),
)

MODEL = Part(
    title="a LlamaGen generator",
    marks=("tok_embeddings.", "layers.0.feed_forward.w3."),
    lacks=("norm.0.",),
    module=LlamaGen,
    config=_generator,
    state=lambda state, config, _: gpt_state(state, config),
)

PROJECT = Project(
    options=LlamaGenFiles,
    tokenizer=TOKENIZER,
    alone=_alone,
    model=MODEL,
    sampling=_sampling,
    text=_text,
    repositories={
        "FoundationVision/LlamaGen": Repository(
            ("vq_ds16_c2i.pt", "vq_ds8_c2i.pt"),
            (
                "c2i_B_256.pt",
                "c2i_B_384.pt",
                "c2i_L_256.pt",
                "c2i_L_384.pt",
                "c2i_XL_384.pt",
                "c2i_XXL_384.pt",
                "c2i_3B_384.pt",
            ),
        ),
        "peizesun/llamagen_t2i": Repository(
            ("vq_ds16_t2i.pt",),
            ("t2i_XL_stage1_256.pt", "t2i_XL_stage2_512.pt"),
        ),
    },  # fmt: skip
)
