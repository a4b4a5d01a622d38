"""Images and their captions to a token cache.

What is encoded is written in parts, a token cache each, and joined in the end: the bytes are the
same however often the process was killed.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from smalti.config import read_json, to_dict
from smalti.data.skipped import none_left, read, tell
from smalti.data.source import Example, Source, require_captions, split
from smalti.data.token_cache import Row, TokenCache, is_own, write_cache
from smalti.data.transforms import Transform, to_float
from smalti.files import LOCK, SETTINGS, begin_parts, check_own, expand, lock, remove_files
from smalti.modules import fingerprint, identity
from smalti.nn.finite import NotFinite
from smalti.progress import say, track

EVERY = 10.0
"""Seconds of work that are lost at most when the process is killed."""
PART = r"\d{9}-\d{9}\.arrow"
"""Names of parts: numbers of the first image and of the one behind the last."""


def encode(
    source: Source,
    tokenizer: Any,
    transform: Transform,
    out: Path,
    holdout: float = 0.1,
    batch: int = 64,
    device: torch.device | str = "cpu",
    text: Any = None,
    posterior: Literal["sample", "mode"] = "sample",
    half: bool = False,
    replace: bool = False,
) -> int:
    """Encode every fixed view of every image, write the cache at `out`, and return how many images
    were left to encode: cut off, the same call goes on with the parts in the folder `out`.parts.

    A share `holdout` of the images is marked held out, the same ones whatever the tokenizer. `text`
    is a frozen encoder whose features of the captions are to be kept. Of a tokenizer that gives
    distributions of codes, `posterior` keeps them, to draw a sample in each epoch, or their means;
    `half` keeps continuous codes as float16. Codes and parts of something else that are there
    already are refused, or begun anew with `replace`. Images that cannot be decoded are left out,
    and named on standard error.
    Raises ValueError if the transform does not give the tokenizer's image size, if there are no
    captions for `text`, if codes are no numbers, if no image can be decoded, and while another
    process writes there; KeyboardInterrupt says how many images are encoded.
    """
    out, sampled = expand(out), posterior == "sample" and tokenizer.distributions
    if text is not None:
        require_captions(source)
    if tuple(tokenizer.config.size) != (transform.size, transform.size):
        raise ValueError(
            f"the tokenizer reads images of {tokenizer.config.size} pixels, "
            f"the transform gives {transform.size}"
        )
    check_own(out, is_own)
    about = _about(source, tokenizer, transform, text)
    about |= {"half": half, "posterior": sampled}
    held_out = set(split(source, holdout)[1])
    parts = Parts(parts_of(out), about)
    step = max(1, batch // max(transform.view_count, 1))
    settings = parts.settings(holdout, torch.device(device).type, step)
    coder = Coder(tokenizer, transform, source, held_out, text, sampled, device)
    with held(out):
        if out.exists() and _finished(out, parts, source, held_out, replace):
            if not parts.others(settings):  # killed when all but their removal was done
                parts.remove()
            return 0
        left = parts.begin(settings, source, replace)
        try:
            parts.fill(coder, left, step)
            write_cache(out, parts.rows(), **about)
            parts.remove()
        except KeyboardInterrupt:
            if not (done := parts.done()):
                raise
            raise KeyboardInterrupt(
                f"stopped; {done[-1][1]} of {len(source)} images are encoded, the same command "
                "goes on with the rest"
            ) from None
        except OSError as error:
            if parts.folder not in Path(error.filename or out).parents:
                raise  # it is about something else
            raise OSError(error.errno, error.strerror or str(error), str(out)) from error
        finally:
            if not parts.done():
                parts.remove()
    tell(source)
    return len(left)


def held(out: Path) -> AbstractContextManager[None]:
    """Be the only process that writes the cache at `out`."""
    return lock(out.with_name(f".{out.name}{LOCK}"), out)


def parts_of(out: Path) -> Path:
    """The folder of the parts of the cache at `out`."""
    return out.with_name(out.name + ".parts")


def tidy(out: Path) -> None:
    """Remove what a process that was killed at its end left beside the complete cache at `out`."""
    with held(out):
        remove_files(parts_of(out), PART, SETTINGS)


def _about(source: Source, tokenizer: Any, transform: Transform, text: Any) -> dict[str, Any]:
    """What the codes are of, as `write_cache` takes it."""
    return {
        "spec": tokenizer.spec,
        "views": transform.view_count,
        "tokenizer_fingerprint": fingerprint(tokenizer),
        "transform": asdict(transform),
        "source": source.name,
        "source_fingerprint": source.fingerprint(),
        "classes": source.classes,
        "text": None if text is None else identity(text),
    }


def _finished(out: Path, parts: Parts, source: Source, held_out: set[int], replace: bool) -> bool:
    """Whether `out` holds these codes. Raises ValueError if it holds others that stay."""
    cache = TokenCache(out)
    have, wanted = cache.about(), parts.about | {"spec": to_dict(parts.about["spec"])}
    names = [name for name in have if have[name] != json.loads(json.dumps(wanted))[name]]
    keys = {source.key(i) for i in held_out} & set(cache.keys(cache.indices("all")))
    if not names and set(cache.keys(cache.held_out)) != keys:
        names = ["holdout"]
    if not names or replace:
        return not names
    raise ValueError(
        f"{out} holds codes of another {names[0].replace('_fingerprint', '')}: give another "
        "--out, or remove it"
    )


class Coder(NamedTuple):
    """Makes rows of a token cache of images."""

    tokenizer: Any
    transform: Transform
    source: Source
    held_out: set[int]
    text: Any
    sampled: bool
    device: torch.device | str

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
    about: dict[str, Any]
    """What `write_cache` takes."""

    def settings(self, holdout: float, device: str, step: int) -> dict[str, Any]:
        """What the bytes of the result depend on, as JSON values."""
        about = {k: v for k, v in self.about.items() if k not in ("spec", "source")}
        about |= {"holdout": holdout, "device": device, "step": step}
        return json.loads(json.dumps(about))

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

    def others(self, settings: dict[str, Any]) -> list[str]:
        """The settings that were others when what is there was begun."""
        begun = self.folder / SETTINGS
        have = read_json(begun) if begun.is_file() else settings
        return [name for name in settings if have.get(name) != settings[name]]

    def begin(self, settings: dict[str, Any], source: Source, replace: bool) -> range:
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

    def fill(self, coder: Coder, left: range, step: int) -> None:
        """Encode what is left, `step` images at a time, and write a part now and then."""
        blocks, since = list[tuple[int, int, list[Row]]](), time.monotonic()

        def write() -> None:
            if rows := [row for *_, some in blocks for row in some]:
                write_cache(self.path(blocks[0][0], blocks[-1][1]), rows, **self.about)
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


def features(encoder: Any, captions: list[str], device: torch.device | str) -> list[np.ndarray]:
    """The features of each caption, (tokens, C) float16 without padding; none of an empty one."""
    found, mask = encoder(encoder.tokenize(captions).to(device))
    rows, masks = found.cpu().to(torch.float16).numpy(), mask.cpu().numpy()  # as the cache stores
    texts = zip(rows, masks, captions, strict=True)
    return [row[mask if caption else slice(0)] for row, mask, caption in texts]
