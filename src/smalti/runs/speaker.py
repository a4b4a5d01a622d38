"""Language models alone, with their text tokenizers, for runs that begin from one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch

from smalti import modules
from smalti.config import read_json
from smalti.devices.named import named_device
from smalti.files import expand
from smalti.interop import language as released
from smalti.loading import (
    is_unified,
    released_folder,
    require_words,
    save_with_words,
    within,
)
from smalti.models.language import Language
from smalti.models.llm2clip import Sentences, SentencesConfig
from smalti.modules import FILES, assemble, load_module
from smalti.text.words import FOLDER, Words


class Speaker(NamedTuple):
    """A language model with the text tokenizer whose ids it knows."""

    module: Any
    """A `Language`, or one that makes a vector of a text, `Sentences`."""
    words: Words
    info: Mapping[str, Any] = MappingProxyType({})
    """What its folder says of it."""

    @property
    def writer(self) -> Language:
        """The language model, to write. Raises ValueError for one that makes vectors of texts."""
        if modules.name_of(self.module) == "sentences":
            raise ValueError(
                "the language model makes vectors of texts and writes none: take the one that it "
                "was made of"
            )
        return self.module

    @property
    def reader(self) -> Any:
        """The language model, `Sentences`; one that writes as such a one."""
        if modules.name_of(self.module) == "sentences":
            return self.module
        config = SentencesConfig(self.module.config, pad=self.words.pad)
        state = {f"language.{name}": t for name, t in self.module.state_dict().items()}
        return assemble(Sentences, config, state, "the language model")


def load_language(
    path: str | Path, device: torch.device | str | int | None = None, verify: bool = True
) -> Speaker:
    """Load a language model with its text tokenizer, in float32: a folder that training wrote, that
    of a pipeline of text and pictures, whose is taken, one of transformers, or the hub id of such.

    Arguments are those of `load`. Raises ValueError if there is none, or if the text tokenizer is
    not the one that it learned.
    """
    place, folder = named_device(device), expand(path)
    if not folder.is_dir():
        folder = released_folder(str(path))
    if is_unified(folder):
        model, info = load_module(folder / "model", modules.UNIFIED, place, verify=verify)
        found = dict(model.named_children()).get("language")
        if found is None:
            raise ValueError(f"{folder} has no language model that can be taken alone")
        return Speaker(found, Words.open(folder / FOLDER), info)
    file = folder / FILES[0]
    if not file.is_file():
        raise ValueError(f"{folder} holds no language model: it has no {FILES[0]}{within(folder)}")
    if "model_type" in read_json(file):
        language = released.load_language(folder, torch.float32).to(place)
        return Speaker(language, Words.open(folder))
    module, info = load_module(folder, modules.LANGUAGES, place, verify=verify)
    words = Words.open(folder / FOLDER)
    require_words(folder, info, words, "language model was")
    return Speaker(module, words, info)


def save_language(speaker: Speaker, folder: str | Path, **extra: Any) -> str:
    """Write a language model with its text tokenizer, as `save_towers` writes towers."""
    return save_with_words(speaker.module, speaker.words, folder, speaker.info, extra)
