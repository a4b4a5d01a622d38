"""Documents that somebody wrote down: a .jsonl file, one document in each line, in two forms.

    {"image": "cat.jpg", "question": "What is it doing?", "answer": "sleeping"}
    {"parts": [{"text": "a cat", "learned": false}, {"image": "cat.jpg"}, {"text": "asleep"}]}

Image files stand beside the .jsonl file. A question without an image is about text alone, and one
with an image comes behind it. Parts are learned unless they say that they are not; a text that is
not, before an image that is, asks for it, and ends in a newline as all that is asked. An answer
may be a list, of what several people said: the most frequent one, the first of several, is learned,
and all are what a model is measured by.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from smalti.config import did_you_mean, no_such
from smalti.data.decode import decode
from smalti.data.documents import Doc, Documents, Piece, asked
from smalti.data.source import digest
from smalti.files import expand

QUESTION, PARTS = ("image", "question", "answer"), ("parts",)
PART = ("text", "image", "learned")
PLACEHOLDER = "<image>"
"""How other formats mark the place of an image inside a text, which is an error here."""


class _Part(NamedTuple):
    """A part of a document as the file has it."""

    text: str = ""
    image: Path | None = None
    learned: bool = True
    answers: tuple[str, ...] = ()


class Written(Documents):
    """The documents of a .jsonl file. Those of one picture, the first one, are held out together,
    and so are those of equal texts.

    Raises ValueError naming the file and the line for what is no document: text that is no JSON,
    keys that are unknown or missing, and images that are marked but not given, or not there.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = expand(path)
        self.name = f"qa:{path}"
        self.skipped: dict[str, str] = {}
        self.tokenizers, self.eyes = tuple[str, ...](), tuple[str, ...]()
        self._lines = [self._line(number, text) for number, text in self._numbered()]
        if not self._lines:
            raise ValueError(f"{path} holds no documents")

    def _numbered(self) -> Iterator[tuple[int, str]]:
        """The lines with something in them, and their numbers."""
        try:
            text = self.path.read_text(encoding="utf-8-sig")
        except OSError:
            raise ValueError(f"{self.path} cannot be read ({no_such(self.path)})") from None
        except UnicodeDecodeError as error:
            raise ValueError(f"{self.path} is not text in UTF-8: {error}") from None
        return ((n, line) for n, line in enumerate(text.split("\n"), 1) if line.strip())

    def _line(self, number: int, text: str) -> tuple[str, list[_Part]]:
        """Task and parts of a line."""
        try:
            row = json.loads(text)
            if isinstance(row, dict) and "parts" in row:
                _only(row, PARTS)
                return "document", self._parts(row["parts"])
            row = _only(row, QUESTION)
            question = _text(row.get("question"), "question")
            words = [_Part(asked(question), learned=False), _answer(row.get("answer"))]
            if row.get("image") is not None:
                words.insert(0, _Part(image=self._file(row["image"]), learned=False))
            return "ask", words
        except (ValueError, RecursionError, OSError) as error:
            raise ValueError(f"{self.path}, line {number}: {error}") from None

    def _parts(self, rows: Any) -> list[_Part]:
        if not isinstance(rows, list) or not rows:
            raise ValueError(f"parts must be a list of texts and images, got {rows!r}")
        parts: list[_Part] = []
        for row in rows:
            learned = _only(row, PART).get("learned", True)
            if not isinstance(learned, bool):
                raise ValueError(f"learned must be true or false, got {learned!r}")
            if ("text" in row) == ("image" in row):
                raise ValueError(f"a part has a text or an image, one of them, got {row}")
            text = _text(row["text"], "text") if "text" in row else ""
            parts.append(_Part(text, None if text else self._file(row["image"]), learned))
        return _as_orders(parts)

    def _file(self, name: Any) -> Path:
        if not isinstance(name, str) or not name.strip():
            raise ValueError(f"image must name a file, got {name!r}")
        path = self.path.parent / expand(name)
        if not path.is_file():
            raise ValueError(f"the image {name!r} is not there ({no_such(path)})")
        return path

    def __len__(self) -> int:
        return len(self._lines)

    def __getitem__(self, i: int) -> Doc:
        return [
            Piece(
                p.text,
                None if p.image is None else decode(p.image, str(p.image)),
                p.learned,
                answers=p.answers,
            )
            for p in self._lines[i][1]
        ]

    def texts(self, i: int) -> list[str]:
        return [part.text for part in self._lines[i][1] if part.text]

    def task(self, i: int) -> str:
        return self._lines[i][0]

    def key(self, i: int) -> str:
        parts = self._lines[i][1]
        first = next((self._shown(part.image) for part in parts if part.image is not None), "")
        return first or digest(part.text for part in parts)

    def _shown(self, image: Path) -> str:
        """The name of an image, from the folder of the file if it is in it."""
        inside = image.is_relative_to(self.path.parent)
        return (image.relative_to(self.path.parent) if inside else image).as_posix()

    def fingerprint(self) -> str:
        return digest(
            [task, *([p.text, *self._about(p.image), p.learned, *p.answers] for p in parts)]
            for task, parts in self._lines
        )

    def _about(self, image: Path | None) -> tuple[str, int]:
        """Name and bytes of an image file."""
        return ("", 0) if image is None else (self._shown(image), image.stat().st_size)


def _as_orders(parts: list[_Part]) -> list[_Part]:
    """The same with a newline behind each text that asks for the image after it."""
    follows = [part.image is not None and part.learned for part in parts[1:]] + [False]
    return [
        part._replace(text=asked(part.text)) if drawn and part.text and not part.learned else part
        for part, drawn in zip(parts, follows, strict=True)
    ]


def _only(row: Any, allowed: Iterable[str]) -> dict[str, Any]:
    """An object with no other keys than those. Raises ValueError for anything else."""
    if not isinstance(row, dict):
        raise ValueError(f"need an object with the keys {', '.join(allowed)}, got {row!r}")
    for key in row:
        if key not in allowed:
            hint = did_you_mean(key, allowed)
            raise ValueError(f"{key!r} is not known{hint}; allowed: {', '.join(allowed)}")
    return row


def _answer(value: Any) -> _Part:
    """An answer, or the most frequent one of a list of them."""
    if not isinstance(value, list) or not value:
        return _Part(_text(value, "answer"))
    answers = tuple(_text(one, "answer") for one in value)
    return _Part(Counter(answers).most_common(1)[0][0], answers=answers)


def _text(value: Any, name: str) -> str:
    """A text with something in it. Raises ValueError for anything else, and for the mark of an
    image, which has a place of its own."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{name} must be a text that is not empty, got {value!r}")
    if PLACEHOLDER in value:
        raise ValueError(
            f"{name} has {PLACEHOLDER} without an image: images have keys and parts of their own, "
            'such as {"image": "a.png"}'
        )
    return value
