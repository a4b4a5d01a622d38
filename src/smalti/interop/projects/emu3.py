"""Emu3's files as transformers 5.24.0 has them, and what they become here.

One folder holds the tokenizer of pictures, the language model and the text tokenizer, which knows
by name which ids are what. Of the tokenizer of pictures, which codes videos too, what images need
is taken (`tokenizers/emu3_vq.py`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from smalti.config import read_json
from smalti.interop.language import DECODER, OTHER, config_of, fill, stored
from smalti.interop.pickles import Checkpoint, read_checkpoint
from smalti.interop.project import Part, Project, at_size
from smalti.interop.saved import Dtype, pair
from smalti.interop.tensor_shapes import count, shape
from smalti.models.emu3 import Emu3, Emu3Config
from smalti.models.unified import Marks
from smalti.pipeline.conversation import Phrases
from smalti.pipeline.sampling import Sampling
from smalti.text.words import Words
from smalti.tokenizers.emu3_vq import Emu3VQ, Emu3VQConfig

NAME = "Emu3"
CODE = "<|visual token {:06}|>"
"""The word for a code."""
NEGATIVE = (
    "lowres, bad anatomy, bad hands, text, error, missing fingers, extra digit, fewer digits, "
    "cropped, worst quality, low quality, normal quality, jpeg artifacts, signature, watermark, "
    "username, blurry."
)
"""What guidance is led away from, in image_generation.py of baaivision/Emu3."""
EPS = 1e-5
"""Added to the variance in norms of batches."""


@dataclass(frozen=True)
class Emu3Files:
    """A tokenizer and a model of Emu3; without --model, the tokenizer alone.

    smalti convert emu3 --tokenizer Emu3-Gen-hf/ --model Emu3-Gen-hf/ --words Emu3-Gen-hf/ \\
        --out emu3
    """

    tokenizer: Path
    """Folder of transformers, for its tokenizer of pictures."""
    model: Path | None = None
    """Folder of transformers, for its language model; config.json is in it."""
    words: Path | None = None
    """tokenizer.json, or its folder; needed with --model."""
    size: str = "720"
    """Pixels of an image, 720 or height x width, 512x768."""
    dtype: Dtype = "stored"
    """Of the model's weights in the pipeline."""


# -- configurations


def tokenizer_sizes(checkpoint: Checkpoint) -> Emu3VQConfig:
    """The config of a tokenizer's checkpoint, for images of a single code.

    Raises ValueError if the tensors are not those of such a tokenizer.
    """

    def width(name: str) -> int:
        return shape(checkpoint, name, 4, NAME)[0]

    channels, down = width("encoder.conv_in.weight"), "encoder.down_block.down."
    levels = count(checkpoint, down)
    widths = [width(f"{down}{i}.block.0.conv1.weight") for i in range(levels)]
    attends = [i for i in range(levels) if count(checkpoint, f"{down}{i}.attn.")]
    if attends != [levels - 1]:
        raise ValueError(
            f"{checkpoint.path}: attention must be at the deepest level alone, got {attends}"
        )
    vocab, latent = shape(checkpoint, "quantize.embedding.weight", 2, NAME)
    return Emu3VQConfig(
        size=(2 ** max(levels - 1, 0),) * 2,
        channels=channels,
        multipliers=tuple(w // channels for w in widths),
        blocks=count(checkpoint, f"{down}0.block."),
        latent=latent,
        vocab=vocab,
        halvings=count(checkpoint, "encoder.time_conv."),
    )


def model_sizes(checkpoint: Checkpoint, options: Emu3Files, codes: Emu3VQConfig) -> Emu3Config:
    """The config of a model's folder, which draws codes of this tokenizer.

    Raises ValueError if its settings are missing or unknown, or its text tokenizer has no words for
    codes.
    """
    if options.model is None or options.words is None:
        raise ValueError("give --words: tokenizer.json of the model, or its folder")
    folder = options.model if options.model.is_dir() else options.model.parent
    told: dict[str, Any] = read_json(folder / "config.json")
    language = config_of(told.get("text_config", told), str(folder / "config.json"))
    words, vocab = Words.open(options.words), codes.spec.vocab
    first, last = words.id(CODE.format(0)), words.id(CODE.format(vocab - 1))
    if last - first != vocab - 1:
        raise ValueError(f"{options.words}: words of {vocab} codes lie from id {first} to {last}")
    return Emu3Config(
        language,
        pair("--size", options.size, codes.factor),
        vocab,
        first,
        begin=words.id("<|image start|>"),
        end=words.id("<|image end|>"),
        marks=Marks(
            words.id("<|extra_203|>"), (words.id("<|extra_204|>"),), words.id("<|endoftext|>")
        ),
        image=words.id("<|image token|>"),
        line=words.id("<|extra_200|>"),
        frame=words.id("<|extra_201|>"),
        digits=tuple(words.id(letter) for letter in "0123456789*"),
    )


# -- names

TOKENIZER_NAMES = (
    (r"^encoder\.down_block\.down\.(\d+)\.block\.", r"encoder.conv_blocks.\1.res."),
    (r"^encoder\.down_block\.down\.", "encoder.conv_blocks."),
    (r"^encoder\.time_conv\.(\d+)\.conv\.conv\.", r"frames.halve.\1."),
    (r"^encoder\.time_res_stack\.", "frames.block."),
    (r"^decoder\.time_conv\.(\d+)\.conv\.conv\.", r"decoder.later.\1."),
    (r"^decoder\.time_res_stack\.", "decoder.frame."),
    (r"^decoder\.up_block\.", "decoder."),
    (r"\.middle_block\.block_1\.", ".mid.0."),
    (r"\.middle_block\.attn_1\.", ".mid.1."),
    (r"\.middle_block\.attn_norm\.", ".mid.1.norm."),
    (r"\.middle_block\.block_2\.", ".mid.2."),
    (r"\.attn_norms\.(\d+)\.", r".attn.\1.norm."),
    (r"\.([qkv])_proj\.", r".\1."),
    (r"\.out_proj\.", ".proj_out."),
    (r"\.norm_layer\.", ".norm."),
    (r"\.conv_y\.", ".scale."),
    (r"\.conv_b\.", ".shift."),
    (r"((?:post_)?quant_conv|conv[12])\.conv\.", r"\1."),
)
"""Parts of official names of a tokenizer and of ours, in this order."""


def tokenizer_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict of an official tokenizer's: of convolutions over time, what an image sees."""
    levels = [int(n.split(".")[3]) for n in state if n.startswith("decoder.up_block.up.")]
    found = dict[str, Tensor]()
    for name, tensor in folded(state).items():
        parts = name.split(".")
        if parts[:2] == ["decoder", "up_block"]:  # there the level of full size is the first
            parts[3] = str(max(levels) - int(parts[3]))
        name = ".".join(parts)
        for theirs, ours in TOKENIZER_NAMES:
            name = re.sub(theirs, ours, name)
        if tensor.dim() == 5 and not name.startswith("frames.halve."):
            tensor = tensor[:, :, -1]
        if tensor.dim() == 2 and not name.startswith("quantize."):
            tensor = tensor[..., None, None]
        found[name] = tensor.contiguous()
    return found


def folded(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same with norms of batches as scales and shifts."""
    means = [name for name in state if name.endswith(".running_mean")]
    found = {n: t for n, t in state.items() if not n.endswith("num_batches_tracked")}
    for name in means:
        norm = name.removesuffix("running_mean")
        mean, variance = found.pop(name), found.pop(f"{norm}running_var")
        scale = found[f"{norm}weight"] / torch.sqrt(variance + EPS)
        shift = found[f"{norm}bias"] - mean * scale
        found |= {f"{norm}weight": scale, f"{norm}bias": shift}
    return found


MODEL_NAMES = (
    (r"^model\.text_model\.", "model."),
    (r"^text_model\.", ""),
)
"""How names of the language model begin there: in the memory of transformers, and in its files."""


def named(tensors: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """Those of the language model, under the names that language models have."""
    for name, tensor in tensors:
        if re.match(r"(model\.)?vqmodel\.", name):
            continue
        for theirs, ours in MODEL_NAMES:
            name = re.sub(theirs, ours, name)
        yield name, tensor


def read_model(path: Path, weights: str, inside: str) -> Checkpoint:
    """The language model of a folder."""
    checkpoint = read_checkpoint(path, weights, inside)
    return checkpoint._replace(state=dict(named(checkpoint.state.items())))


def fill_model(model: Emu3, path: Path) -> None:
    """Write the weights of a folder into a model, shard by shard."""
    fill(model.language, named(stored(path)), "emu3_text_model", str(path))


# -- the record

DRAWN = Sampling.of(guidance=3.0, top_k=2048)
"""How the released script draws."""
TOKENIZER = Part(
    title="a tokenizer of Emu3",
    marks=("encoder.down_block.down.", "decoder.up_block.up.", "quantize.embedding."),
    module=Emu3VQ,
    config=lambda checkpoint, options: tokenizer_sizes(checkpoint),
    state=lambda state, *_: tokenizer_state(state),
)

MODEL = Part(
    title="a model of Emu3",
    marks=DECODER,
    lacks=OTHER,
    module=Emu3,
    config=model_sizes,
    state=lambda state, *_: state,
    read=read_model,
    fill=fill_model,
)

PROJECT = Project(
    options=Emu3Files,
    tokenizer=TOKENIZER,
    alone=at_size,
    model=MODEL,
    sampling=lambda config: DRAWN,
    phrases=Phrases(draw="{}", ask="{} ASSISTANT:", edit="{}", negative=NEGATIVE),
)
