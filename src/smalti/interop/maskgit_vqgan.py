"""The MaskGIT-VQGAN of bytedance/1d-tokenizer (commit 942a96f): names, settings, and its file.

The names are ours but for the convolution behind each doubling of the decoder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from smalti.interop.files import pair, save_tokenizer
from smalti.interop.kinds import MASKGIT_VQ, expect
from smalti.interop.pickles import Checkpoint, read_checkpoint
from smalti.interop.shapes import count, shape
from smalti.storage import assemble
from smalti.tokenizers.maskgit_vqgan import MaskGITVQGAN, MaskGITVQGANConfig

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


@dataclass(frozen=True)
class MaskGITFiles:
    """MaskGIT-VQGAN, the tokenizer of RAR and of many masked models, alone.

    smalti convert maskgit-vqgan --tokenizer maskgit-vqgan-imagenet-f16-256.bin --out maskgit-vqgan
    """

    tokenizer: Path
    """Checkpoint of the tokenizer: .bin, .pt, .pth or .safetensors."""
    size: str = "256"
    """Pixels of an image, 256 or height x width, 256x384."""


def convert(files: MaskGITFiles, out: Path, source: str) -> None:
    """Write the tokenizer of a checkpoint as the new folder `out`.

    Raises ValueError naming the file, or the option, that does not fit.
    """

    def make() -> MaskGITVQGAN:
        checkpoint, config = open_maskgit(files.tokenizer)
        return maskgit(checkpoint, config, pair("--size", files.size, config.factor))

    save_tokenizer(make, out, source, files.tokenizer)


def open_maskgit(path: Path) -> tuple[Checkpoint, MaskGITVQGANConfig]:
    """A checkpoint and its config, for images of a single code."""
    checkpoint = expect(read_checkpoint(path), MASKGIT_VQ)
    return checkpoint, maskgit_sizes(checkpoint)


def maskgit(
    checkpoint: Checkpoint, config: MaskGITVQGANConfig, grid: tuple[int, int]
) -> MaskGITVQGAN:
    """The tokenizer of a checkpoint, for images of `grid` codes."""
    config = replace(config, size=(grid[0] * config.factor, grid[1] * config.factor))
    state = maskgit_state(checkpoint.state)
    return assemble(MaskGITVQGAN, config, state, str(checkpoint.path), torch.float32)
