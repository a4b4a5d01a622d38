"""Images or documents to a file of codes, whatever makes its rows (`Encodes`).

What is encoded is written in parts, a file of the same kind each, and joined in the end: the bytes
are the same however often the process was killed.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

import numpy as np

from smalti.config import read_json
from smalti.data.skipped import Readable, none_left, read, tell
from smalti.data.source import split
from smalti.data.token_file import is_own
from smalti.files import (
    LOCK,
    SETTINGS,
    begin_parts,
    check_own,
    contents,
    expand,
    lock,
    remove_files,
)
from smalti.progress import say, track

EVERY = 10.0
"""Seconds of work that are lost at most when the process is killed."""
PART = r"\d{9}-\d{9}\.arrow"
"""Names of parts: numbers of the first image and of the one behind the last."""


class Encoded(Protocol):
    """A file of codes, open for reading."""

    held_out: np.ndarray
    """The rows that are held out."""

    @property
    def encoding(self) -> Any:
        """What it says that its codes are of."""
        ...

    def indices(self, split: Literal["train", "held_out", "all"]) -> np.ndarray: ...
    def keys(self, rows: np.ndarray) -> list[str]: ...
    def rows(self) -> Iterator[Any]: ...


class Encodes:
    """What makes rows of a file of codes, and writes and opens such files: of images
    (`image_coder.Coder`) or of documents (`documents.DocumentCoder`)."""

    things: ClassVar[str]
    """What is encoded, in the plural."""
    holdout: float
    """The share that is marked held out, the same ones whatever the tokenizer."""

    source: Any
    """What is encoded, `Readable`."""
    encoding: Any
    """What the codes are of; it names its `differences` from another."""

    @property
    def step(self) -> int:
        """Examples at a time."""
        raise NotImplementedError

    @cached_property
    def held_out(self) -> set[int]:
        """The examples that are held out."""
        return set(split(self.source, self.holdout)[1])

    def settings(self) -> dict[str, object]:
        """What the bytes of the result depend on, as JSON values."""
        raise NotImplementedError

    def check(self) -> None:
        """Raise ValueError for what cannot be encoded."""
        raise NotImplementedError

    def __call__(self, chosen: Iterable[int]) -> list[Any]:
        """The rows of some examples, without those that cannot be decoded."""
        raise NotImplementedError

    def write(self, path: Path, rows: Iterable[Any]) -> int:
        """Write a file of such rows, and return how many they were."""
        raise NotImplementedError

    def opened(self, path: Path) -> Encoded:
        """Such a file, open for reading. Raises ValueError if it is none."""
        raise NotImplementedError


def encode(coder: Encodes, out: Path, replace: bool = False) -> int:
    """Encode every fixed view of every image, or every document, write the file `out`, and return
    how many were left to encode: cut off, the same call goes on with the parts in the folder
    `out`.parts.

    Codes and parts of something else that are there already are refused, or begun anew with
    `replace`. Images that cannot be decoded are left out, and named on standard error.
    Raises ValueError for what cannot be encoded (`Encodes.check`), if codes are no numbers, if no
    image can be decoded, and while another process writes there; KeyboardInterrupt says how many
    are encoded.
    """
    out = expand(out)
    coder.check()
    check_own(out, is_own)
    parts, settings = Parts(parts_of(out), coder), coder.settings()
    with held(out):
        if out.exists() and _finished(out, coder, replace):
            if parts.left(settings):  # killed when all but their removal was done
                parts.remove()
            return 0
        left = parts.begin(settings, coder.source, replace)
        with _told(parts, out, f"{len(coder.source)} {coder.things}"):
            parts.fill(coder, left)
            coder.write(out, parts.rows())
            parts.remove()
    tell(coder.source)
    return len(left)


@contextmanager
def _told(parts: Parts, out: Path, all_of_them: str) -> Iterator[None]:
    """A context whose end is told of the file `out` of so many images, not of its parts, and after
    which there is no folder of parts that holds none."""
    try:
        yield
    except KeyboardInterrupt:
        if not (done := parts.done()):
            raise
        raise KeyboardInterrupt(
            f"stopped; {done[-1][1]} of {all_of_them} are encoded, the same command "
            "goes on with the rest"
        ) from None
    except OSError as error:
        if parts.folder not in Path(error.filename or out).parents:
            raise  # it is about something else
        raise OSError(error.errno, error.strerror or str(error), str(out)) from error
    finally:
        if not parts.done():
            parts.remove()


def held(out: Path) -> AbstractContextManager[None]:
    """Be the only process that writes the cache at `out`."""
    return lock(out.with_name(f".{out.name}{LOCK}"), out)


def parts_of(out: Path) -> Path:
    """The folder of the parts of the cache at `out`."""
    return out.with_name(out.name + ".parts")


def tidy(out: Path) -> None:
    """Remove what a process that was killed at its end left beside the complete cache at `out`."""
    parts = parts_of(out)
    with held(out):
        if all(re.fullmatch(PART, name) or name == SETTINGS for name in contents(parts)):
            remove_files(parts, PART, SETTINGS)


def _finished(out: Path, coder: Encodes, replace: bool) -> bool:
    """Whether `out` holds these codes. Raises ValueError if it holds others that stay."""
    cache, key = coder.opened(out), coder.source.key
    names = coder.encoding.differences(cache.encoding)
    keys = {key(i) for i in coder.held_out} & set(cache.keys(cache.indices("all")))
    if not names and set(cache.keys(cache.held_out)) != keys:
        names = ["holdout"]
    if not names or replace:
        return not names
    raise ValueError(
        f"{out} holds codes of another {names[0].replace('_fingerprint', '')}: give another "
        "--out, or remove it"
    )


class Parts(NamedTuple):
    """A folder of what is encoded so far: files of codes of images in turn."""

    folder: Path
    coder: Encodes

    def done(self) -> list[tuple[int, int]]:
        """First and last images of the parts, in order, as far as none is missing."""
        names = os.listdir(self.folder) if self.folder.is_dir() else []
        pairs = [n.removesuffix(".arrow").split("-") for n in names if re.fullmatch(PART, n)]
        found = {int(start): int(stop) for start, stop in pairs}
        chain, at = list[tuple[int, int]](), 0
        while at in found:
            chain.append((at, found[at]))
            at = found[at]
        return chain

    def path(self, start: int, stop: int) -> Path:
        return self.folder / f"{start:09d}-{stop:09d}.arrow"

    def left(self, settings: dict[str, object]) -> bool:
        """Whether what is there is of these settings, or parts and nothing else."""
        if (self.folder / SETTINGS).is_file():
            return not self.others(settings)
        return all(re.fullmatch(PART, name) for name in contents(self.folder))

    def others(self, settings: dict[str, object]) -> list[str]:
        """The settings that were others when what is there was begun."""
        begun = self.folder / SETTINGS
        have = read_json(begun) if begun.is_file() else settings
        return [name for name in settings if have.get(name) != settings[name]]

    def begin(self, settings: dict[str, object], source: Readable[Any], replace: bool) -> range:
        """Make the folder, or go on with what is in it; the images that are left. Raises ValueError
        if it is of something else."""
        other = self.others(settings)
        if other and not replace:
            name = other[0].replace("_fingerprint", "")
            raise ValueError(
                f"{self.folder} is of another {name}: give the same as before, or another --out, "
                "or remove it"
            )
        if other:
            self.remove()
        begin_parts(self.folder, settings, PART, "parts of codes")
        done = self.done()
        for start, stop in done:  # those that could not be decoded are named again
            cache = self.coder.opened(self.path(start, stop))
            keys = set(cache.keys(cache.indices("all")))
            for i in range(start, stop):
                if source.key(i) not in keys:
                    read(source, i)
        left = range(done[-1][1] if done else 0, len(source))
        if done:
            begun = f"{left.start} of {len(source)} {self.coder.things} are encoded already"
            say(f"{begun}; going on with the rest")
        return left

    def fill(self, coder: Encodes, left: range) -> None:
        """Encode what is left and write a part now and then."""
        blocks, since = list[tuple[int, int, list[Any]]](), time.monotonic()
        step = coder.step

        def write() -> None:
            if rows := [row for *_, some in blocks for row in some]:
                coder.write(self.path(blocks[0][0], blocks[-1][1]), rows)
                blocks.clear()

        try:
            for first in track(left[::step], "encoding", scale=step):
                stop = min(first + step, left.stop)
                blocks.append((first, stop, coder(range(first, stop))))
                if time.monotonic() - since >= EVERY or stop == left.stop:
                    write()
                    since = time.monotonic()
        except KeyboardInterrupt:
            write()
            raise
        if not self.done():
            raise none_left(coder.source)

    def remove(self) -> None:
        remove_files(self.folder, PART, SETTINGS)

    def rows(self) -> Iterator[Any]:
        """Those of all parts."""
        for start, stop in self.done():
            yield from self.coder.opened(self.path(start, stop)).rows()
