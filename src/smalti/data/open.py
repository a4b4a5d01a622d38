"""The source of images that a text names: folder:PATH, parquet:PATH, hub:NAME, emoji, shapes,
scenes, styles."""

from __future__ import annotations

import glob
import importlib
import os
from pathlib import Path
from typing import Any

from smalti.config import did_you_mean, no_such
from smalti.data.columns import choices
from smalti.data.decode import suffixes
from smalti.data.source import Source
from smalti.progress import say_once

SCHEMES = {
    "emoji": "emoji or emoji:skin_tones",
    "shapes": "shapes or shapes:COUNT",
    "scenes": "scenes or scenes:COUNT",
    "folder": "folder:PATH",
    "parquet": "parquet:PATH",
    "styles": "styles or styles:FILE.parquet",
    "hub": "hub:NAME or hub:NAME:SPLIT",
}

BUILT_IN = ("emoji", "shapes", "scenes", "styles")
"""Those that need no files."""


CLASSES = {
    "emoji": "emoji.Emoji",
    "shapes": "drawn_shapes.Shapes",
    "scenes": "shape_scenes.Scenes",
    "folder": "folder.Folder",
    "parquet": "parquet.Parquet",
    "styles": "styles.Styles",
    "hub": "hub_rows.Hub",
}
"""What a scheme opens, in `smalti.data`."""


def class_of(name: str) -> type[Source]:
    """The class of the source of a name, for those who have no more of it: what it says of its art
    and its keys. Of a name that is unknown here it is `Source`, with what holds of most."""
    if (scheme := name.partition(":")[0]) not in CLASSES:
        return Source  # pyright: ignore[reportReturnType] - asked, never made
    module, _, kind = CLASSES[scheme].partition(".")
    return getattr(importlib.import_module(f"smalti.data.{module}"), kind)


def open_source(text: str, unread: Path | None = None) -> Source:
    """Open the source that `text` names, such as 'folder:cats' or 'emoji:skin_tones'.

    A path that exists is taken as folder: or parquet:. What a source leaves out, and which of its
    columns are not used, is said in a line each. A folder's metadata file `unread` is not read, as
    if it were not there: it is being written.
    Raises ValueError if the scheme is unknown, or what it names is missing, empty or malformed.
    """
    source = _opened(text, unread)
    notes = list(source.notes)
    bare = sum(source.label(i) < 0 for i in range(len(source))) if source.classes else 0
    if bare:
        notes.append(f"{bare} of {len(source)} images have no label")
    for note in notes:
        say_once(f"{source.name}: {note}")
    return source


def _opened(text: str, unread: Path | None) -> Any:
    scheme, _, rest = text.partition(":")
    if text in BUILT_IN and Path(text).is_dir():
        say_once(f"{text} is the built-in source; ./{text} is the folder of that name")
    if scheme == "emoji":
        from smalti.data.emoji import open_emoji

        return open_emoji(rest)
    if scheme == "shapes":
        from smalti.data.drawn_shapes import open_shapes

        return open_shapes(rest)
    if scheme == "scenes":
        from smalti.data.shape_scenes import open_scenes

        return open_scenes(rest)
    if scheme == "styles":
        from smalti.data.styles import open_styles

        return open_styles(rest)
    if scheme not in SCHEMES:
        source = _opened(name := _local(text), unread)
        say_once(f"{text} is taken as {name}")  # once there is something to take
        return source
    if not rest:
        raise ValueError(f"data source {text!r} names nothing; write {SCHEMES[scheme]}")
    path, options = choices(rest)
    if scheme == "folder":
        from smalti.data.folder import Folder

        return Folder(path, options, f"folder:{rest}", unread)
    if scheme == "parquet":
        from smalti.data.parquet import Parquet

        return Parquet(path, options, f"parquet:{rest}")
    from smalti.data.hub_rows import open_hub

    return open_hub(path, options, f"hub:{rest}")


def is_here(text: str) -> bool:
    """Whether the files of a source are on this machine, as far as its name tells."""
    scheme, _, rest = text.partition(":")
    if scheme not in ("folder", "parquet", "styles") or not rest:
        return True
    path = Path(choices(rest)[0]).expanduser()
    return path.exists() or bool(glob.glob(str(path)))


def is_local(text: str) -> bool:
    """Whether a text without a scheme is a folder, a .parquet file or a pattern of them."""
    path = Path(name := choices(text)[0]).expanduser()
    return bool(name) and (path.is_dir() or _is_parquet(path))


def _is_parquet(path: Path) -> bool:
    return path.suffix == ".parquet" and (path.is_file() or glob.has_magic(str(path)))


def _holds_tables(folder: Path) -> bool:
    """Whether the first files that are pictures or tables, from the top down, are tables."""
    for _, folders, files in os.walk(folder):
        folders[:] = sorted(f for f in folders if f[0] != ".")
        kinds = {os.path.splitext(f)[1].lower() for f in files if f[0] != "."}
        if kinds & suffixes():
            return False
        if ".parquet" in kinds:
            return True
    return False


def _local(text: str) -> str:
    """The source that a path without a scheme means: folder:PATH, or parquet:PATH.

    Raises ValueError if there is no such path, or if it is another kind of file.
    """
    path = Path(choices(text)[0]).expanduser()
    if is_local(text):
        scheme = "parquet" if _is_parquet(path) or _holds_tables(path) else "folder"
        return f"{scheme}:{text}"
    if text and path.is_file():
        raise ValueError(f"{text} is a file; images are read from a folder or from .parquet files")
    hint = did_you_mean(text.partition(":")[0], SCHEMES)
    gone = f" ({no_such(path)})" if text and ":" not in text else ""
    allowed = "; ".join(SCHEMES.values())
    raise ValueError(f"unknown data source {text!r}{gone}{hint}; allowed: {allowed}")
