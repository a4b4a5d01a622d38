"""Show-o's released files (showlab/Show-o, code of commit 29c6d82) and what they become here.

A model is Phi-1.5 with norms of queries and keys, whose vocabulary ends with ten marks, the codes
of pictures, and the id of a hidden one. Its text tokenizer is that of microsoft/phi-1_5, without
the marks. Pictures are coded by `tokenizers/magvit2.py`. Models that read pictures by CLIP, whose
files hold its projector (`mm_projector`) and not the tower itself, are not known here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from smalti.interop.language import fill, stored
from smalti.interop.pickles import Checkpoint
from smalti.interop.project import Part, Project, at_size
from smalti.interop.saved import Dtype, pair
from smalti.interop.tensor_shapes import count, shape
from smalti.models.language import LanguageConfig
from smalti.models.show_o import ShowO, ShowOConfig
from smalti.pipeline.conversation import Phrases
from smalti.pipeline.sampling import Sampling
from smalti.text.words import Words
from smalti.tokenizers.magvit2 import MAGVIT2, MAGVIT2Config

NAME = "Show-o"
MARKS = 10
"""Ids between text and codes: padding, begin and end of a picture and of a video, a picture to be
drawn and one to be read, and three that no released model uses."""
SENTENCE = "<|endoftext|>"
"""What stands before and after a text."""
CONSTANTS = ("quantize.embedding", "quantize.power_vals")
"""What files of tokenizers hold beside weights: all codes, and powers of two."""


@dataclass(frozen=True)
class ShowOFiles:
    """A tokenizer and a model of Show-o; without --model, the tokenizer alone.

    smalti convert show-o --tokenizer magvitv2/pytorch_model.bin --model show-o/ \\
        --words phi-1_5/ --out show-o-256
    """

    tokenizer: Path
    """Checkpoint of the tokenizer of pictures."""
    model: Path | None = None
    """Checkpoint of the model."""
    words: Path | None = None
    """tokenizer.json of microsoft/phi-1_5, or its folder; needed with --model."""
    size: str = "256"
    """Pixels of an image: 256, or 512 of the models that were trained so."""
    dtype: Dtype = "stored"
    """Of the model's weights in the pipeline."""


# -- configurations


def tokenizer_sizes(checkpoint: Checkpoint) -> MAGVIT2Config:
    """The config of a tokenizer's checkpoint, for images of a single code.

    Raises ValueError if the tensors are not those of such a tokenizer.
    """
    channels = shape(checkpoint, "encoder.conv_in.weight", 4, NAME)[0]
    factor = 2 ** max(count(checkpoint, "encoder.down.") - 1, 0)

    def levels(side: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Widths, as multiples, and numbers of blocks."""
        names = [f"{side}.{i}.block." for i in range(count(checkpoint, f"{side}."))]
        widths = [shape(checkpoint, f"{name}0.conv1.weight", 4, NAME)[0] for name in names]
        return tuple(w // channels for w in widths), tuple(count(checkpoint, n) for n in names)

    (multipliers, blocks), (others, theirs) = levels("encoder.down"), levels("decoder.up")
    bits = shape(checkpoint, "encoder.quant_conv.weight", 4, NAME)[0]
    return MAGVIT2Config((factor, factor), channels, multipliers, blocks, others, theirs, bits)


def model_sizes(checkpoint: Checkpoint, options: ShowOFiles, codes: MAGVIT2Config) -> ShowOConfig:
    """The config of a model's checkpoint, which draws codes of this tokenizer.

    Raises ValueError if the tensors are not those of such a model, or its ids are not those of the
    text tokenizer.
    """
    path = checkpoint.path
    if any(name.startswith("mm_projector.") for name in checkpoint.state):
        raise ValueError(f"{path} reads pictures by CLIP: such models of Show-o are not known")
    if options.words is None:
        raise ValueError("give --words: tokenizer.json of microsoft/phi-1_5, or its folder")
    words = Words.open(options.words)
    vocab, dim = shape(checkpoint, "showo.model.embed_tokens.weight", 2, NAME)
    layer = "showo.model.layers.0."
    (width,) = shape(checkpoint, f"{layer}self_attn.q_layernorm.weight", 1, NAME)
    first = vocab - 1 - codes.spec.vocab
    if first != words.vocab + MARKS:
        raise ValueError(
            f"{path} knows {vocab} ids: with {codes.spec.vocab} codes of pictures these are "
            f"{first - MARKS} of text, but {options.words} has {words.vocab}"
        )
    marks, sentence = first - MARKS, words.id(SENTENCE)
    return ShowOConfig(
        LanguageConfig(
            vocab, count(checkpoint, "showo.model.layers."), dim // width, dim,
            shape(checkpoint, f"{layer}mlp.fc1.weight", 2, NAME)[0], order="parallel",
            norm="layer", qk_norm="shared", feed_forward="plain", qkv_bias=True, out_bias=True,
            head_bias=True, turned=0.5,
        ),
        pair("--size", options.size, codes.factor),
        codes.spec.vocab,
        first,
        begin=marks + 1,
        end=marks + 2,
        sentence=(sentence, sentence),
        draws=marks + 5,
        reads=marks + 6,
        pad=marks,
    )  # fmt: skip


# -- names

NAMES = (
    (r"^(en|de)coder\.((?:post_)?quant_conv)\.", r"\2."),
    (r"\.mid\.block_1\.", ".mid.0."),
    (r"\.mid\.attn_1\.", ".mid.1."),
    (r"\.mid\.block_2\.", ".mid.2."),
    (r"\.(down|up)sample\.", ".after."),
)
"""Parts of official names of a tokenizer and of ours."""


def tokenizer_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict of an official tokenizer's."""
    levels = [int(name.split(".")[2]) for name in state if name.startswith("decoder.up.")]
    found = dict[str, Tensor]()
    for name, tensor in state.items():
        if name in CONSTANTS:
            continue
        parts = name.split(".")
        if parts[:2] == ["decoder", "up"]:  # there the level of full size is the first
            parts[2] = str(max(levels) - int(parts[2]))
        name = ".".join(parts)
        for theirs, ours in NAMES:
            name = re.sub(theirs, ours, name)
        found[name] = tensor
    return found


def fill_model(model: ShowO, path: Path) -> None:
    """Write the weights of a file or folder into a model, shard by shard."""
    tensors = ((re.sub(r"^(.*\.)?showo\.", "", name), tensor) for name, tensor in stored(path))
    fill(model.language, tensors, "phi", str(path))


# -- the record

TOKENIZER = Part(
    title="a tokenizer of Show-o",
    marks=("encoder.quant_conv.", "encoder.mid.attn_1.q.", "decoder.post_quant_conv."),
    module=MAGVIT2,
    config=lambda checkpoint, options: tokenizer_sizes(checkpoint),
    state=lambda state, *_: tokenizer_state(state),
)

MODEL = Part(
    title="a model of Show-o",
    marks=("showo.model.embed_tokens.", "showo.model.layers.0.self_attn.q_layernorm."),
    module=ShowO,
    config=model_sizes,
    state=lambda state, *_: state,
    fill=fill_model,
)


def drawn(config: ShowOConfig) -> Sampling:
    """How the released script draws."""
    return Sampling.of(guidance=6.0, steps=min(50, config.spec.positions), reveal="show-o")


PROJECT = Project(
    options=ShowOFiles,
    tokenizer=TOKENIZER,
    alone=at_size,
    model=MODEL,
    sampling=drawn,
    phrases=Phrases(
        draw="{}",
        edit="{}",
        caption="USER: \nPlease describe this image in detail. ASSISTANT:",
        ask="USER: \n{} ASSISTANT:",
    ),
)
