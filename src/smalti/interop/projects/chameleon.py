"""Chameleon's tokenizer of pictures (facebookresearch/chameleon, commit dbbe47f).

A VQGAN of taming-transformers, whose file is `vqgan.ckpt`; Anole, Lumina-mGPT and Liquid read and
write pictures by the same one. Unlike an IBQ's, whose tensors have the same names, its codes are
the nearest rows of the table.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from smalti.interop.pickles import Checkpoint
from smalti.interop.project import Part, Project, at_size
from smalti.interop.projects.var import vae_state
from smalti.interop.taming import convolutions
from smalti.interop.tensor_shapes import shape
from smalti.tokenizers.vqgan import VQGAN, VQGANConfig

NAME = "Chameleon"


@dataclass(frozen=True)
class ChameleonFiles:
    """The tokenizer of Chameleon, Anole and Liquid, alone.

    smalti convert chameleon --tokenizer vqgan.ckpt --out chameleon-vq
    """

    tokenizer: Path
    """Checkpoint of the tokenizer: vqgan.ckpt."""
    size: str = "512"
    """Pixels of an image, 512 or height x width, 512x768."""


def tokenizer_sizes(checkpoint: Checkpoint) -> VQGANConfig:
    """The config of a tokenizer's checkpoint, for images of a single code.

    Raises ValueError if the tensors are not those of such a tokenizer.
    """
    vocab, dim = shape(checkpoint, "quantize.embedding.weight", 2, NAME)
    shape(checkpoint, "encoder.mid.attn_1.q.weight", 4, NAME)
    sizes = convolutions(checkpoint, NAME)
    return VQGANConfig(vocab=vocab, dim=dim, l2_norm=False, deep_attention=False, **sizes)


TOKENIZER = Part(
    title="a tokenizer of Chameleon",
    marks=("encoder.mid.attn_1.q.", "quantize.embedding.", "post_quant_conv."),
    module=VQGAN,
    config=lambda checkpoint, options: tokenizer_sizes(checkpoint),
    state=lambda state, *_: {
        name: tensor for name, tensor in vae_state(state).items() if not name.startswith("loss.")
    },
)

PROJECT = Project(
    options=ChameleonFiles,
    tokenizer=TOKENIZER,
    alone=at_size,
)
