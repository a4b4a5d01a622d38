"""DALL-E's dVAE as OpenAI published it (commit 5be4b23): encoder.pkl and decoder.pkl.

Each file is a whole module of torch, pickled: its tensors are read, and none of its classes
(`interop.whole`). The transformer was never published.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from smalti.interop.pickles import Checkpoint
from smalti.interop.project import Part, Project, at_size
from smalti.interop.tensor_shapes import count, shape
from smalti.interop.whole import read_modules
from smalti.tokenizers.dalle_dvae import DalleDVAE, DalleDVAEConfig

NAME = "dVAE of DALL-E"


@dataclass(frozen=True)
class DalleFiles:
    """The dVAE of DALL-E, a tokenizer alone; its transformer was never published.

    smalti convert dalle --tokenizer FOLDER --out dalle-dvae
    """

    tokenizer: Path
    """Folder of encoder.pkl and decoder.pkl; or a file of both, whose names begin with encoder. and
    decoder."""
    size: str = "256"
    """Pixels of an image, 256 or height x width, 256x384."""


def sizes(checkpoint: Checkpoint) -> DalleDVAEConfig:
    """The config of both halves, for images of a single code.

    Raises ValueError if the tensors are not those of a dVAE.
    """

    def levels(half: str) -> list[int]:
        """Widths of the levels."""
        begin = f"{half}.blocks.group_"
        groups = count(checkpoint, begin)
        return [
            shape(checkpoint, f"{begin}{i}.block_1.res_path.conv_4.w", 4, NAME)[0]
            for i in range(1, groups + 1)
        ]

    def blocks(half: str) -> int:
        return count(checkpoint, f"{half}.blocks.group_1.block_")

    channels = shape(checkpoint, "encoder.blocks.input.w", 4, NAME)[0]
    dim, vocab, *_ = shape(checkpoint, "decoder.blocks.input.w", 4, NAME)
    widths = levels("encoder")
    if shape(checkpoint, "encoder.blocks.output.conv.w", 4, NAME)[0] != vocab:
        raise ValueError(f"{checkpoint.path}: encoder and decoder have other numbers of codes")
    factor = 2 ** max(len(widths) - 1, 0)
    return DalleDVAEConfig(
        size=(factor, factor),
        channels=channels,
        multipliers=tuple(width // channels for width in widths),
        blocks=blocks("encoder"),
        decoder_channels=levels("decoder")[-1],
        decoder_blocks=blocks("decoder"),
        dim=dim,
        vocab=vocab,
    )


def state_of(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict of an official one. What stands for a code is a column of the decoder's first
    layer, with its bias: shares of codes sum to one."""
    first = "decoder.blocks.input."
    found = {
        "quantize.embedding.weight": (
            state[f"{first}w"].flatten(1).float() + state[f"{first}b"].float()[:, None]
        ).T.contiguous()
    }
    for name, tensor in state.items():
        if not name.startswith(first):
            found[ours(name)] = tensor
    return found


def ours(name: str) -> str:
    """Our name of an official one."""
    name = re.sub(r"\.w$", ".weight", re.sub(r"\.b$", ".bias", name))
    name = name.replace(".blocks.input.", ".conv_in.").replace(".blocks.output.conv.", ".conv_out.")
    name = name.replace(".id_path.", ".skip.")

    def counted(found: re.Match[str]) -> str:
        return f".levels.{int(found[1]) - 1}.{int(found[2]) - 1}."

    name = re.sub(r"\.blocks\.group_(\d+)\.block_(\d+)\.", counted, name)
    return re.sub(r"\.res_path\.conv_(\d+)\.", lambda n: f".convs.{int(n[1]) - 1}.", name)


TOKENIZER = Part(
    title="a dVAE of DALL-E",
    marks=("encoder.blocks.group_1.", "decoder.blocks.group_1."),
    module=DalleDVAE,
    config=lambda checkpoint, options: sizes(checkpoint),
    state=lambda state, *_: state_of(state),
    read=read_modules,
)

PROJECT = Project(
    options=DalleFiles,
    tokenizer=TOKENIZER,
    alone=at_size,
)
