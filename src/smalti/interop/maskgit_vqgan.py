"""The MaskGIT-VQGAN of bytedance/1d-tokenizer (commit 942a96f): names, settings, sizes of a file.

The names are ours but for the convolution behind each doubling of the decoder.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from smalti.interop.pickles import Checkpoint
from smalti.interop.shapes import count, shape
from smalti.tokenizers.maskgit_vqgan import MaskGITVQGANConfig

PROJECT = "MaskGIT-VQGAN"


def maskgit_config(
    conf: Mapping[str, Any], quantizer: Mapping[str, Any], size: tuple[int, int] | None = None
) -> MaskGITVQGANConfig:
    """Our config of the official `conf` and of the quantizer's arguments.

    `size` is the height and width of the images, by default upstream's resolution. Raises
    ValueError if the settings contradict each other or ask for other images than RGB.
    """
    wanted = {
        "num_channels": (conf["num_channels"], 3),
        "num_resolutions": (conf["num_resolutions"], len(conf["channel_mult"])),
        "z_channels": (conf["z_channels"], quantizer["embedding_dim"]),
    }
    for name, (given, needed) in wanted.items():
        if given != needed:
            raise ValueError(f"{PROJECT}: {name} must be {needed}, got {given}")
    return MaskGITVQGANConfig(
        size=size or (conf["resolution"], conf["resolution"]),
        channels=conf["hidden_channels"],
        multipliers=tuple(conf["channel_mult"]),
        blocks=conf["num_res_blocks"],
        vocab=quantizer["num_embeddings"],
        dim=quantizer["embedding_dim"],
        dropout=conf["dropout"],
    )


def maskgit_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict of an official one."""
    return {
        name.replace(".upsample_conv.", ".upsample.conv."): tensor for name, tensor in state.items()
    }


def maskgit_sizes(checkpoint: Checkpoint) -> MaskGITVQGANConfig:
    """The config of a tokenizer's checkpoint, for images of a single code.

    Raises ValueError if the tensors are not those of a MaskGIT-VQGAN.
    """
    channels = shape(checkpoint, "encoder.conv_in.weight", 4, PROJECT)[0]
    vocab, dim = shape(checkpoint, "quantize.embedding.weight", 2, PROJECT)
    levels = count(checkpoint, "encoder.down.")
    widths = [
        shape(checkpoint, f"encoder.down.{i}.block.0.conv1.weight", 4, PROJECT)[0]
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
