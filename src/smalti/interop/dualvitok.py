"""DualViTok's files, ILLUME+'s tokenizer: its sizes and its names (illume-unified-mllm/ILLUME_plus,
commit 51de69d).

Tensors do not tell the heads of its transformers, 16 each in what is released.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from torch import Tensor

from smalti.interop.pickles import Checkpoint
from smalti.interop.tensor_shapes import count, shape
from smalti.nn.frozen_vit import FrozenViTConfig
from smalti.nn.vision import TowerConfig
from smalti.tokenizers.dual import DualConfig
from smalti.tokenizers.dual_pixels import PixelConfig

NAME = "ILLUME+"
HEADS = 16
"""Attention heads of the ViT and of the transformers around the semantic codes."""
NORM = "semantic_{}.proj_out.1.weight"
VIT = "semantic_encoder.model."
"""How names of the ViT begin."""


# -- configurations


def tokenizer_sizes(checkpoint: Checkpoint) -> DualConfig:
    """The config of a tokenizer's checkpoint, for images as small as can be.

    Raises ValueError if the tensors are not those of such a tokenizer.
    """

    def wide(name: str, axes: int) -> tuple[int, ...]:
        return shape(checkpoint, name, axes, NAME)

    see = vit(checkpoint, VIT)
    semantic, dim = wide("semantic_quantizer.frozen_codebook", 2)
    pixel, pixel_dim = wide("pixel_quantizer.frozen_codebook", 2)
    encoder = convolutions(checkpoint, "pixel_encoder.", "down")
    side = math.ceil(see.cell / encoder.factor) * encoder.factor
    state = checkpoint.state
    return DualConfig(
        size=(side, side),
        vit=see,
        width=wide("semantic_encoder.proj_in.weight", 4)[0],
        layers=count(checkpoint, "semantic_encoder.blocks."),
        decoder_layers=count(checkpoint, "semantic_decoder.blocks."),
        heads=HEADS,
        semantic_vocab=semantic,
        semantic_dim=dim,
        pixel_vocab=pixel,
        pixel_dim=pixel_dim,
        norms=tuple(
            f"semantic_{part}.proj_out.1.weight" in state for part in ("encoder", "decoder")
        ),  # type: ignore[arg-type]
        encoder=encoder,
        decoder=convolutions(checkpoint, "pixel_decoder.", "up"),
    )


def vit(checkpoint: Checkpoint, begin: str) -> FrozenViTConfig:
    """The ViT whose names begin so."""

    def wide(name: str, axes: int) -> tuple[int, ...]:
        return shape(checkpoint, f"{begin}{name}", axes, NAME)

    dim, _, _, patch, _ = wide("patch_embed.proj.weight", 5)
    merged = wide("merger.mlp.0.weight", 2)[1]
    layers = count(checkpoint, f"{begin}blocks.")
    inside = wide("blocks.0.mlp.fc1.weight", 2)[0]
    return FrozenViTConfig(
        patch=patch,
        merge=math.isqrt(merged // dim),
        features=wide("merger.mlp.2.weight", 2)[0],
        vision=TowerConfig(layers, HEADS, dim, inside, "sigmoid"),
    )


def convolutions(checkpoint: Checkpoint, begin: str, levels: str) -> PixelConfig:
    """The levels of an encoder, or of a decoder."""

    def width(name: str, axis: int = 0) -> int:
        return shape(checkpoint, f"{begin}{name}.weight", 4, NAME)[axis]

    number = count(checkpoint, f"{begin}{levels}.")
    widths = [width(f"{levels}.{i}.block.0.conv1") for i in range(number)]
    down = levels == "down"
    channels = width("conv_in") if down else math.gcd(*widths)
    blocks = count(checkpoint, f"{begin}{levels}.0.block.") - (not down)
    resampled = f"{levels}.{0 if down else number - 1}.{levels}sample.conv"
    attends = [i for i in range(number) if count(checkpoint, f"{begin}{levels}.{i}.attn.")]
    return PixelConfig(
        channels,
        tuple(w // channels for w in widths),
        blocks,
        tuple(attends),
        width("conv_out") if down else width("conv_in", 1),
        number > 1 and width(resampled) != width(resampled, 1),
    )


# -- names

NAMES = (
    (r"^semantic_encoder\.model\.patch_embed\.proj\.", "vit.sees.patches."),
    (r"^semantic_encoder\.model\.merger\.ln_q\.", "vit.sees.norm."),
    (r"^semantic_encoder\.model\.merger\.mlp\.", "vit.sees.merger."),
    (r"^semantic_encoder\.model\.", "vit.sees."),
    (r"^(vit\.sees|semantic_\w+)\.blocks\.", r"\1.layers."),
    (r"\.attn\.qkv\.", ".wqkv."),
    (r"\.attn\.proj\.", ".wo."),
    (r"\.mlp\.fc(\d)\.", r".feed_forward.w\1."),
    (r"\.proj_out\.0\.", ".proj_out."),
    (r"^(semantic_\w+)\.proj_out\.1\.", r"\1.norm."),
    (r"_quantizer\.frozen_codebook$", "_quantize.table"),
    (r"_quantizer\.code_transform\.", "_quantize.transform."),
    (r"^pixel_encoder\.down\.(\d+)\.block\.", r"encoder.conv_blocks.\1.res."),
    (r"^pixel_encoder\.down\.", "encoder.conv_blocks."),
    (r"^pixel_(encoder|decoder|(?:post_)?quant_conv)\.", r"\1."),
    (r"\.mid\.block_1\.", ".mid.0."),
    (r"\.mid\.attn_1\.", ".mid.1."),
    (r"\.mid\.block_2\.", ".mid.2."),
    (r"\.norm_layer\.", ".norm."),
    (r"\.conv_y\.", ".scale."),
    (r"\.conv_b\.", ".shift."),
)
"""Parts of official names and of ours, in this order."""


def tokenizer_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict of an official tokenizer's: both frames of a patch in one, linear layers that
    are 1x1 convolutions there, and levels of the decoder in the order in which they are run."""
    levels = [int(n.split(".")[2]) for n in state if n.startswith("pixel_decoder.up.")]
    found = dict[str, Tensor]()
    for name, tensor in state.items():
        if name.startswith("pixel_decoder.up."):
            parts = name.split(".")
            parts[2] = str(max(levels) - int(parts[2]))
            name = ".".join(parts)
        for theirs, ours in NAMES:
            name = re.sub(theirs, ours, name)
        if tensor.dim() == 5:
            tensor = tensor.sum(2)
        if re.match(r"semantic_\w+\.proj_in\.weight", name):
            tensor = tensor.flatten(1)
        found[name] = tensor
    return found
