"""Image folders: one sub-folder per class, a flat folder, or a metadata file.

Three layouts, the first that fits:
  metadata.jsonl or metadata.csv beside the images, with `file_name` and optionally `label`
  (integer or string) and `text` or `caption` (the Hugging Face imagefolder convention; other usual
  names of columns are in `smalti.data.columns`);
  sub-folders, whose names are the classes (sorted by `class_order`), with images at any depth;
  images directly in the folder, without labels; with '?label=' those at any depth.
A folder of `train` and `test` folders is refused: one of them is read, 'folder:data/train'.
Without a metadata file, a text file beside a picture is its caption: cat.txt of cat.png.
Folders `depth` and `segmentation` with maps of the pictures (`smalti.data.maps`) are no classes.
Files are images by their suffix or, without one, by their content. What else there is, names that
begin with a dot among it, is left out, and a note says how many files that are.
"""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

import numpy as np

from smalti.config import no_such
from smalti.data.decode import check_header, decode, is_picture
from smalti.data.maps import apart
from smalti.data.metadata import NAMES as METADATA
from smalti.data.metadata import TABLES, read_caption, read_metadata
from smalti.data.skipped import left_out, none_left
from smalti.data.source import Example, Source, class_order, describe, digest
from smalti.data.splits import split_folders

HEADERS = 20_000
"""Of so many files the headers are read when a folder is opened, which takes 1 s."""

Entry = tuple[str, int, str]
"""File, label and caption."""


class Folder(Source):
    """`folder:PATH`; keys are paths relative to the folder, with forward slashes.

    Files that are no pictures, and metadata lines that are malformed or name a missing file, are
    left out and noted in `skipped`; of the files after the first `HEADERS` it shows when they are
    decoded. `options` choose the columns of a metadata file by their role: image, label, text; an
    empty label takes none, nor classes from folders.
    A metadata file `unread` counts as none.
    Raises ValueError if the folder is missing, no picture is left, it mixes two layouts, a class
    has no files, it holds several parts of a dataset, or a column is not there.
    """

    local = True

    def __init__(
        self,
        path: str,
        options: dict[str, str] | None = None,
        name: str | None = None,
        unread: Path | None = None,
    ) -> None:
        self.name = name or f"folder:{path}"
        self.skipped: dict[str, str] = {}
        self.notes: list[str] = []
        self.classes: list[str] = []
        self.columns: list[str] = []
        """Of a metadata file."""
        self.root = Path(path).expanduser()
        if not self.root.is_dir():
            more = "" if self.root.exists() else f"; {no_such(self.root)}"
            raise ValueError(f"{self.name}: {path} is not a folder{more}")
        metadata = self._metadata(unread)
        listed, self._others = _listed(self.root)
        self._pictures, self.maps = apart(listed)
        if metadata is not None:
            entries = self._open_metadata(metadata, options or {})
        else:
            entries = self._open_pictures(options or {})
        for n, (file, _, _) in enumerate(entries):
            if n < HEADERS and (problem := _problem(self.root / file)):
                self.skipped[_key(file)] = problem
        entries = [e for e in entries if _key(e[0]) not in self.skipped]
        if not entries and self.skipped:
            raise none_left(self)
        if not entries:
            raise ValueError(f"{self.name} holds no images, such as png jpg webp{self._instead()}")
        if self._others:
            self.notes.append(left_out(self._others))
        self._files = [file for file, _, _ in entries]
        self._labels = np.array([label for _, label, _ in entries], dtype=np.int64)
        self._captions = [caption for _, _, caption in entries]

    def _metadata(self, unread: Path | None) -> Path | None:
        """The metadata file, but for one that is not to be read. Raises ValueError if it has
        two."""
        files = [self.root / name for name in METADATA if (self.root / name).is_file()]
        found = [f for f in files if unread is None or f.resolve() != unread.resolve()]
        if len(found) > 1:
            raise ValueError(f"{self.name} holds metadata.jsonl and metadata.csv; keep one")
        return next(iter(found), None)

    def _instead(self) -> str:
        """What a folder without images holds, for a complaint."""
        if any(name.endswith(".parquet") for name in self._others):
            path = self.name.partition(":")[2]
            return f"; it holds .parquet files, which parquet:{path} reads"
        return f"; {left_out(self._others)}" if self._others else "; it is empty"

    def _check_options(self, options: dict[str, str], allowed: tuple[str, ...]) -> None:
        for role in options:
            if role == "split":
                path = self.name.partition(":")[2].partition("?")[0].rstrip("/")
                raise ValueError(f"{self.name}: write folder:{path}/{options[role]} for that part")
            if role not in allowed:
                has = f"only {', '.join(f'{a}=' for a in allowed)}" if allowed else "no columns"
                raise ValueError(f"{self.name}: ?{role}= has no meaning here; there are {has}")

    def _check_parts(self) -> None:
        """Raise ValueError if the folder holds several parts of a dataset or several datasets."""
        path = self.name.partition(":")[2].removesuffix("?label=").rstrip("/")
        for parent, names in split_folders(self._pictures).items():
            within = f"{path}/{parent}" if parent else path
            folders = [f"folder:{within}/{name}" for name in names]
            one = "one of them" if len(names) > 1 else "it"
            are = "are parts" if len(names) > 1 else "is a part"
            holds = f"holds {' and '.join(names)}, which {are} of a dataset"
            if parent and len({_top(f) for f in self._pictures}) > 1:
                raise ValueError(
                    f"{self.name}: {parent} {holds}; put them on top, as {names[0]}/{parent}"
                )
            raise ValueError(
                f"{self.name} {holds} and no classes; read {one}: {', '.join(folders)}"
            )
        below = sorted(f for f in self._others if PurePosixPath(f).name in METADATA)
        if below:
            folders = [f"folder:{path}/{PurePosixPath(f).parent}" for f in below[:3]]
            raise ValueError(
                f"{self.name} has {below[0]} in a folder below it, where it would not be read; "
                f"read {'one of ' if below[1:] else ''}{', '.join(folders)}"
            )

    def _open_pictures(self, options: dict[str, str]) -> list[Entry]:
        """What a folder without a metadata file holds; with an empty label, without classes."""
        bare = options.get("label") == ""
        self._check_options(options, ("label",) if bare else ())
        self._check_parts()
        unlabelled = [(file, -1, "") for file in sorted(self._pictures)]
        entries = self._captioned(unlabelled if bare else self._open_classes())
        self._note_tables()
        return entries

    def _open_classes(self) -> list[Entry]:
        flat = sorted(f for f in self._pictures if "/" not in f)
        folders = sorted(
            (
                f.name
                for f in self.root.iterdir()
                if f.is_dir() and f.name[0] != "." and f.name not in self.maps
            ),
            key=class_order,
        )
        files: dict[str, list[str]] = {name: [] for name in folders}
        for file in sorted(set(self._pictures) - set(flat)):
            files[_top(file)].append(file)
        if not any(files.values()):
            files = {}
        if flat and files:
            raise ValueError(
                f"{self.name} holds images ({flat[0]}) beside class folders ({folders[0]}); "
                "use one of the two layouts"
            )
        for name, some in files.items():
            if not some:
                inside = {k: v for k, v in self._others.items() if _top(k) == name}
                more = f"; {left_out(inside)}" if inside else ""
                raise ValueError(f"{self.name}: class folder {name!r} holds no images{more}")
        self.classes = [_key(name) for name in files]
        self._note_nested(files)
        labelled = [(f, i, "") for i, some in enumerate(files.values()) for f in some]
        return [(f, -1, "") for f in flat] + labelled

    def _captioned(self, entries: list[Entry]) -> list[Entry]:
        """Entries with the captions that stand in text files beside the pictures."""
        texts = dict[str, str]()
        for picture in self._pictures:
            file = str(PurePosixPath(picture).with_suffix(".txt"))
            if self._others.get(_key(file)) != ".txt":
                continue
            try:
                texts[picture] = read_caption(self.root / file)
            except (ValueError, OSError) as error:
                self.skipped[_key(file)] = str(error)
        for picture in texts:
            self._others.pop(_key(str(PurePosixPath(picture).with_suffix(".txt"))), None)
        if texts:
            of = f"{len(texts)} of {len(entries)} pictures"
            self.notes.append(f"the captions of {of} are text files beside them")
        return [(file, label, texts.get(file, text)) for file, label, text in entries]

    def _note_tables(self) -> None:
        """Say how a table on top of the folder, which may hold captions, would be read."""
        tables = [f for f in self._others if "/" not in f and PurePosixPath(f).suffix in TABLES]
        if tables:
            self.notes.append(
                f"{tables[0]} is not read: a table of file names, labels and captions is called "
                f"{' or '.join(METADATA)}"
            )

    def _note_nested(self, files: dict[str, list[str]]) -> None:
        """Say that folders within class folders are no classes, if there are several in one."""
        for name, some in files.items():
            inner = sorted({f.split("/")[1] for f in some if f.count("/") > 1}, key=class_order)
            if len(inner) > 1:
                path = self.name.partition(":")[2].rstrip("/")
                self.notes.append(
                    f"classes are the top folders; those in {_key(name)} ({len(inner)}: "
                    f"{_key(', '.join(inner[:3]))}) are not told apart, as they are by "
                    f"folder:{path}/{_key(name)}"
                )
                return

    def _open_metadata(self, path: Path, options: dict[str, str]) -> list[Entry]:
        self._check_options(options, ("image", "label", "text"))
        content = read_metadata(path, options, f"{self.name}, {path.name}")
        self.classes, self.columns, self.skipped = content.classes, content.columns, content.skipped
        self.notes += content.notes
        named = {str(PurePosixPath(file)) for file, _, _ in content.entries}
        missing = [file for file in self._pictures if file not in named]
        self._others |= {file: f"without a usable line in {path.name}" for file in missing}
        return content.entries

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, i: int) -> Example:
        path = self.root / self._files[i]
        return Example(decode(path, str(path)), self.label(i), self.caption(i))

    def label(self, i: int) -> int:
        return int(self._labels[i])

    def caption(self, i: int) -> str:
        return self._captions[i]

    def key(self, i: int) -> str:
        return _key(self._files[i])

    def file(self, i: int) -> str:
        """The file of picture i, relative to the root."""
        return self._files[i]

    def size(self, i: int) -> int:
        return (self.root / self._files[i]).stat().st_size

    def fingerprint(self) -> str:
        sizes = map(self.size, range(len(self)))
        return digest([self.classes, *zip(describe(self), sizes, strict=True)])


def _top(file: str) -> str:
    return file.partition("/")[0]


def _key(file: str) -> str:
    """The path as text; bytes of it that are not UTF-8 are written \\xNN."""
    return file.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _problem(path: Path) -> str:
    """What is wrong with a picture, as far as its header shows; '' if nothing."""
    try:
        check_header(path)
    except ValueError as error:
        return str(error)
    return ""


def _listed(root: Path) -> tuple[list[str], dict[str, str]]:
    """The pictures at any depth, as paths relative to `root`, and of other files their kind; the
    metadata file of the folder is neither. Symbolic links are followed, but not back into a folder
    above them."""
    pictures: list[str] = []
    others: dict[str, str] = {}
    for parent, folders, files in os.walk(root, followlinks=True):
        above = {os.path.realpath(p) for p in (parent, *Path(parent).parents)}
        base = PurePosixPath(*Path(parent).relative_to(root).parts)
        prefix = f"{base}/" if base.parts else ""
        others |= {f"{_key(prefix + f)}/": "hidden" for f in folders if f[0] == "."}
        folders[:] = [
            f
            for f in folders
            if f[0] != "." and os.path.realpath(os.path.join(parent, f)) not in above
        ]
        for name in files:
            kind = _kind(parent, name)
            if not kind:
                pictures.append(prefix + name)
            elif prefix or name not in METADATA:
                others[_key(prefix + name)] = kind
    return pictures, others


def _kind(parent: str, name: str) -> str:
    """What a file is that is no picture; '' if it is one."""
    if name[0] == ".":
        return "hidden"
    path = os.path.join(parent, name)
    if not os.path.isfile(path):  # a pipe would be waited for
        return "dead link or no file"
    suffix = os.path.splitext(name)[1].lower()
    return "" if is_picture(path, suffix) else suffix or "without suffix"
