"""The MaskGIT-VQGAN of bytedance/1d-tokenizer (commit 942a96f).

The names are ours but for the convolution behind each doubling of the decoder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from smalti.interop.pickles import Checkpoint
from smalti.interop.project import Part, Project, at_size
from smalti.interop.saved import Repository
from smalti.interop.tensor_shapes import count, shape
from smalti.tokenizers.maskgit_vqgan import MaskGITVQGAN, MaskGITVQGANConfig

NAME = "MaskGIT-VQGAN"


@dataclass(frozen=True)
class MaskGITFiles:
    """MaskGIT-VQGAN, the tokenizer of RAR and of many masked models, alone.

    smalti convert maskgit-vqgan --tokenizer maskgit-vqgan-imagenet-f16-256.bin --out maskgit-vqgan
    """

    tokenizer: Path
    """Checkpoint of the tokenizer: .bin, .pt, .pth or .safetensors."""
    size: str = "256"
    """Pixels of an image, 256 or height x width, 256x384."""


def maskgit_sizes(checkpoint: Checkpoint) -> MaskGITVQGANConfig:
    """The config of a tokenizer's checkpoint, for images of a single code.

    Raises ValueError if the tensors are not those of a MaskGIT-VQGAN.
    """
    channels = shape(checkpoint, "encoder.conv_in.weight", 4, NAME)[0]
    vocab, dim = shape(checkpoint, "quantize.embedding.weight", 2, NAME)
    levels = count(checkpoint, "encoder.down.")
    widths = [
        shape(checkpoint, f"encoder.down.{i}.block.0.conv1.weight", 4, NAME)[0]
        for i in range(levels)
    ]
    factor = 2 ** max(levels - 1, 0)
    return MaskGITVQGANConfig(
        size=(factor, factor),
        channels=channels,
        multipliers=tuple(width // channels for width in widths),
        blocks=count(checkpoint, "encoder.mid."),
        vocab=vocab,
        dim=dim,
    )


def maskgit_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict of an official one."""
    return {
        name.replace(".upsample_conv.", ".upsample.conv."): tensor for name, tensor in state.items()
    }


TOKENIZER = Part(
    title="a MaskGIT-VQGAN",
    marks=("encoder.down.", "encoder.mid.0."),
    module=MaskGITVQGAN,
    config=lambda checkpoint, options: maskgit_sizes(checkpoint),
    state=lambda state, *_: maskgit_state(state),
)

PROJECT = Project(
    options=MaskGITFiles,
    tokenizer=TOKENIZER,
    alone=at_size,
    repositories={"fun-research/TiTok": Repository(("maskgit-vqgan-imagenet-f16-256.bin",))},
)
