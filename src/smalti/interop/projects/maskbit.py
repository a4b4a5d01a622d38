"""MaskBit (markweberdev/maskbit, commit 5ea3d73).

The hub has a repository for each tokenizer and each generator, with one flat .bin file in it. Files
hold constants beside weights: the powers of two of bits, and the tokenizer's table of all codes,
which are checked and not kept. The decoder is stored in the order in which it is run, ours shallow
first, as MaskGIT's files that upstream reads as well ("legacy") have it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from smalti.interop.pickles import Checkpoint
from smalti.interop.project import Part, Project, at_size
from smalti.interop.saved import Dtype, Repository
from smalti.interop.tensor_shapes import count, shape
from smalti.models.maskbit import MaskBit, MaskBitConfig
from smalti.nn.code_embedding import signs
from smalti.nn.groups import to_bits
from smalti.pipeline.sampling import Sampling
from smalti.tokenizers.maskbit import MaskBitVQGAN, MaskBitVQGANConfig

NAME = "MaskBit"
HEADS = {1024: 16}
"""Attention heads of the published width."""
MOST = 24
"""Bits of the longest codes of which a table is looked at."""


def drawn(scale: float, noise: float, power: float, steps: int = 64) -> Sampling:
    """How a published model is drawn, in upstream's numbers, whose guidance of 0 is off."""
    return Sampling.of(
        guidance=1 + scale,
        schedule="power-cosine",
        power=power,
        steps=steps,
        reveal="arccos",
        confidence=noise,
    )


PUBLISHED = {
    10: drawn(6.4, 10.5, 2.5),
    12: drawn(7.1, 8.2, 3.0),
    14: drawn(7.1, 7.8, 3.0),
    16: drawn(6.5, 7.5, 2.5),
    18: drawn(5.7, 8.5, 2.5),
}
"""By the bits of a code."""


@dataclass(frozen=True)
class MaskBitFiles:
    """A tokenizer and a generator of MaskBit; without --model, the tokenizer alone.

    smalti convert maskbit --tokenizer maskbit_tokenizer_14bit.bin \\
        --model maskbit_generator_14bit.bin --out maskbit-14bit
    """

    tokenizer: Path
    """Checkpoint of the tokenizer: .bin, .pt, .pth or .safetensors."""
    model: Path | None = None
    """Checkpoint of the generator."""
    size: str = "256"
    """Pixels of an image of a tokenizer alone, 256 or height x width, 256x384."""
    bits: int | None = None
    """Bits of a code, to be sure; default: as many as the tensors have."""
    heads: int | None = None
    """Attention heads; needed for sizes that were never published."""
    dtype: Dtype = "stored"
    """Of the generator's weights in the pipeline."""


# -- configurations

CONSTANTS = ("quantize.bits_to_indices", "quantize.codebook", "bits_to_indices")
"""What files hold beside weights: powers of two, and all codes."""


def check_constants(checkpoint: Checkpoint) -> None:
    """Raise ValueError if constants of a file do not have the values of codes of bits, the first of
    which is the least significant one."""
    for name in CONSTANTS:
        found = checkpoint.state.get(name)
        if found is None:
            continue
        bits = found.shape[-1] if found.dim() else 0
        wanted = 2 ** torch.arange(bits)
        if name.endswith("codebook"):
            wanted = signs(to_bits(torch.arange(2 ** min(bits, MOST)), bits))
        if found.shape != wanted.shape or not torch.equal(found.to(wanted), wanted):
            raise ValueError(
                f"{checkpoint.path}: {name} does not have the values of codes of {bits} bits"
            )


def lfq_sizes(checkpoint: Checkpoint) -> MaskBitVQGANConfig:
    """The config of a tokenizer's checkpoint, for images of a single code.

    Raises ValueError if the tensors are not those of a MaskBit tokenizer.
    """

    def width(name: str) -> int:
        return _shape(checkpoint, name, 4)[0]

    state, table = checkpoint.state, "quantize.embedding.weight"
    if table in state:
        raise ValueError(
            f"{checkpoint.path} is no tokenizer of bits: it has a table of {len(state[table])} "
            f"codes, {table}"
        )
    check_constants(checkpoint)
    channels, levels = width("encoder.conv_in.weight"), count(checkpoint, "encoder.down.")
    widths = [width(f"encoder.down.{i}.res_blocks.0.conv1.weight") for i in range(levels)]
    blocks, others = (
        count(checkpoint, f"{side}.mid.res_blocks.") for side in ("encoder", "decoder")
    )
    factor = 2 ** max(levels - 1, 0)
    return MaskBitVQGANConfig(
        size=(factor, factor),
        channels=channels,
        multipliers=tuple(w // channels for w in widths),
        blocks=blocks,
        decoder_blocks=0 if others == blocks else others,
        strided=levels == 1 or "encoder.down.0.down_conv.weight" in state,
        bits=lfq_bits(checkpoint),
    )


def lfq_bits(checkpoint: Checkpoint) -> int:
    """Bits of a tokenizer's codes. Raises ValueError if its tensors do not agree in them."""
    state, bits = checkpoint.state, _shape(checkpoint, "encoder.conv_out.weight", 4)[0]
    found = {"decoder.conv_in.weight": _shape(checkpoint, "decoder.conv_in.weight", 4)[1]}
    found |= {n: state[n].shape[-1] for n in CONSTANTS if n in state and state[n].dim()}
    for name, other in found.items():
        if other != bits:
            raise ValueError(f"{checkpoint.path} has {bits} bits, but {other} in {name}")
    return bits


def bert_sizes(checkpoint: Checkpoint, heads: int | None = None) -> MaskBitConfig:
    """The config of a generator's checkpoint.

    `heads` is needed for sizes that were never published. Raises ValueError if it is missing, or if
    the tensors are not those of such a generator.
    """
    check_constants(checkpoint)
    dim, bits = _shape(checkpoint, "input_proj.weight", 2)
    groups, positions = _groups(checkpoint, bits), _shape(checkpoint, "pos_emb", 3)[1] - 1
    side = math.isqrt(max(positions, 0))
    if not side or side * side != positions:
        raise ValueError(
            f"{checkpoint.path}: pictures must be squares of codes, got {positions} positions"
        )
    if not heads and dim not in HEADS:
        raise ValueError(f"{checkpoint.path}: no published model has width {dim}; give --heads")
    return MaskBitConfig(
        grid=(side, side),
        channels=bits,
        groups=groups,
        classes=_shape(checkpoint, "class_emb.weight", 2)[0] - 1,
        layers=count(checkpoint, "transformer.layers."),
        heads=heads or HEADS[dim],
        dim=dim,
        ffn_dim=_shape(checkpoint, "transformer.layers.0.1.net.0.weight", 2)[0],
        prenorm="norm_after_transformer.weight" in checkpoint.state,
    )


def _groups(checkpoint: Checkpoint, bits: int) -> int:
    """How many groups share the bits. Raises ValueError if the tensors do not agree in them."""
    rows = _shape(checkpoint, "prediction_layer.weight", 2)[0]
    each = _shape(checkpoint, "bits_to_indices", 1)[0]
    groups = bits // max(each, 1)
    if not each or bits % each or rows != groups * 2**each:
        raise ValueError(
            f"{checkpoint.path} reads codes of {bits} bits, in groups of {each}, and predicts "
            f"{rows} ids of all groups"
        )
    return groups


def _shape(checkpoint: Checkpoint, name: str, axes: int) -> tuple[int, ...]:
    return shape(checkpoint, name, axes, NAME)


# -- names

LFQ_NAMES = (
    (r"\.mid\.res_blocks\.", ".mid."),
    (r"\.res_blocks\.", ".block."),
    (r"^encoder\.down\.(\d+)\.down_conv\.", r"encoder.halve.\1.conv."),
    (r"\.upsample_conv\.", ".upsample.conv."),
)
"""Parts of official names of a tokenizer and of ours, in this order."""

BERT_NAMES = (
    (r"^class_emb\.", "cls_embedding."),
    (r"^input_proj\.", "bit_proj."),
    (r"^pos_emb$", "pos"),
    (r"^first_layer\.0\.", "norm."),
    (r"^transformer\.layers\.(\d+)\.0\.mha\.in_proj_", r"layers.\1.wqkv."),
    (r"^transformer\.layers\.(\d+)\.0\.mha\.out_proj\.", r"layers.\1.wo."),
    (r"^transformer\.layers\.(\d+)\.0\.norm\.", r"layers.\1.norm1."),
    (r"^transformer\.layers\.(\d+)\.1\.net\.0\.", r"layers.\1.feed_forward.w1."),
    (r"^transformer\.layers\.(\d+)\.1\.net\.2\.", r"layers.\1.feed_forward.w2."),
    (r"^transformer\.layers\.(\d+)\.1\.norm\.", r"layers.\1.norm2."),
    (r"^norm_after_transformer\.", "last_norm."),
    (r"^last_layer\.0\.", "out."),
    (r"^last_layer\.2\.", "out_norm."),
    (r"^prediction_layer\.", "predict."),
)
"""The same of a generator."""


def _renamed(name: str, names: Sequence[tuple[str, str]]) -> str:
    for theirs, ours in names:
        name = re.sub(theirs, ours, name)
    return name


def lfq_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict of an official tokenizer's."""
    levels = 1 + max(int(n.split(".")[2]) for n in state if n.startswith("decoder.up."))
    legacy = levels > 1 and "decoder.up.0.upsample_conv.weight" not in state
    found = dict[str, Tensor]()
    for name, tensor in state.items():
        if name in CONSTANTS:
            continue
        if name.startswith("decoder.up.") and not legacy:
            parts = name.split(".")
            parts[2] = str(levels - 1 - int(parts[2]))
            name = ".".join(parts)
        found[_renamed(name, LFQ_NAMES)] = tensor
    return found


def bert_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict of an official generator's."""
    found = {_renamed(n, BERT_NAMES): tensor for n, tensor in state.items() if n not in CONSTANTS}
    return found | {"pos": found["pos"].squeeze(0)}


# -- the record


def _tokenizer(checkpoint: Checkpoint, options: MaskBitFiles) -> MaskBitVQGANConfig:
    config = lfq_sizes(checkpoint)
    if options.bits not in (None, config.bits):
        raise ValueError(f"{checkpoint.path} has {config.bits} bits, got --bits {options.bits}")
    return config


def _generator(
    checkpoint: Checkpoint, options: MaskBitFiles, codes: MaskBitVQGANConfig
) -> MaskBitConfig:
    config = bert_sizes(checkpoint, options.heads)
    if config.channels != codes.bits:
        raise ValueError(
            f"{checkpoint.path} draws codes of {config.channels} bits; the tokenizer has "
            f"{codes.bits}"
        )
    return config


TOKENIZER = Part(
    title="a MaskBit tokenizer",
    marks=("encoder.mid.res_blocks.", "decoder.mid.res_blocks."),
    module=MaskBitVQGAN,
    config=_tokenizer,
    state=lambda state, *_: lfq_state(state),
)

MODEL = Part(
    title="a MaskBit generator",
    marks=("input_proj.", "transformer.layers.0.0.mha.", "prediction_layer."),
    module=MaskBit,
    config=_generator,
    state=lambda state, *_: bert_state(state),
)

PROJECT = Project(
    options=MaskBitFiles,
    tokenizer=TOKENIZER,
    alone=at_size,
    model=MODEL,
    sampling=lambda config: PUBLISHED.get(config.channels, PUBLISHED[14]),
    repositories={
        f"markweber/maskbit_generator_{bits}bit": Repository(
            (f"maskbit_tokenizer_{bits}bit.bin",),
            (f"maskbit_generator_{bits}bit.bin",),
            f"markweber/maskbit_tokenizer_{bits}bit",
        )
        for bits in PUBLISHED
    }
    | {
        f"markweber/maskbit_tokenizer_{bits}bit": Repository((f"maskbit_tokenizer_{bits}bit.bin",))
        for bits in PUBLISHED
    },
)
