"""What converting the released files of every project has in common."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import nn

from smalti.files import contents
from smalti.interop.pickles import files_of, sha256
from smalti.modules import check_module, save_module
from smalti.pipeline.folders import check_pipeline
from smalti.pipeline.pipeline import Pipeline
from smalti.pipeline.unified import UnifiedPipeline
from smalti.progress import waiting

Dtype = Literal["stored", "float32", "bfloat16", "float16"]


class Repository(NamedTuple):
    """What a repository of the hub publishes."""

    tokenizers: tuple[str, ...]
    """The models learned codes of the first one, but for those that say otherwise."""
    models: tuple[str, ...] = ()
    """Files, or folders of shards, whose names have no ending; none where tokenizers are alone."""
    home: str = ""
    """The repository of the tokenizers, if it is another one."""
    learned: tuple[tuple[str, str], ...] = ()
    """Models that learned codes of another tokenizer than the first, and its name."""
    words: str = ""
    """The text tokenizer of models of text and pictures, where it is not in their folder."""
    beside: tuple[str, ...] = ()
    """Files that say of the tokenizers what their weights do not, and are to stand beside them."""


def save_pipeline(
    make: Callable[[], Pipeline | UnifiedPipeline],
    out: Path,
    source: str,
    *files: Path,
    card: Mapping[str, Any] | None = None,
) -> None:
    """Write what `make` makes of the files as the folder `out`, with their hashes and what its
    model card is to say.

    Raises ValueError if there is something else than a pipeline.
    """
    check_pipeline(out)  # before gigabytes are read
    with waiting(f"reading {files[-1]}"):
        pipeline = make()
    pipeline.info |= {"source": source, "files": hashes(*files)} | ({"card": card} if card else {})
    with waiting(f"writing {out}"):
        pipeline.save_pretrained(out)


def save_tokenizer(make: Callable[[], nn.Module], out: Path, source: str, file: Path) -> None:
    """Write the tokenizer that `make` makes of a file as the new folder `out`, with its hash."""
    if contents(out):
        raise ValueError(f"{out} exists; a tokenizer alone needs a new folder")
    check_module(out)
    save_module(make(), out, source=source, files=hashes(file))


def hashes(*paths: Path) -> dict[str, str]:
    """The hash of each file by its name, of a sharded checkpoint of its index and every shard; of
    files of one name, by those of as many folders as tell them apart."""
    files = list(dict.fromkeys(file for path in paths for file in files_of(path)))
    found = dict[str, str]()
    for file in files:
        count = 1
        while sum(other.parts[-count:] == file.parts[-count:] for other in files) > 1:
            count += 1
        found["/".join(file.parts[-count:])] = sha256(file)
    return found


def dtype_of(name: Dtype) -> torch.dtype | None:
    """None leaves weights as they are stored."""
    return None if name == "stored" else getattr(torch, name)


def pair(option: str, text: str, unit: int) -> tuple[int, int]:
    """Height and width of "16" or "16x24", in units. Raises ValueError naming the option."""
    found = re.fullmatch(r"(\d+)(?:x(\d+))?", text)
    h, w = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if not h or not w or h % unit or w % unit:
        raise ValueError(
            f"{option} must be a number or HEIGHTxWIDTH, multiples of {unit}, got {text!r}"
        )
    return h // unit, w // unit
