"""A text tokenizer that reads and writes: texts to ids, and ids to texts.

Files are those of Hugging Face's `tokenizers` library, as released language models have them. One
that is trained here is byte-level BPE (Sennrich et al. 2015, arXiv:1508.07909): any text comes back
exactly as it was. Marks, such as the end of a document, are no text: a user's "</s>" is read as
four letters.

Unusual: some released tokenizers put a blank before the first word of a document, and leave it out
when they write one. So it makes a difference whether a text begins its document or stands behind
something else, such as a picture: `begins` of `read` and `write`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from smalti.config import did_you_mean, no_such
from smalti.files import check_folder, expand, filling, write_json
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

FILE, FOLDER = "tokenizer.json", "words"
"""The file, and the folder that it has in that of a run or a pipeline."""
MARKS = ("<s>", "</s>", "<pad>")
"""Begin and end of a document, and padding, of a tokenizer that is trained here."""
STARTS = ("<s>", "<bos>", "<|begin_of_text|>", "<|startoftext|>", "<｜begin▁of▁sentence｜>")
STOPS = ("</s>", "<eos>", "<|end_of_text|>", "<|endoftext|>", "<｜end▁of▁sentence｜>")
PADS = ("<pad>", "<|finetune_right_pad_id|>", "<|endoftext|>", "<｜▁pad▁｜>")
"""What released tokenizers call these."""
BROKEN = "\ufffd"
"""What stands for bytes that are no whole character."""
BYTE = re.compile("<0x[0-9A-F]{2}>")
"""A token that is one byte of a character, in tokenizers that fall back to bytes."""


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
        self.vocab = max(self.names.values(), default=-1) + 1
        """Ids there are: the last one, plus one."""
        if not self.vocab:
            raise ValueError("it is a text tokenizer of no ids")

    @staticmethod
    def open(path: str | Path) -> Words:
        """Read a tokenizer.json, or that of a folder; of a run or a pipeline that in `words`.

        Raises ValueError naming the file if it is missing or something else.
        """
        path = expand(path)
        places = (path, path / FILE, path / FOLDER / FILE)
        file = next((place for place in places if place.is_file()), None)
        if file is None:
            missing = path / FILE if path.is_dir() else path
            raise ValueError(f"{path} holds no text tokenizer: {no_such(missing)}")
        try:
            return Words(file.read_text(encoding="utf-8"))
        except (ValueError, UnicodeDecodeError) as error:
            raise ValueError(f"{file}: {error}") from None

    @staticmethod
    def train(texts: Iterable[str], vocab: int) -> Words:
        """A byte-level BPE of so many ids, or of as many as the texts give, of which 256 are bytes
        and three are marks. What looks like a mark in a text is no part of any id.

        The same texts give the same tokenizer. Raises ValueError if there are no texts, or fewer
        ids than bytes and marks.
        """
        least = 256 + len(MARKS)
        if vocab < least:
            raise ValueError(
                f"vocab must be at least {least}, for all bytes and {len(MARKS)} marks, got {vocab}"
            )
        looks = re.compile("|".join(map(re.escape, MARKS)))
        texts = [part for text in texts for part in looks.split(_whole(text)) if part]
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

    def read(self, text: str, begins: bool = True) -> list[int]:
        """The ids of a text, without any mark; `begins` says that it is the first of its document.

        Raises ValueError for half a character, which no file of text has, and for a mark where a
        tokenizer knows no other way to read it.
        """
        tokenizer = self._tokenizer if begins else self._behind
        ids = tokenizer.encode(_whole(text), add_special_tokens=False).ids
        for name in (STARTS, STOPS, PADS):
            if (mark := self._first(name)) is not None and mark in ids:
                raise ValueError(
                    f"the text has {self._tokenizer.id_to_token(mark)!r}, which this text "
                    "tokenizer reads as a mark alone"
                )
        return ids

    @cached_property
    def _behind(self) -> Tokenizer:
        """What reads texts that do not begin a document: no blank is put before those, unless it is
        put before every piece."""
        first, never = '"prepend_scheme": "first"', '"prepend_scheme": "never"'
        text = json.dumps(self._json)
        if first not in text:
            return self._tokenizer
        behind = Tokenizer.from_str(text.replace(first, never))
        behind.encode_special_tokens = True
        return behind

    def write(self, ids: Sequence[int], whole: bool = True, begins: bool = True) -> str:
        """The text of ids, without marks; ids that it does not know are left out. If it is not the
        `whole` text, the beginning of a character at its end is held back. Where it does not begin
        its document (`begins`), a blank before its first word stays."""
        marks = set(self.specials.values())
        known = [i for i in ids if 0 <= i < self.vocab and i not in marks]
        if not whole:  # bytes in a row are broken together, also those that were whole before
            while known and BYTE.fullmatch(self._tokenizer.id_to_token(known[-1]) or ""):
                known.pop()
        text = self._decode(known, begins)
        return text if whole else text.rstrip(BROKEN)

    def _decode(self, ids: list[int], begins: bool) -> str:
        before, shown = (), 0
        if not begins and ids and self._letter is not None:
            before, shown = (self._letter,), 1
        return self._tokenizer.decode([*before, *ids], skip_special_tokens=True)[shown:]

    @cached_property
    def _letter(self) -> int | None:
        """The first id that writes one letter or digit, wherever it stands."""
        written = ((i, self._tokenizer.decode([i])) for i in range(self.vocab))
        return next((i for i, text in written if len(text) == 1 and text.isalnum()), None)

    def id(self, token: str) -> int:
        """The id of a token. Raises ValueError naming the nearest one if there is none."""
        found = self._tokenizer.token_to_id(token)
        if found is None:
            near = did_you_mean(token, self.names)
            raise ValueError(f"the text tokenizer has no {token!r}{near}")
        return found

    @property
    def model(self) -> str:
        """How it cuts words into pieces: BPE, Unigram or WordPiece."""
        return str(self._json["model"].get("type") or "BPE")

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
        """Which ids are text, (V,) bool: those of the vocabulary but for marks."""
        written = torch.zeros(self.vocab, dtype=torch.bool)
        written[list(self.names.values())] = True
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

    @property
    def text(self) -> str:
        """What its file says."""
        return json.dumps(self._json, ensure_ascii=False)

    def fingerprint(self) -> str:
        """16 hex digits over what the file says."""
        plain = json.dumps(self._json, sort_keys=True, ensure_ascii=True)
        return hashlib.sha256(plain.encode()).hexdigest()[:16]

    def save(self, folder: Path) -> None:
        """Write tokenizer.json into a new or empty folder; one that holds the same text tokenizer
        stays as it is. Raises ValueError naming what is there for any other."""
        check_folder(folder, FILE, ("model",), "a text tokenizer")
        if (folder / FILE).exists():
            if (found := Words.open(folder).fingerprint()) != self.fingerprint():
                raise ValueError(f"{folder} holds another text tokenizer, {found}: give another")
            return
        with filling(folder) as temporary:
            write_json(temporary / FILE, self._json)


def _whole(text: str) -> str:
    """The text. Raises ValueError for half of a character, which no file can hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"texts are of whole characters, got {text!r}") from None
    return text
