"""ILLUME+'s files (illume-unified-mllm/ILLUME_plus, commit 51de69d) and what they become here.

A model is a folder of transformers with a Qwen2.5, whose table has rows more for its own ids,
behind those that fill it up; it also holds its own ViT and encoder of pixels, which read pictures
(`models/dual_eye.py`), and a projector of two layers for each. How these are called is not known
for sure: they are found by `vision_tower` and `mm_projector`, and projectors by their widths.

The tokenizer's file, DualViTok's (`interop/dualvitok.py`), holds the frozen ViT too, that of
Qwen2-VL.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from smalti.config import read_json
from smalti.interop.dualvitok import VIT, convolutions, tokenizer_sizes, tokenizer_state, vit
from smalti.interop.language import DECODER, OTHER, config_of, fill, stored
from smalti.interop.pickles import Checkpoint, read_checkpoint
from smalti.interop.project import Part, Project, words_of
from smalti.interop.saved import Dtype, pair
from smalti.models.dual_eye import DualEye, DualEyeConfig
from smalti.models.illume import Illume, IllumeConfig
from smalti.models.unified import Marks
from smalti.nn.finite import require_finite_weights
from smalti.pipeline.conversation import Mark, Phrases
from smalti.pipeline.sampling import Sampling
from smalti.text.words import Words
from smalti.tokenizers.dual import DualConfig, DualTokenizer


@dataclass(frozen=True)
class IllumeFiles:
    """A tokenizer, DualViTok, and a model of ILLUME+; without --model, the tokenizer alone.

    smalti convert illume --tokenizer dualvitok.pth --model ILLUME_plus-qwen2_5-3b/ --size 512 \\
        --out illume
    """

    tokenizer: Path
    """Checkpoint of the tokenizer of pictures."""
    model: Path | None = None
    """Folder of transformers."""
    words: Path | None = None
    """The text tokenizer, or its folder; default: tokenizer.json in the folder of the model."""
    size: str = "256"
    """Pixels of an image, 256 or height x width, 384x512; of a model multiples of 64, up to
    1024."""
    dtype: Dtype = "stored"
    """Of the model's weights in the pipeline."""


# -- the model

OWN = re.compile(r"^(?:model\.)?(vision_tower|mm_projector)\.")
"""What a model's files hold beside the language model."""
CODE = "<|image_level{}_{}|>"
"""The word for a code of a level."""
BEGIN, END, LINE = "<start_of_image>", "<end_of_image>", "<end_of_line>"
USER, MODEL_TURN, OVER = "<|im_start|>user\n", "<|im_start|>assistant\n", "<|im_end|>\n"
"""What stands around what each side says, as Qwen2.5 learned it."""
SYSTEM = f"<|im_start|>system\nYou are a helpful assistant.{OVER}"


def read_model(path: Path, weights: str, inside: str) -> Checkpoint:
    """A model's folder, whose own parts are called as those of the tokenizer are."""
    found, state = read_checkpoint(path, weights, inside), dict[str, Tensor]()
    bare = not any(f"vision_tower.{VIT}" in name for name in found.state)
    for name, tensor in found.state.items():
        name = found.prefix + name
        own = OWN.match(name)
        if own and own[1] == "vision_tower":
            name = name[own.end() :]
            name = re.sub(r"^semantic_encoder\.", VIT, name) if bare else name
        elif own:
            name = name[own.start(1) :]
        state[name] = tensor
    return found._replace(state=state, prefix="")


def projectors(state: Mapping[str, Tensor], widths: Sequence[int]) -> list[dict[str, Tensor]]:
    """Both layers of the projector of each level, by our names, found by how many numbers each of
    them reads.

    Raises ValueError if they are not of two layers each, or of other numbers.
    """
    groups = dict[str, dict[int, dict[str, Tensor]]]()
    for name, tensor in state.items():
        if name.startswith("mm_projector."):
            group, number, kind = name.rsplit(".", 2)
            groups.setdefault(group, {}).setdefault(int(number), {})[kind] = tensor
    found = dict[int, dict[str, Tensor]]()
    for group, layers in sorted(groups.items(), reverse=True):
        if len(layers) != 2:
            raise ValueError(f"{group} must have two layers, got {len(layers)}")
        pairs = zip((0, 2), (layers[i] for i in sorted(layers)), strict=True)
        mine = {f"{i}.{kind}": t for i, layer in pairs for kind, t in layer.items()}
        found[mine["0.weight"].shape[1]] = mine
    if found.keys() != set(widths):
        read = ", ".join(map(str, sorted(found, reverse=True))) or "none"
        raise ValueError(
            f"projectors must read {' and '.join(map(str, widths))} numbers, got {read}"
        )
    return [found[width] for width in widths]


def eye_sizes(checkpoint: Checkpoint, options: IllumeFiles) -> DualEyeConfig:
    """The config of the eye in a model's folder."""
    encoder = convolutions(checkpoint, "pixel_encoder.", "down")
    height, width = pair("--size", options.size, encoder.factor)
    size = (height * encoder.factor, width * encoder.factor)
    return DualEyeConfig(size, vit(checkpoint, VIT), encoder)


def eye_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of the eye."""
    theirs = {n: t for n, t in state.items() if n.startswith((VIT, "pixel_encoder."))}
    return tokenizer_state(theirs)


def settings(path: Path) -> tuple[dict[str, Any], str]:
    """The settings of a model and where they are."""
    file = (path if path.is_dir() else path.parent) / "config.json"
    return read_json(file), str(file)


def model_sizes(checkpoint: Checkpoint, options: IllumeFiles, codes: DualConfig) -> IllumeConfig:
    """The config of a model's folder, which draws codes of this tokenizer.

    Raises ValueError if its settings are missing or unknown, its text tokenizer has no words for
    codes or sizes, or its projectors are of another eye.
    """
    (told, where), words = settings(checkpoint.path), words_of(options)
    language = config_of(told | {"model_type": "qwen2"}, where)
    spec = at_pixels(codes, checkpoint, options).spec
    first, last = (
        words.id("<|image_level0_0|>"),
        words.id(f"<|image_level1_{codes.pixel_vocab - 1}|>"),
    )
    if last - first != spec.vocab - 1:
        raise ValueError(f"{where}: words of {spec.vocab} codes lie from id {first} to {last}")
    eye = eye_sizes(checkpoint, options)
    seen = (eye.vit.features, eye.encoder.latent)
    projectors(checkpoint.state, seen)
    levels = [(words.id(f"<start_of_level{k}>"), words.id(f"<end_of_level{k}>")) for k in (0, 1)]
    height, width = at_pixels(codes, checkpoint, options).size
    phrases = phrases_of(options)
    return IllumeConfig(
        language,
        spec.grids[1],
        spec.vocab,
        first,
        begin=(begin := words.id(BEGIN)),
        end=words.id(END),
        marks=Marks(words.start, (words.id("<|im_end|>"), words.id("<|endoftext|>")),
                    words.id("<|endoftext|>")),
        reserved=((begin, first - 1),),
        length=told.get("max_position_embeddings", 32_768),
        semantic=spec.grids[0],
        semantic_codes=spec.tables[0],
        line=words.id(LINE),
        levels=tuple(levels),
        sides=(words.id(f"<height_{height}>"), words.id(f"<width_{width}>")),
        random=ids_of(phrases, words, f"Generate a random image of {size_of(options)}\n"),
        restore=ids_of(phrases, words, "Reconstruct the image according to the given image\n"),
        seen=seen,
        seen_grids=eye.sight.spec.grids,
    )  # fmt: skip


def fill_model(model: Illume, path: Path) -> None:
    """Write the weights of a folder into a model, shard by shard."""
    own = dict[str, Tensor]()

    def rest() -> Iterator[tuple[str, Tensor]]:
        for name, tensor in stored(path):
            if not (part := OWN.match(name)):
                yield name, tensor
            elif part[1] == "mm_projector":
                own[name[part.start(1) :]] = tensor

    fill(model.language, rest(), "qwen2", str(path))
    for layers, projector in zip(projectors(own, model.widths), model.projectors, strict=True):
        require_finite_weights(layers, str(path))
        projector.load_state_dict(layers)


# -- what is said


def size_of(options: IllumeFiles) -> str:
    """How a size is said in a text."""
    height, width = pair("--size", options.size, 64)
    return f"<height_{64 * height}><width_{64 * width}>"


def ids_of(phrases: Phrases, words: Words, text: str) -> tuple[int, ...]:
    """The ids of what a user says, and of what a reply begins with."""
    found = list[int]()
    for piece in phrases.put(asked(text)):
        found += [words.id(piece)] if isinstance(piece, Mark) else words.read(str(piece))
    return tuple(found)


def asked(text: str) -> str:
    """What a user says first, and what a reply begins with."""
    return f"{SYSTEM}{USER}{text}{OVER}{MODEL_TURN}"


def phrases_of(options: IllumeFiles) -> Phrases:
    """What the model was taught with."""
    edit = "<image>\nPlease edit the image according to the instruction: {}\n"
    return Phrases(
        draw=asked(f"Generate an image of {size_of(options)}, the content of the image is {{}}\n"),
        caption=asked("<image>\nDescribe the image.\n"),
        ask=asked("<image>\n{}"),
        edit=asked(edit),
        say=f"{USER}{{}}{OVER}{MODEL_TURN}",
        reply=f"{{}}{OVER}",
        marks=("<|im_start|>", "<|im_end|>", *re.findall("<.*?>", size_of(options))),
    )


# -- the record


def size_from(codes: DualConfig, config: IllumeConfig) -> tuple[int, int]:
    """The size in pixels of pictures of a model's last level."""
    height, width = config.grid
    return height * codes.decoder.factor, width * codes.decoder.factor


def at_pixels(codes: DualConfig, checkpoint: Checkpoint, options: Any) -> DualConfig:
    """A tokenizer's configuration for images of the option --size."""
    unit = codes.decoder.factor
    height, width = pair("--size", options.size, unit)
    return replace(codes, size=(height * unit, width * unit))


TOKENIZER = Part(
    title="a tokenizer of ILLUME+",
    marks=("semantic_quantizer.frozen_codebook", "pixel_quantizer.", "pixel_post_quant_conv."),
    module=DualTokenizer,
    config=lambda checkpoint, options: tokenizer_sizes(checkpoint),
    state=lambda state, *_: tokenizer_state(state),
)

MODEL = Part(
    title="a model of ILLUME+",
    marks=(*DECODER, "mm_projector.", "pixel_encoder."),
    lacks=OTHER,
    module=Illume,
    config=model_sizes,
    state=lambda state, *_: state,
    read=read_model,
    fill=fill_model,
)
EYE = Part(
    title="an eye of ILLUME+",
    marks=(VIT, "pixel_encoder."),
    module=DualEye,
    config=eye_sizes,
    state=lambda state, *_: eye_state(state),
    read=read_model,
)
DRAWN = Sampling.of(guidance=2.0, top_k=(2048, 6144))
"""How the released script draws."""

PROJECT = Project(
    options=IllumeFiles,
    tokenizer=TOKENIZER,
    alone=at_pixels,
    model=MODEL,
    eye=EYE,
    fit=lambda codes, config: replace(codes, size=size_from(codes, config)),
    sampling=lambda config: DRAWN,
    phrases=phrases_of,
)
