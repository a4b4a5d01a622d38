"""Images and their captions to a token cache.

What is encoded is written in parts, a token cache each, and joined in the end: the bytes are the
same however often the process was killed.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch

from smalti.config import read_json, to_dict
from smalti.data.skipped import none_left, read, tell
from smalti.data.source import Example, Source, require_captions, split
from smalti.data.token_cache import TokenCache
from smalti.data.token_file import Encoding, Row, is_own, write_cache
from smalti.data.transforms import Transform, to_float
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
from smalti.modules import fingerprint, identity
from smalti.nn.finite import NotFinite
from smalti.progress import say, track
from smalti.text.encoders import TextEncoder
from smalti.tokenizers.base import ImageTokenizer

EVERY = 10.0
"""Seconds of work that are lost at most when the process is killed."""
PART = r"\d{9}-\d{9}\.arrow"
"""Names of parts: numbers of the first image and of the one behind the last."""


def encode(coder: Coder, out: Path, replace: bool = False) -> int:
    """Encode every fixed view of every image, write the cache at `out`, and return how many images
    were left to encode: cut off, the same call goes on with the parts in the folder `out`.parts.

    Codes and parts of something else that are there already are refused, or begun anew with
    `replace`. Images that cannot be decoded are left out, and named on standard error.
    Raises ValueError for what cannot be encoded (`Coder.check`), if codes are no numbers, if no
    image can be decoded, and while another process writes there; KeyboardInterrupt says how many
    images are encoded.
    """
    out = expand(out)
    coder.check()
    check_own(out, is_own)
    parts, settings = Parts(parts_of(out), coder.encoding), coder.settings()
    with held(out):
        if out.exists() and _finished(out, coder, replace):
            if parts.left(settings):  # killed when all but their removal was done
                parts.remove()
            return 0
        left = parts.begin(settings, coder.source, replace)
        with _told(parts, out, len(coder.source)):
            parts.fill(coder, left)
            write_cache(out, parts.rows(), coder.encoding)
            parts.remove()
    tell(coder.source)
    return len(left)


@contextmanager
def _told(parts: Parts, out: Path, count: int) -> Iterator[None]:
    """A context whose end is told of the cache at `out` of so many images, not of its parts, and
    after which there is no folder of parts that holds none."""
    try:
        yield
    except KeyboardInterrupt:
        if not (done := parts.done()):
            raise
        raise KeyboardInterrupt(
            f"stopped; {done[-1][1]} of {count} images are encoded, the same command "
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


def _finished(out: Path, coder: Coder, replace: bool) -> bool:
    """Whether `out` holds these codes. Raises ValueError if it holds others that stay."""
    cache, key = TokenCache(out), coder.source.key
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


@dataclass(frozen=True)
class Coder:
    """Makes rows of a token cache of images: what is read, by what, and what is kept of it."""

    source: Source
    tokenizer: ImageTokenizer
    transform: Transform
    text: TextEncoder | None = None
    """A frozen encoder whose features of the captions are kept."""
    holdout: float = 0.1
    """Share of the images that are marked held out, the same ones whatever the tokenizer."""
    posterior: Literal["sample", "mode"] = "sample"
    """Of a tokenizer that gives distributions of codes: keep them, to draw a sample in each epoch,
    or their means."""
    half: bool = False
    """Keep continuous codes as float16."""
    device: torch.device | str = "cpu"
    batch: int = 64
    """Views at a time."""

    @property
    def sampled(self) -> bool:
        """Whether distributions of codes are kept."""
        return self.posterior == "sample" and self.tokenizer.distributions

    @property
    def step(self) -> int:
        """Images at a time."""
        return max(1, self.batch // max(self.transform.view_count, 1))

    @cached_property
    def held_out(self) -> set[int]:
        return set(split(self.source, self.holdout)[1])

    @cached_property
    def encoding(self) -> Encoding:
        """What the codes are of."""
        return Encoding(
            self.tokenizer.spec,
            self.transform.view_count,
            fingerprint(self.tokenizer),
            asdict(self.transform),
            self.source.name,
            self.source.fingerprint(),
            self.source.classes,
            None if self.text is None else identity(self.text),
            self.half,
            self.sampled,
        )

    def settings(self) -> dict[str, object]:
        """What the bytes of the result depend on, as JSON values."""
        about = to_dict(self.encoding) | {
            "holdout": self.holdout,
            "device": torch.device(self.device).type,
            "step": self.step,
        }
        return {name: value for name, value in about.items() if name not in ("spec", "source")}

    def check(self) -> None:
        """Raise ValueError if there are no captions for the text encoder, if the transform does not
        give the tokenizer's image size, or if so large a share cannot be held out."""
        _ = self.held_out
        if self.text is not None:
            require_captions(self.source)
        if self.tokenizer.size != (self.transform.size, self.transform.size):
            raise ValueError(
                f"the tokenizer reads images of {self.tokenizer.size} pixels, "
                f"the transform gives {self.transform.size}"
            )

    @torch.inference_mode()
    def __call__(self, chosen: Iterable[int]) -> list[Row]:
        """The rows of some images, without those that cannot be decoded."""
        source, found = self.source, dict[int, Example]()
        for i in chosen:
            if (example := read(source, i)) is not None:
                found[i] = example
        if not found:
            return []
        pixels = np.concatenate([self.transform.views(e.image) for e in found.values()])
        images = to_float(torch.from_numpy(pixels).to(self.device))
        read_codes = self.tokenizer.moments if self.sampled else self.tokenizer.encode
        try:
            codes = read_codes(images).cpu().numpy()
        except NotFinite:
            for i, views in zip(found, images.chunk(len(found)), strict=True):
                try:
                    read_codes(views)
                except NotFinite as error:
                    raise NotFinite(f"codes of {source.key(i)!r}: {error}") from None
            raise
        codes = codes.reshape(len(found), self.transform.view_count, *codes.shape[1:])
        captions = [e.caption for e in found.values()]
        texts: Sequence[np.ndarray | None] = [None] * len(captions)
        if self.text is not None:
            texts = features(self.text, captions, self.device)
        return [
            Row(code, e.label, e.caption, i in self.held_out, source.key(i), words)
            for (i, e), code, words in zip(found.items(), codes, texts, strict=True)
        ]


class Parts(NamedTuple):
    """A folder of what is encoded so far: token caches of images in turn."""

    folder: Path
    encoding: Encoding

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

    def begin(self, settings: dict[str, object], source: Source, replace: bool) -> range:
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
            cache = TokenCache(self.path(start, stop))
            keys = set(cache.keys(cache.indices("all")))
            for i in range(start, stop):
                if source.key(i) not in keys:
                    read(source, i)
        left = range(done[-1][1] if done else 0, len(source))
        if done:
            say(f"{left.start} of {len(source)} images are encoded already; going on with the rest")
        return left

    def fill(self, coder: Coder, left: range) -> None:
        """Encode what is left and write a part now and then."""
        blocks, since = list[tuple[int, int, list[Row]]](), time.monotonic()
        step = coder.step

        def write() -> None:
            if rows := [row for *_, some in blocks for row in some]:
                write_cache(self.path(blocks[0][0], blocks[-1][1]), rows, self.encoding)
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

    def rows(self) -> Iterator[Row]:
        """Those of all parts."""
        for start, stop in self.done():
            yield from TokenCache(self.path(start, stop)).rows()


def features(
    encoder: TextEncoder, captions: list[str], device: torch.device | str
) -> list[np.ndarray]:
    """The features of each caption, (tokens, C) float16 without padding; none of an empty one."""
    found, mask = encoder(encoder.tokenize(captions).to(device))
    rows, masks = found.cpu().to(torch.float16).numpy(), mask.cpu().numpy()  # as the cache stores
    texts = zip(rows, masks, captions, strict=True)
    return [row[mask if caption else slice(0)] for row, mask, caption in texts]
