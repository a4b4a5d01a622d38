"""Infinity (FoundationVision/Infinity).

FoundationVision/Infinity publishes tokenizers as .pth files that hold the network under "vae". Each
convolution and each norm is wrapped, so that its name ends in `.conv.` or `.norm.`; the decoder is
stored shallow first, ours deepest first; the quantizer has no weights, but a constant that is
stored twice.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor

from smalti.interop.pickles import Checkpoint
from smalti.interop.project import Part, Project
from smalti.interop.tensor_shapes import count, shape
from smalti.tokenizers.infinity import InfinityVAE, InfinityVAEConfig, at, schedule

NAME = "Infinity"
TOKENIZERS = (
    "infinity_vae_d32reg.pth",
    "infinity_vae_d16.pth",
    "infinity_vae_d24.pth",
    "infinity_vae_d32.pth",
    "infinity_vae_d64.pth",
    "infinity_vae_d56_f8_14_patchify.pth",
)
"""The published ones; the model of 2 B parameters learned codes of the first."""
MASK = re.compile(r"quantizer?\.lfq\.mask")
"""The powers of two of a code's bits, by which upstream makes numbers of them."""


@dataclass(frozen=True)
class InfinityFiles:
    """A tokenizer of Infinity.

    smalti convert infinity --tokenizer infinity_vae_d32reg.pth --out infinity-d32
    """

    tokenizer: Path
    """Checkpoint of the tokenizer: .pth, .pt or .safetensors."""
    ratio: float = 1.0
    """Height / width of its pictures, one of the published ones; it has codes of all others too."""
    budget: Literal["0.06M", "0.25M", "0.60M", "1M"] = "1M"
    """Their pixels, likewise."""
    bits: int | None = None
    """Bits of a latent cell, to be sure; default: as many as the tensors have."""
    cells: int | None = None
    """Latent cells of each side that a position of codes covers, which the tensors do not say;
    default: as many as there are in 16 pixels, as published."""


# -- configurations


def vae_sizes(checkpoint: Checkpoint, cells: int | None = None) -> InfinityVAEConfig:
    """The config of a tokenizer's checkpoint, for images of a single position.

    Raises ValueError if the tensors are not those of Infinity's tokenizer.
    """

    def size(name: str) -> tuple[int, ...]:
        return shape(checkpoint, name, 4, NAME)

    def widths(side: str, count: int) -> tuple[int, ...]:
        names = (f"{side}.{i}.block.0.conv1.conv.weight" for i in range(count))
        return tuple(size(name)[0] // channels for name in names)

    channels, levels = size("encoder.conv_in.conv.weight")[0], count(checkpoint, "encoder.down.")
    down, up = widths("encoder.down", levels), widths("decoder.up", levels)
    factor = 2 ** max(levels - 1, 0)
    cells = max(1, 16 // factor) if cells is None else cells
    return InfinityVAEConfig(
        size=(factor * cells, factor * cells),
        channels=channels,
        multipliers=down,
        decoder_multipliers=() if up == down else up,
        blocks=count(checkpoint, "encoder.down.0.block."),
        scales=((1, 1),),
        bits=bits_of(checkpoint),
        cells=cells,
    )


def bits_of(checkpoint: Checkpoint) -> int:
    """Bits of a latent cell. Raises ValueError if tensors of a file do not agree in them."""
    bits = shape(checkpoint, "encoder.conv_out.conv.weight", 4, NAME)[0]
    held = {
        "decoder.conv_in.conv.weight": shape(checkpoint, "decoder.conv_in.conv.weight", 4, NAME)[1]
    }
    held |= {name: len(t) for name, t in checkpoint.state.items() if MASK.fullmatch(name)}
    for name, found in held.items():
        if found != bits:
            raise ValueError(f"{checkpoint.path} has {bits} bits, but {found} in {name}")
    return bits


# -- names

RENAMES = (
    (r"\.(conv|norm)\.(weight|bias)$", r".\2"),
    (r"\.mid\.block_1\.", ".mid.0."),
    (r"\.mid\.block_2\.", ".mid.2."),
    (r"\.(down|up)\.", ".conv_blocks."),
    (r"\.block\.", ".res."),
)
"""Parts of official names and of ours, in this order."""


def vae_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict of an official one."""
    levels = [int(name.split(".")[2]) for name in state if name.startswith("decoder.up.")]
    ours: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if MASK.fullmatch(name):
            continue
        parts = name.split(".")
        if parts[:2] == ["decoder", "up"]:
            parts[2] = str(max(levels) - int(parts[2]))
        name = ".".join(parts)
        for official, own in RENAMES:
            name = re.sub(official, own, name)
        ours[name] = tensor
    return ours


# -- the record


def _tokenizer(checkpoint: Checkpoint, options: InfinityFiles) -> InfinityVAEConfig:
    config = vae_sizes(checkpoint, options.cells)
    if options.bits not in (None, config.bits):
        raise ValueError(f"{checkpoint.path} has {config.bits} bits, got --bits {options.bits}")
    return config


TOKENIZER = Part(
    title="an Infinity tokenizer",
    marks=("encoder.down.0.block.0.conv1.conv.", "decoder.up.0.block.0.conv1.conv."),
    module=InfinityVAE,
    config=_tokenizer,
    state=lambda state, *_: vae_state(state),
)

PROJECT = Project(
    options=InfinityFiles,
    tokenizer=TOKENIZER,
    alone=lambda codes, _, options: at(codes, schedule(options.ratio, options.budget)),
)
