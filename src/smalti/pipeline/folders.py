"""What the folder of a pipeline holds, and what may be written over there."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

from smalti.files import check_folder, remove_files
from smalti.modules import FILES, check_module
from smalti.text import words

MODULES = ("tokenizer", "map", "text", "eye", "model")
"""Parts of a pipeline that are modules, each with a folder of its own."""


def check_pipeline(folder: Path) -> None:
    """Raise ValueError, naming what is there, unless a pipeline may be written to the folder: all
    files that would be written over or removed are of smalti."""
    check_folder(folder, "pipeline.json", ("format", "sampling"), "a pipeline")
    for part in MODULES:
        if any((folder / part / file).exists() for file in FILES):
            check_module(folder / part)
    if (folder / words.FOLDER / words.FILE).exists():
        check_folder(folder / words.FOLDER, words.FILE, ("model",), "a text tokenizer")


def keep_parts(folder: Path, names: Collection[str]) -> None:
    """Remove the parts of another pipeline that was in a folder before, but for those that were
    written anew. Files that are not of smalti stay."""
    for part in (*MODULES, words.FOLDER):
        if part not in names:
            files = (words.FILE,) if part == words.FOLDER else FILES
            remove_files(folder / part, *(re.escape(file) for file in files))
