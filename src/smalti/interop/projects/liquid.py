"""Liquid's files (FoundationVision/Liquid, commit 4609c47) and what they become here.

A model is a language model of transformers whose table has a row more for each code of a picture,
behind those of its text tokenizer: what is released is Gemma-7B. Three ids of the text tokenizer
that Gemma has no use for begin a picture, end it, and stand for no text. Pictures are coded by
Chameleon's tokenizer, `vqgan.ckpt`, which is not in the folder.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from smalti.config import read_json
from smalti.interop.language import DECODER, OTHER, config_of, fill, stored
from smalti.interop.pickles import Checkpoint
from smalti.interop.project import Part, Project, at_size, words_of
from smalti.interop.projects.chameleon import TOKENIZER
from smalti.interop.saved import Dtype, pair
from smalti.models.one_vocabulary import OneVocabulary, OneVocabularyConfig
from smalti.models.unified import Marks
from smalti.pipeline.conversation import Phrases
from smalti.pipeline.sampling import Sampling
from smalti.tokenizers.vqgan import VQGANConfig

USER, MODEL_TURN, OVER = "<start_of_turn>user\n", "<start_of_turn>model\n", "<end_of_turn>\n"
"""What stands around what each side says, as Gemma learned it."""


@dataclass(frozen=True)
class LiquidFiles:
    """A tokenizer and a model of Liquid; without --model, the tokenizer alone, Chameleon's.

    smalti convert liquid --tokenizer vqgan.ckpt --model Liquid_V1_7B/ --out liquid
    """

    tokenizer: Path
    """Checkpoint of the tokenizer of pictures: Chameleon's vqgan.ckpt."""
    model: Path | None = None
    """Folder of transformers."""
    words: Path | None = None
    """The text tokenizer, or its folder; default: tokenizer.json in the folder of the model."""
    size: str = "512"
    """Pixels of an image, 512 or height x width, 512x768."""
    dtype: Dtype = "stored"
    """Of the model's weights in the pipeline."""


def settings_file(path: Path) -> Path:
    """The config.json of a model."""
    return (path if path.is_dir() else path.parent) / "config.json"


def model_sizes(
    checkpoint: Checkpoint, options: LiquidFiles, codes: VQGANConfig
) -> OneVocabularyConfig:
    """The config of a model's folder, which draws codes of this tokenizer.

    Raises ValueError if its settings are missing or unknown, or its table has no rows for the codes
    behind those of the text tokenizer.
    """
    words, file = words_of(options), settings_file(checkpoint.path)
    told = read_json(file)
    language = config_of(told, str(file))
    if language.vocab < words.vocab + codes.vocab:
        raise ValueError(
            f"{file}: a table of {language.vocab} ids has no room for {codes.vocab} codes behind "
            f"{words.vocab} ids of text"
        )
    stops = [i for i in (words.stop, words.names.get(OVER.strip())) if i is not None]
    return OneVocabularyConfig(
        language,
        pair("--size", options.size, codes.factor),
        codes.vocab,
        words.vocab,
        begin=words.id("<boi>"),
        end=words.id("<eoi>"),
        learns_begin=False,
        marks=Marks(words.start, tuple(stops), words.pad, words.id("<unconditional>")),
        length=told.get("max_position_embeddings", 2048),
    )


def fill_model(model: OneVocabulary, path: Path) -> None:
    """Write the weights of a folder into a model."""
    kind = read_json(settings_file(path))["model_type"]
    fill(model.language, stored(path), kind, str(path))


DRAWN = Sampling.of(guidance=7.0, temperature=0.99, top_k=4096, top_p=0.96)
"""How the released script draws."""
MODEL = Part(
    title="a language model that draws",
    marks=DECODER,
    module=OneVocabulary,
    config=model_sizes,
    state=lambda state, *_: state,
    lacks=OTHER,
    fill=fill_model,
)

PROJECT = Project(
    options=LiquidFiles,
    tokenizer=TOKENIZER,
    alone=at_size,
    model=MODEL,
    sampling=lambda config: DRAWN,
    phrases=Phrases(
        draw="{} Generate an image based on this description.",
        caption="The caption of this image is:",
        ask=f"{USER}<image>\n{{}}{OVER}{MODEL_TURN}",
        edit="{}",
        say=f"{USER}{{}}{OVER}{MODEL_TURN}",
        reply=f"{{}}{OVER}",
        marks=("<start_of_turn>", "<end_of_turn>"),
        margin=(122, 116, 104),
    ),
)
