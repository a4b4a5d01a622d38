"""A text tokenizer that reads and writes: texts to ids, and ids to texts.

Files are those of Hugging Face's `tokenizers` library, as released language models have them. One
that is trained here is byte-level BPE (Sennrich et al. 2015, arXiv:1508.07909): any text comes back
exactly as it was. Marks, such as the end of a document, are no text: a user's "</s>" is read as
four letters.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from smalti.config import did_you_mean, no_such
from smalti.files import check_folder, expand, filling, write_json
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

FILE = "tokenizer.json"
MARKS = ("<s>", "</s>", "<pad>")
"""Begin and end of a document, and padding, of a tokenizer that is trained here."""
STARTS, STOPS = ("<s>", "<bos>", "<|begin_of_text|>"), ("</s>", "<eos>", "<|end_of_text|>")
PADS = ("<pad>", "<|finetune_right_pad_id|>", "<|endoftext|>")
"""What released tokenizers call these."""
BROKEN = "\ufffd"
"""What stands for bytes that are no whole character."""


class Words:
    """Texts to ids and back. See `open` and `train`."""

    def __init__(self, text: str) -> None:
        """Take the text of a tokenizer.json. Raises ValueError if it is none."""
        try:
            self._tokenizer = Tokenizer.from_str(text)
        except Exception as error:  # the library raises no narrower one
            raise ValueError(f"it is no text tokenizer: {error}") from None
        self._tokenizer.encode_special_tokens = True  # what a user types is text
        self._json: dict[str, Any] = json.loads(text)
        self.vocab: int = self._tokenizer.get_vocab_size(with_added_tokens=True)
        """Ids there are."""

    @staticmethod
    def open(path: str | Path) -> Words:
        """Read a tokenizer.json, or that of a folder.

        Raises ValueError naming the file if it is missing or something else.
        """
        path = expand(path)
        file = path / FILE if path.is_dir() else path
        if not file.is_file():
            raise ValueError(f"{path} holds no text tokenizer: {no_such(file)}")
        try:
            return Words(file.read_text(encoding="utf-8"))
        except (ValueError, UnicodeDecodeError) as error:
            raise ValueError(f"{file}: {error}") from None

    @staticmethod
    def train(texts: Iterable[str], vocab: int) -> Words:
        """A byte-level BPE of so many ids, of which 256 are bytes and three are marks.

        The same texts give the same tokenizer. Raises ValueError if there are no texts or ids.
        """
        least = 256 + len(MARKS)
        if vocab < least:
            raise ValueError(
                f"vocab must be at least {least}, for all bytes and {len(MARKS)} marks, got {vocab}"
            )
        texts = [text for text in texts if text]
        if not texts:
            raise ValueError("there are no texts to learn from")
        made = Tokenizer(models.BPE())
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab,
            special_tokens=list(MARKS),
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        made.train_from_iterator(texts, trainer)
        return Words(made.to_str())

    def read(self, text: str) -> list[int]:
        """The ids of a text, without any mark."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def write(self, ids: Sequence[int], whole: bool = True) -> str:
        """The text of ids, without marks; ids that it does not know are left out. If it is not the
        `whole` text, the beginning of a character at its end is held back."""
        known = [i for i in ids if i < self.vocab]
        text = self._tokenizer.decode(known, skip_special_tokens=True)
        return text if whole else text.rstrip(BROKEN)

    def id(self, token: str) -> int:
        """The id of a token. Raises ValueError if there is none."""
        found = self._tokenizer.token_to_id(token)
        if found is None:
            near = did_you_mean(token, self._tokenizer.get_vocab())
            raise ValueError(f"the text tokenizer has no {token!r}{near}")
        return found

    @cached_property
    def names(self) -> dict[str, int]:
        """All tokens, as they are written in the file, and their ids."""
        return self._tokenizer.get_vocab(with_added_tokens=True)

    @cached_property
    def specials(self) -> dict[str, int]:
        """Marks and their ids."""
        added = self._tokenizer.get_added_tokens_decoder().items()
        return {token.content: i for i, token in added if token.special}

    @cached_property
    def written(self) -> Tensor:
        """Which ids are text, (V,) bool."""
        written = torch.ones(self.vocab, dtype=torch.bool)
        written[list(self.specials.values())] = False
        return written

    @property
    def start(self) -> int | None:
        """The id before a document, if there is one."""
        return self._first(STARTS)

    @property
    def stop(self) -> int | None:
        """The id behind a document, if there is one."""
        return self._first(STOPS)

    @property
    def pad(self) -> int:
        """The id of padding; 0 if there is none."""
        return self._first(PADS) or 0

    def _first(self, names: Sequence[str]) -> int | None:
        return next((self.specials[name] for name in names if name in self.specials), None)

    def fingerprint(self) -> str:
        """16 hex digits over what the file says."""
        plain = json.dumps(self._json, sort_keys=True, ensure_ascii=True)
        return hashlib.sha256(plain.encode()).hexdigest()[:16]

    def save(self, folder: Path) -> None:
        """Write tokenizer.json into a new or empty folder, or one of a text tokenizer. Raises
        ValueError naming what is there for any other."""
        check_folder(folder, FILE, ("model",), "a text tokenizer")
        with filling(folder) as temporary:
            write_json(temporary / FILE, self._json)
