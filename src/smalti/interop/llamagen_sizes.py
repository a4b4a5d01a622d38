"""What LlamaGen's checkpoints say about their own sizes: from tensors to our configs.

A checkpoint holds no configuration. Shapes tell nearly everything; the grid and the number of heads
come from the options that a training script stored, from the rotary table of old files, from the
file's name or from the published sizes. What can be had twice is compared.
"""

from __future__ import annotations

import math
import re

from smalti.interop.pickles import Checkpoint
from smalti.interop.shapes import count, option, shape
from smalti.models.llamagen import SIZES, LlamaGenConfig
from smalti.tokenizers.vqgan import VQGANConfig

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


def ffn_settings(dim: int, width: int) -> tuple[int, float]:
    """`multiple_of` and `ffn_multiplier` of a feed-forward width, as published if those fit."""
    for multiple_of in (256, 128, 64, 32, 16, 8, 4, 2, 1):
        if LlamaGenConfig(heads=1, dim=dim, multiple_of=multiple_of).ffn_dim == width:
            return multiple_of, 1.0
    return 1, (width + 0.5) / int(8 * dim / 3)  # one half keeps rounding from F - 1


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
