"""Chameleon's files, and Anole's, which are of the same kind (facebookresearch/chameleon, commit
dbbe47f; transformers 5.24.0).

The tokenizer of pictures is a VQGAN of taming-transformers, whose file is `vqgan.ckpt`; Anole,
Lumina-mGPT and Liquid read and write pictures by the same one. Unlike an IBQ's, whose tensors have
the same names, its codes are the nearest rows of the table.

A model is a folder of transformers, in shards, or Meta's `consolidated.pth` with params.json beside
it, of the large model a file for each of four processes (`interop/consolidated.py`). Folders of
transformers hold the tokenizer of pictures without its decoder, so that `vqgan.ckpt` is needed
either way. Which id is which code, names of the text tokenizer say: IMGIMGBCZ is code 12.

On the hub, facebook/chameleon-7b and -30b are gated: they are given to who asks, and have to be
downloaded by hand, as Meta's files are. They were published without the ability to draw; Anole,
which learned that anew, is free.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smalti.config import read_json
from smalti.interop import consolidated
from smalti.interop.language import config_of, fill, stored
from smalti.interop.pickles import Checkpoint, read_checkpoint
from smalti.interop.project import Part, Project, at_size, words_of
from smalti.interop.projects.var import vae_state
from smalti.interop.saved import Dtype, Repository, pair
from smalti.interop.taming import VQGAN_MARKS, convolutions
from smalti.interop.tensor_shapes import shape
from smalti.models.one_vocabulary import OneVocabulary, OneVocabularyConfig
from smalti.models.unified import Marks
from smalti.pipeline.conversation import Phrases, Writing
from smalti.pipeline.sampling import Sampling
from smalti.tokenizers.vqgan import VQGAN, VQGANConfig

NAME = "Chameleon"
CODE, LETTERS = "IMGIMG", str.maketrans("ABCDEFGHIJ", "0123456789")
"""How the name of a code's id begins; letters that spell its number, before a Z."""
BEGIN, END, TURN = "<racm3:break>", "<eoss>", "<reserved08706>"
"""Before and after a picture; behind what one side says."""
START, STOP, PAD = "<s>", "</s>", "<pad>"
MARKS = (BEGIN, END, TURN, START, STOP, PAD)


@dataclass(frozen=True)
class ChameleonFiles:
    """A tokenizer and a model of Chameleon or Anole; without --model, the tokenizer alone, which is
    Liquid's too.

    smalti convert chameleon --tokenizer vqgan.ckpt --model chameleon-7b/ --out chameleon
    smalti convert chameleon --tokenizer tokenizer/vqgan.ckpt --model models/7b/ \\
        --words tokenizer/text_tokenizer.json --out chameleon
    """

    tokenizer: Path
    """Checkpoint of the tokenizer of pictures: vqgan.ckpt."""
    model: Path | None = None
    """Folder of transformers, or Meta's consolidated.pth or its folder."""
    words: Path | None = None
    """The text tokenizer, or its folder; default: tokenizer.json in the folder of the model."""
    size: str = "512"
    """Pixels of an image, 512 or height x width, 512x768."""
    dtype: Dtype = "stored"
    """Of the model's weights in the pipeline."""


# -- configurations


def tokenizer_sizes(checkpoint: Checkpoint) -> VQGANConfig:
    """The config of a tokenizer's checkpoint, for images of a single code.

    Raises ValueError if the tensors are not those of such a tokenizer.
    """
    vocab, dim = shape(checkpoint, "quantize.embedding.weight", 2, NAME)
    shape(checkpoint, "encoder.mid.attn_1.q.weight", 4, NAME)
    if "decoder.conv_in.weight" not in checkpoint.state:
        raise ValueError(
            f"{checkpoint.path} holds the tokenizer of pictures without its decoder, as folders of "
            "transformers do: give --tokenizer vqgan.ckpt, which Meta and Anole publish"
        )
    sizes = convolutions(checkpoint, NAME)
    return VQGANConfig(vocab=vocab, dim=dim, l2_norm=False, deep_attention=False, **sizes)


def model_sizes(
    checkpoint: Checkpoint, options: ChameleonFiles, codes: VQGANConfig
) -> OneVocabularyConfig:
    """The config of a model's checkpoint, which draws codes of this tokenizer.

    Raises ValueError if its settings are missing or unknown, or its ids are not those of the text
    tokenizer.
    """
    words, path = words_of(options), checkpoint.path
    told, where = settings(path)
    language = config_of(told, where)
    names = words.names
    for name, id in told.get("vocabulary_map", {}).items():
        if (name.startswith(CODE) or name in MARKS) and names.get(name) != id:
            raise ValueError(
                f"{where}: {name} is id {id} there, and {names.get(name)} in the text tokenizer"
            )
    order, first = code_ids(names, where)
    if len(order) != codes.vocab:
        raise ValueError(
            f"{path} draws one of {len(order)} codes; the tokenizer of pictures has {codes.vocab}"
        )
    stops = (words.id(STOP), words.id(TURN))
    return OneVocabularyConfig(
        language,
        pair("--size", options.size, codes.factor),
        codes.vocab,
        first,
        () if order == tuple(range(len(order))) else order,
        begin=words.id(BEGIN),
        end=words.id(END),
        marks=Marks(words.id(START), stops, words.id(PAD)),
        reserved=ranges(i for name, i in names.items() if name[0] == "<" and name != "<"),
        length=told.get("max_position_embeddings", 4096),
    )


def settings(path: Path) -> tuple[dict[str, Any], str]:
    """The settings of a model, by the names of transformers, and where they are."""
    if consolidated.is_one(path):
        return {"model_type": "chameleon", **consolidated.settings(path)}, str(path)
    file = (path if path.is_dir() else path.parent) / "config.json"
    told = read_json(file)
    if told.get("model_type") != "chameleon":
        raise ValueError(f"{file}: model_type must be chameleon, got {told.get('model_type')!r}")
    return told, str(file)


def code_ids(names: Mapping[str, int], where: str) -> tuple[tuple[int, ...], int]:
    """The code of each id that stands for one, in the order of the ids, and the first of these.

    Raises ValueError if there are none, or if other ids are between them.
    """
    found = {i: name.removeprefix(CODE)[:-1].translate(LETTERS) for name, i in names.items()
             if name.startswith(CODE)}  # fmt: skip
    ids = sorted(found)
    if not ids or ids[-1] - ids[0] != len(ids) - 1 or not all(map(str.isdigit, found.values())):
        raise ValueError(
            f"{where}: the text tokenizer must have names of codes, {CODE}AZ, {CODE}BZ and so on, "
            f"one after another, it has {len(ids)}"
        )
    return tuple(int(found[i]) for i in ids), ids[0]


def ranges(ids: Iterable[int]) -> tuple[tuple[int, int], ...]:
    """Numbers as ranges, the first and the last of each."""
    found = list[tuple[int, int]]()
    for i in sorted(ids):
        if found and found[-1][1] == i - 1:
            found[-1] = (found[-1][0], i)
        else:
            found.append((i, i))
    return tuple(found)


# -- weights


def read_model(path: Path, weights: str, inside: str) -> Checkpoint:
    """A model's file or folder, with the names of transformers."""
    if consolidated.is_one(path):
        return consolidated.first(path)
    return read_checkpoint(path, weights, inside)


def fill_model(model: OneVocabulary, path: Path) -> None:
    """Write the weights of a file or folder into a model."""
    one = consolidated.is_one(path)
    tensors = consolidated.tensors(path, model.config.language) if one else stored(path)
    fill(model.language, tensors, "chameleon", str(path))


# -- the record

DRAWN = Sampling.of(guidance=3.0, guidance_pictures=1.2, temperature=0.7, top_p=0.9)
WRITTEN = Writing(text_temperature=0.7, text_top_p=0.9, penalty=1.2)
"""How Meta's code draws and writes."""
TOKENIZER = Part(
    title="a tokenizer of Chameleon",
    marks=VQGAN_MARKS,
    module=VQGAN,
    config=lambda checkpoint, options: tokenizer_sizes(checkpoint),
    state=lambda state, *_: {
        name: tensor for name, tensor in vae_state(state).items() if not name.startswith("loss.")
    },
)

MODEL = Part(
    title="a model of Chameleon",
    marks=("model.embed_tokens.", "model.layers.0.self_attn.q_norm.", "lm_head."),
    module=OneVocabulary,
    config=model_sizes,
    state=lambda state, *_: state,
    read=read_model,
    fill=fill_model,
)

PROJECT = Project(
    options=ChameleonFiles,
    tokenizer=TOKENIZER,
    alone=at_size,
    model=MODEL,
    sampling=lambda config: DRAWN,
    phrases=Phrases(
        draw=f"{{}}{TURN}",
        caption=f"Describe this image.{TURN}",
        ask=f"{{}}{TURN}",
        edit=f"{{}}{TURN}",
        say=f"{{}}{TURN}",
        reply=f"{{}}{TURN}",
        marks=(TURN,),
    ),
    writing=WRITTEN,
    repositories={
        "GAIR/Anole-7b-v0.1": Repository(
            ("tokenizer/vqgan.ckpt",), ("models/7b",), words="tokenizer/text_tokenizer.json"
        ),
    },
)
