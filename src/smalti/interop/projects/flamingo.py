"""OpenFlamingo's released files (mlfoundations/open_flamingo, commit 655f693; names of
lucidrains/flamingo-pytorch, 10913ab) and what they become here.

A checkpoint.pt holds what was trained alone: the resampler, the gated layers, and the vectors of
all ids. All else is in the files of others: the language model and its text tokenizer in a folder
of transformers, the tower in that of a CLIP. Behind the ids of the text tokenizer come that of the
end of a text with its picture, that of a picture, and padding where there is none, unless the text
tokenizer names them. Gated layers have 8 heads, as all of that code.

A language model with a table of its own for logits has no trained rows for the ids that were added:
upstream writes them by rows at random, here by their vectors.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from smalti.interop.language import load_language
from smalti.interop.pickles import Checkpoint
from smalti.interop.project import Part, Project, at_size
from smalti.interop.saved import Dtype, dtype_of
from smalti.interop.tensor_shapes import count, shape
from smalti.interop.towers import load_released
from smalti.models.eye import Sight, TowerEyeConfig, taken
from smalti.models.flamingo import Flamingo, FlamingoConfig
from smalti.models.language import Language
from smalti.models.unified import Marks
from smalti.modules import assemble
from smalti.nn.perceiver import ResamplerConfig
from smalti.pipeline.conversation import Phrases, Writing
from smalti.pipeline.unified import UnifiedPipeline
from smalti.text.words import FILE, Words

NAME = "OpenFlamingo"
HEADS = 8
"""Of a resampler and of gated layers."""
STOP, PICTURE, PAD = "<|endofchunk|>", "<image>", "<PAD>"
"""Ids that were added."""


@dataclass(frozen=True)
class FlamingoFiles:
    """A model of OpenFlamingo with its language model and its CLIP; all three are needed.

    smalti convert flamingo --model checkpoint.pt --language llama-7b/ \\
        --eye clip-vit-large-patch14/ --out flamingo
    """

    model: Path
    """Checkpoint with what was trained: checkpoint.pt."""
    language: Path
    """Folder of transformers with the language model."""
    eye: Path
    """Folder of transformers with the CLIP whose tower it sees by."""
    words: Path | None = None
    """The text tokenizer, or its folder; default: tokenizer.json in that of the language model."""
    dtype: Dtype = "stored"
    """Of the model's weights in the pipeline; stored: that of the language model."""


# -- names

PARTS = {
    "norm_media": "features_norm",
    "norm_latents": "norm",
    "norm": "norm",
    "to_q": "attention.wq",
    "to_kv": "attention.wkv",
    "to_out": "attention.wo",
    "0": "feed_forward.norm",
    "1": "feed_forward.w1",
    "3": "feed_forward.w2",
}
"""Modules of attention, and of a feed-forward, there and ours."""
WHOLE = {
    "frame_embs": "frames",
    "media_time_embs": "pictures",
    "media_pos_emb": "pictures",
    "attn_gate": "attention_gate",
    "ff_gate": "ffn_gate",
}
"""Tensors there, of lucidrains' the third, and ours."""
LAYER = re.compile(r"(layers\.\d+\.|)(0|1|attn|ff)\.(\w+)\.(\w+)")
"""A tensor of a layer of a resampler, or of a gated layer."""


def renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a resampler, or of a gated layer, by our names. What is of something else
    keeps its name."""
    found = dict[str, Tensor]()
    for name, tensor in state.items():
        if (layer := LAYER.fullmatch(name)) and layer[3] in PARTS:
            name = f"{layer[1]}{PARTS[layer[3]]}.{layer[4]}"
        found[WHOLE.get(name, name)] = tensor
    return found


GATED = re.compile(
    r"(?:^|.*\.)(?:gated_cross_attn_layers\.(\d+)|\w+\.(\d+)\.gated_cross_attn_layer)\."
)
"""How the names of a gated layer begin, with the number of the layer that it stands before: in the
list of all such layers, or inside that layer."""
VECTORS = re.compile(r"\.(?:embed_tokens|wte|embed_in)\.weight$")
"""How the name of the vectors of ids ends, of any language model."""


def parts_of(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors by our names: of the resampler behind "resampler.", of gated layers behind the
    number of the layer that they stand before, and the vectors of ids, "vectors"."""
    found = dict[str, Tensor]()
    for name, tensor in state.items():
        if name.startswith("perceiver."):
            (ours,) = renamed({name.removeprefix("perceiver."): tensor})
            found[f"resampler.{ours}"] = tensor
        elif gated := GATED.match(name):
            (ours,) = renamed({name[gated.end() :]: tensor})
            found[f"{gated[1] or gated[2]}.{ours}"] = tensor
        elif VECTORS.search(name):
            found["vectors"] = tensor
        else:
            found[name] = tensor
    return found


# -- configurations


def sizes(checkpoint: Checkpoint, language: Language, words: Words, sight: Sight) -> FlamingoConfig:
    """The config of a checkpoint whose names are ours.

    Raises ValueError if tensors are not those of such a model, or of another language model or
    tower.
    """
    path, dim = checkpoint.path, language.config.dim
    latents, seen = shape(checkpoint, "resampler.latents", 2, NAME)
    layers = sorted({int(n.partition(".")[0]) for n in checkpoint.state if n[0].isdecimal()})
    every = layers[0] + 1
    if layers != list(range(every - 1, language.config.layers, every)):
        raise ValueError(
            f"{path} has gated layers before layers {layers}: those of a language model of "
            f"{language.config.layers} layers stand before each so manieth"
        )
    first = f"{layers[0]}."
    inner, width = shape(checkpoint, f"{first}attention.wq.weight", 2, NAME)
    if width != dim:
        raise ValueError(f"{path} is for a language model {width} wide, that given is {dim} wide")
    if seen != sight.spec.channels:
        raise ValueError(
            f"{path} is for a tower {seen} wide, that given is {sight.spec.channels} wide"
        )
    vectors, _ = shape(checkpoint, "vectors", 2, NAME)
    known, marks, picture = ids(checkpoint, language, words, vectors)
    return FlamingoConfig(
        replace(language.config, vocab=known),
        look_of(checkpoint, latents, seen),
        sight.spec.grids[0],
        every,
        HEADS,
        inner // HEADS,
        shape(checkpoint, f"{first}feed_forward.w1.weight", 2, NAME)[0] // dim,
        added=vectors - known,
        picture=picture,
        marks=marks,
    )


def look_of(checkpoint: Checkpoint, latents: int, seen: int) -> ResamplerConfig:
    """The config of its resampler, of so many latents and of so wide a tower."""
    layer, tables = "resampler.layers.0.", {"pictures": 3, "frames": 2}
    inner, _ = shape(checkpoint, f"{layer}attention.wq.weight", 2, NAME)
    hidden, _ = shape(checkpoint, f"{layer}feed_forward.w1.weight", 2, NAME)
    told = {
        name: shape(checkpoint, f"resampler.{name}", axes, NAME)[0]
        for name, axes in tables.items()
        if f"resampler.{name}" in checkpoint.state
    }
    layers, width = count(checkpoint, "resampler.layers."), inner // HEADS
    return ResamplerConfig(seen, layers, HEADS, width, latents, hidden // seen, **told)


def ids(
    checkpoint: Checkpoint, language: Language, words: Words, vectors: int
) -> tuple[int, Marks, int]:
    """How many ids the language model knows, those that stand for no text, and that of a picture,
    of so many in all."""
    stop, picture = (words.names.get(n, words.vocab + i) for i, n in enumerate((STOP, PICTURE)))
    known = min(stop, picture)
    if known > min(language.config.vocab, vectors - 2):
        raise ValueError(
            f"{checkpoint.path} has vectors of {vectors} ids and the language model of "
            f"{language.config.vocab}, but the text tokenizer has {known} beside those that were "
            "added"
        )
    stops = (stop,) if words.stop is None else (stop, words.stop)
    pad = words.names.get(PAD, min(known + 2, vectors - 1))
    return known, Marks(words.start, stops, pad), picture


def state_of(
    state: Mapping[str, Tensor], language: Language, config: FlamingoConfig
) -> dict[str, Tensor]:
    """The model's tensors, of those of a checkpoint by our names and of the language model, of
    which rows of ids that no text has are left out."""
    known, every = config.language.vocab, config.every
    found = {f"language.{name}": t for name, t in language.state_dict().items()}
    kind = language.tok_embeddings.weight.dtype
    for name in [n for n in found if n.startswith("language.output.")]:
        found[name] = found[name][:known]
    for name, tensor in state.items():
        tensor, number = tensor.to(kind), name.partition(".")[0]
        if name == "vectors":
            found["language.tok_embeddings.weight"] = tensor[:known]
            found["added.weight"] = tensor[known:]
        elif number.isdecimal():
            found[f"layers.{int(number) // every}{name.removeprefix(number)}"] = tensor
        else:
            found[name] = tensor
    return found


# -- the record

MODEL = Part(
    title="what was trained of an OpenFlamingo",
    marks=("perceiver.latents", "perceiver.layers.0.0.to_q.", "lang_encoder."),
    module=Flamingo,
    config=sizes,
    state=lambda state, *_: state,
)


def pipeline_of(trained: Checkpoint, options: FlamingoFiles) -> UnifiedPipeline:
    """The pipeline of what was trained, a language model and a tower."""
    checkpoint = trained._replace(state=parts_of(trained.state))
    if options.words is None and not (options.language / FILE).is_file():
        raise ValueError(
            f"{options.language} has no {FILE}: give --words, a text tokenizer or its folder"
        )
    words = Words.open(options.words or options.language)
    language = load_language(options.language, dtype_of(options.dtype))
    towers = load_released(options.eye).towers
    eye = taken(towers, TowerEyeConfig.of(towers.config))
    config = sizes(checkpoint, language, words, eye.sight)
    state = state_of(checkpoint.state, language, config)
    model = assemble(Flamingo, config, state, str(options.model), None)
    phrases, writing = PHRASES, Writing(words=30)
    return UnifiedPipeline(None, model, words, None, writing, phrases, eye=eye)


PHRASES = Phrases(caption="<image>Output:", ask="<image>Question:{} Short answer:")
"""How the released evaluation speaks to it, as remembered."""
PROJECT = Project(
    options=FlamingoFiles,
    tokenizer=None,
    alone=at_size,
    model=MODEL,
    whole=pipeline_of,
    files=("model", "language", "eye"),
)
