"""Documents: text and pictures in a row, before the pictures are codes, and the strings that open
them.

A document is a list of pieces, each of which a model reads or learns to write. The last piece is
what is asked for, and all before it is what it is asked with. How the texts are written:

- what is asked for ends in a newline, be it a picture or an answer, so that in a conversation a
  model has to tell from the words alone which of them follows; the question for a caption is
  `CAPTION`;
- the picture that a question, or an instruction, is about stands before it.
"""

from __future__ import annotations

import bisect
import glob
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Protocol

from PIL import Image
from torch import Tensor

from smalti.config import did_you_mean
from smalti.data.open import class_of, open_source
from smalti.data.source import Keyed, Source, credited, digest, require_captions
from smalti.progress import say_once

SCHEMES = {
    "captioned": "captioned:SOURCE (pictures with captions, such as captioned:folder:cats)",
    "shapes-all": "shapes-all, shapes-all:COUNT or shapes-all:COUNT:TASK,TASK",
    "qa": "qa:FILE.jsonl",
    "docs": "docs:FILE.arrow",
    "text": "text:PATH (a .txt file, or a folder of them)",
}
JOINT = re.compile(rf"\+(?=(?:{'|'.join(SCHEMES)})(?:[:+]|$))")
"""A plus between two of them, not one of a path."""


def asked(question: str) -> str:
    """What is asked as it stands in a document: with the newline after which the answer, or the
    picture, begins."""
    return question.rstrip() + "\n"


CAPTION = asked("Caption:")
"""What a model is asked for the caption of the picture before it."""
KEYWORDS = asked("Keywords:")
"""What it is asked for the keywords of the picture before it."""


@dataclass(frozen=True)
class Piece:
    """A text or a picture of a document. Raises ValueError unless it is one of them."""

    text: str = ""
    image: Image.Image | None = None
    """RGB, any size."""
    learned: bool = True
    """Whether a model learns to write it; else it only reads it."""
    codes: Tensor | None = None
    """A picture that is encoded already: (N, *trailing), int64 if discrete, float32 if not."""
    features: Tensor | None = None
    """What an eye sees of a picture that is only read, (N, E) float16, beside its codes."""
    answers: tuple[str, ...] = ()
    """What several people said where a model learns `text`, each as often as it was said; () where
    there is the text alone. It is for measuring."""

    def __post_init__(self) -> None:
        given = [bool(self.text), self.image is not None, self.codes is not None]
        if sum(given) != 1:
            raise ValueError(
                "a piece of a document must be a text, an image or codes, one of them, "
                f"got {sum(given)}"
            )
        if self.features is not None and self.codes is None:
            raise ValueError("what an eye sees of a picture stands beside its codes, got no codes")


Doc = list[Piece]


class Documents(Keyed, Protocol):
    """A fixed, ordered set of documents. Only `documents[i]` decodes pictures; all else is cheap.

    The `key` of a document is the name of what it was made of: those of one key are held out
    together.
    """

    skipped: dict[str, str]
    """Names of what could not be used, with the reason; see `smalti.data.skipped`."""
    tokenizers: tuple[str, ...]
    """Fingerprints of the tokenizers whose codes stand in them; () where all pictures are images.
    """
    eyes: tuple[str, ...]
    """Fingerprints of the eyes that saw them, "" where codes stand alone; () as above."""

    def __getitem__(self, i: int) -> Doc: ...

    def texts(self, i: int) -> list[str]:
        """The texts of document i in their order, without decoding or drawing a picture."""
        ...

    def task(self, i: int) -> str:
        """What document i teaches, such as "draw", "caption" or "ask"."""
        ...

    def fingerprint(self) -> str:
        """16 hex digits that change with what is in the documents."""
        ...


def is_documents(text: str) -> bool:
    """Whether a text names documents, not a source of images."""
    return JOINT.split(text)[0].partition(":")[0] in SCHEMES


def credit_of(text: str) -> str:
    """Whose art the documents of a name show, where that must be said; '' otherwise."""
    names = [name.removeprefix("captioned:") for name in JOINT.split(text)]
    return credited(*(class_of(name).credit for name in names))


def open_documents(text: str) -> Documents:
    """Open the documents that a text names, such as 'captioned:folder:cats+shapes-all:5000': those
    of each name, joined by '+'.

    What is left out is said in a line each. Raises ValueError if a scheme is unknown, or what it
    names is missing, empty or malformed.
    """
    opened = [documents for name in JOINT.split(text) for documents in _opened(name)]
    return opened[0] if len(opened) == 1 else Joined(opened, text)


def _opened(text: str) -> Sequence[Documents]:
    scheme, _, rest = text.partition(":")
    if scheme == "shapes-all":
        from smalti.data.shape_documents import open_shapes_all

        return [open_shapes_all(rest)]
    if scheme not in SCHEMES:
        allowed = "; ".join(SCHEMES.values())
        hint = did_you_mean(scheme, SCHEMES)
        raise ValueError(f"unknown documents {text!r}{hint}; allowed: {allowed}")
    if not rest:
        raise ValueError(f"documents {text!r} name nothing; write {SCHEMES[scheme]}")
    if scheme == "captioned":
        return [Captioned(open_source(rest))]
    if scheme == "qa":
        from smalti.data.written import Written

        return [Written(rest)]
    if scheme == "text":
        from smalti.data.text_files import TextFiles

        return [TextFiles(rest)]
    from smalti.data.document_file import DocumentCache

    there = Path(rest).expanduser().exists() or not glob.has_magic(rest)
    files = [rest] if there else sorted(glob.glob(str(Path(rest).expanduser())))
    if not files:
        raise ValueError(f"no file is named like {rest}")
    return [DocumentCache(file) for file in files]


class Captioned(Documents):
    """Two documents of each captioned picture of a source: its caption and then the picture, to
    draw it, and the picture and then its caption, to describe it. Two more of each picture with
    keywords, if its source was asked for them: the same with these.

    Pictures without a caption are left out and said so. Raises ValueError if none has one.
    """

    def __init__(self, source: Source) -> None:
        require_captions(source)
        self.name, self.source = f"captioned:{source.name}", source
        self.skipped = source.skipped
        self.tokenizers, self.eyes = tuple[str, ...](), tuple[str, ...]()
        self._keys = [source.group(source.key(i)) for i in range(len(source))]
        self._keywords = source.keywords
        chosen = [i for i in range(len(source)) if source.caption(i).strip()]
        self._pairs = [(i, w) for i in chosen for w in (False, True) if not w or self._keywords(i)]
        """Of each two documents the picture, and whether they are about its keywords."""
        if bare := len(source) - len(chosen):
            say_once(f"{self.name}: {bare} of {len(source)} images have no caption: left out")

    def __len__(self) -> int:
        return 2 * len(self._pairs)

    def __getitem__(self, i: int) -> Doc:
        image = self.source[self._pairs[i // 2][0]].image
        *question, text = self.texts(i)
        if not question:
            return [Piece(text, learned=False), Piece(image=image)]
        picture = Piece(image=image, learned=False)
        return [picture, Piece(question[0], learned=False), Piece(text)]

    def texts(self, i: int) -> list[str]:
        at, worded = self._pairs[i // 2]
        text = self._keywords(at) if worded else self.source.caption(at)
        return [asked(text)] if i % 2 == 0 else [KEYWORDS if worded else CAPTION, text]

    def task(self, i: int) -> str:
        tasks = ("draw-keywords", "keywords") if self._pairs[i // 2][1] else ("draw", "caption")
        return tasks[i % 2]

    def key(self, i: int) -> str:
        return self._keys[self._pairs[i // 2][0]]

    def fingerprint(self) -> str:
        words = [[KEYWORDS, i, self._keywords(i)] for i, worded in self._pairs if worded]
        return digest(["captioned", asked("draw"), CAPTION, self.source.fingerprint(), *words])


class Joined(Documents):
    """Documents of several kinds, one kind after another."""

    def __init__(self, several: Sequence[Documents], name: str) -> None:
        self.name, self._several = name, several
        self.tokenizers = tuple(dict.fromkeys(t for d in several for t in d.tokenizers))
        self.eyes = tuple(dict.fromkeys(e for d in several for e in d.eyes))
        self.skipped = {key: why for d in several for key, why in d.skipped.items()}
        self._ends = list(accumulate(map(len, several)))

    def _at(self, i: int) -> tuple[Documents, int]:
        if not 0 <= i < len(self):
            raise IndexError(f"{self.name} has {len(self)} documents, got {i}")
        which = bisect.bisect_right(self._ends, i)
        return self._several[which], i - (self._ends[which - 1] if which else 0)

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, i: int) -> Doc:
        documents, at = self._at(i)
        return documents[at]

    def texts(self, i: int) -> list[str]:
        documents, at = self._at(i)
        return documents.texts(at)

    def task(self, i: int) -> str:
        documents, at = self._at(i)
        return documents.task(at)

    def key(self, i: int) -> str:
        documents, at = self._at(i)
        return documents.key(at)

    def fingerprint(self) -> str:
        return digest([documents.fingerprint() for documents in self._several])
