"""DC-AE against outputs of diffusers."""

from pathlib import Path
from typing import Any

import pytest
import torch
from golden import Vectors, close, float32, folders, load, size_of

from smalti.interop.projects.dcae import activation, dcae_state, our_names
from smalti.tokenizers.dcae import DCAE, DCAEConfig, HalfConfig


def half(told: dict[str, Any], side: str) -> HalfConfig:
    """A half of diffusers' settings; what a folder leaves out is diffusers' default."""
    widths = told.get(f"{side}_block_out_channels", (128, 256, 512, 512, 1024, 1024))
    count = len(widths)

    def each(name: str, default: Any) -> list[Any]:
        said = told.get(f"{side}_{name}", default)
        return [said] * count if isinstance(said, str) else list(said)

    kinds = each("block_types", "ResBlock")
    scales = each("qkv_multiscales", ((), (), (), (5,), (5,), (5,)))
    decodes = side == "decoder"
    norms = each("norm_types", "rms_norm") if decodes else ["rms_norm"] * count
    way = ("upsample", "pixel_shuffle") if decodes else ("downsample", "pixel_unshuffle")
    shortcut = f"{side}_{'in' if decodes else 'out'}_shortcut"
    attends = [kind == "EfficientViTBlock" for kind in kinds]
    return HalfConfig(
        tuple(widths),
        tuple(each("layers_per_block", (3,) * 6 if decodes else (2, 2, 2, 3, 3, 3))),
        tuple(2**i for i in range(count) if attends[i]),
        tuple((2**i, kernel) for i in range(count) if attends[i] for kernel in scales[i]),
        tuple(2**i for i in range(count) if norms[i] == "batch_norm"),
        tuple(activation(name) for name in each("act_fns", "silu")) if decodes else (),
        told.get(f"{way[0]}_block_type", way[1]) == way[1],
        told.get(shortcut, True),
    )


def config_of(told: dict[str, Any], size: tuple[int, int]) -> DCAEConfig:
    return DCAEConfig(
        size,
        told.get("latent_channels", 32),
        half(told, "encoder"),
        half(told, "decoder"),
        told.get("attention_head_dim", 32),
        activation(told.get("decoder_conv_act_fn", "relu")),
        told.get("scaling_factor", 1.0),
    )


def pixels(io: Vectors, factor: int) -> tuple[int, int]:
    """Height and width of the images that are encoded, or else of those of the latents."""
    if "image" in io:
        return size_of(io["image"])
    height, width = size_of(io["latent"])
    return height * factor, width * factor


@pytest.mark.parametrize("folder", folders("dcae"))
@torch.no_grad()
def test_dcae(folder: Path):
    settings, weights, io = load(folder)
    told = settings["constructor"]
    config = config_of(told, pixels(io, 2 ** (len(half(told, "encoder").widths) - 1)))
    model = DCAE(config).eval()
    model.load_state_dict(dcae_state(our_names(float32(weights))))
    if "image" in io:
        images = io["image"]
        io.check("latent", model.latent(images))
        io.check("scaled_latent", model.config.scale * model.latent(images))
        if "scaled_latent" in io:
            close(model.encode(images), io["scaled_latent"].flatten(2).transpose(1, 2))
    if "latent" in io:
        io.check("decoded", model.render(io["latent"]))
        codes = model.config.scale * io["latent"].flatten(2).transpose(1, 2)
        io.check("decoded", model.decode(codes))
    io.done()
