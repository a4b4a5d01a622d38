"""Plain text: a .txt file or a folder of them, in which every line is a document."""

from __future__ import annotations

from pathlib import Path

from smalti.config import no_such
from smalti.data.documents import Doc, Documents, Piece
from smalti.data.source import digest
from smalti.files import expand

ENDING = ".txt"


class TextFiles(Documents):
    """The lines of text files, without blanks around them, all of them learned. Equal lines are
    held out together; a folder's files come in the order of their paths.

    Raises ValueError, naming the file, for what is missing, is no text in UTF-8, or has no lines.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = expand(path)
        self.name = f"text:{path}"
        self.skipped: dict[str, str] = {}
        self.tokenizers, self.eyes = tuple[str, ...](), tuple[str, ...]()
        self._lines = [line for file in self._files() for line in _lines(file)]
        if not self._lines:
            raise ValueError(f"{path} holds no text")

    def _files(self) -> list[Path]:
        if self.path.is_file() and self.path.suffix.lower() == ENDING:
            return [self.path]
        if self.path.is_dir():
            inside = (p.relative_to(self.path) for p in self.path.rglob("*"))
            shown = [p for p in inside if not any(name[0] == "." for name in p.parts)]
            files = sorted(self.path / p for p in shown if p.suffix.lower() == ENDING)
            if found := [file for file in files if file.is_file()]:
                return found
            raise ValueError(f"{self.path} holds no {ENDING} files")
        if not self.path.exists():
            raise ValueError(f"{self.path} cannot be read ({no_such(self.path)})")
        raise ValueError(f"{self.path} must be a {ENDING} file or a folder of them")

    def __len__(self) -> int:
        return len(self._lines)

    def __getitem__(self, i: int) -> Doc:
        return [Piece(self._lines[i])]

    def texts(self, i: int) -> list[str]:
        return [self._lines[i]]

    def task(self, i: int) -> str:
        return "text"

    def key(self, i: int) -> str:
        return digest([self._lines[i]])

    def fingerprint(self) -> str:
        return digest(["text", *self._lines])


def _lines(file: Path) -> list[str]:
    """The lines of a file with something in them."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ValueError(f"{file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not text in UTF-8: {error}") from None
    return [line.strip() for line in text.split("\n") if line.strip()]
