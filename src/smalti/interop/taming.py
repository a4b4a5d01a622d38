"""Tokenizers whose tensors have the names of taming-transformers: sizes of their convolutions."""

from __future__ import annotations

import math
from typing import Any

from smalti.interop.pickles import Checkpoint
from smalti.interop.tensor_shapes import count, shape

VQGAN_MARKS = ("encoder.mid.attn_1.q.", "quantize.embed", "post_quant_conv.")
"""How names of tensors begin of which files of a VQGAN have all, whichever project they are of."""


def convolutions(checkpoint: Checkpoint, project: str, patch: int = 0) -> dict[str, Any]:
    """Sizes of the encoder by the names of a `ConvConfig`, for images of a single code, and which
    levels have attention. `patch` 0 is told by what the encoder reads, of images in colours.

    Raises ValueError if the tensors are not those of such a tokenizer of the project.
    """

    def width(name: str) -> int:
        return shape(checkpoint, name, 4, project)[0]

    channels, colours, *_ = shape(checkpoint, "encoder.conv_in.weight", 4, project)
    levels = count(checkpoint, "encoder.down.")
    widths = [width(f"encoder.down.{i}.block.0.conv1.weight") for i in range(levels)]
    patch = patch or max(math.isqrt(colours // 3), 1)
    cells = [patch * 2**i for i in range(levels)]
    attends = [count(checkpoint, f"encoder.down.{i}.attn.") > 0 for i in range(levels)]
    return {
        "size": (patch * 2 ** max(levels - 1, 0),) * 2,
        "patch": patch,
        "channels": channels,
        "multipliers": tuple(w // channels for w in widths),
        "blocks": count(checkpoint, "encoder.down.0.block."),
        "latent": width("encoder.conv_out.weight"),
        "attention_at": tuple(c for c, found in zip(cells, attends, strict=True) if found),
    }
