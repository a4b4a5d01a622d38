"""A pipeline written again: with another tokenizer of the same codes, in fewer bits, or both."""

from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from smalti import modules
from smalti.config import read_json
from smalti.files import filling, write_json
from smalti.modules import exact_names, load_module, mark_of_codes, write_module
from smalti.nn.stored import Bits, round_weights
from smalti.pipeline.card import FILE as CARD
from smalti.pipeline.card import is_own, renewed
from smalti.pipeline.folders import check_pipeline, keep_parts
from smalti.tokenizers.base import ImageTokenizer

PARTS = {
    "tokenizer": modules.TOKENIZERS,
    "map": modules.TOKENIZERS,
    "text": modules.TEXT,
    "eye": modules.EYES,
    "words": {},
    "model": modules.MODELS | modules.UNIFIED,
}
"""Folders of a pipeline and what they may hold; the model, which names the marks of the others,
last."""
OWN = ("type", "config", "fingerprint", "coder", "stored")
"""What a module's config.json says of itself, and not of the others."""


def repack(
    pipeline: Path, out: Path, tokenizer: ImageTokenizer | None = None, bits: Bits | None = None
) -> None:
    """Write the pipeline of a folder to another one, `out`, with a `tokenizer` in the place of its
    own, or with weights of fewer `bits`; all else is copied byte for byte.

    Raises ValueError for a tokenizer where nothing is drawn, if it gives other codes, if a part
    does not belong to the others, and, naming what is there, if `out` holds something else than a
    pipeline.
    """
    if out.resolve() == pipeline.resolve():
        raise ValueError(f"{out} is the pipeline itself: give another folder")
    check_pipeline(out)
    info = read_json(pipeline / "pipeline.json")
    if tokenizer is not None and not (pipeline / "tokenizer" / "config.json").is_file():
        raise ValueError(f"{pipeline} draws no pictures: it has no tokenizer")
    changed = dict[str, str]()  # marks that parts name each other by, as they were and as they are
    with filling(out) as temporary, TemporaryDirectory(dir=temporary) as spare:
        for name in (name for name in PARTS if (pipeline / name).is_dir()):
            old, new = pipeline / name, temporary / name
            if name == "tokenizer" and tokenizer is not None:
                _replace(old, Path(spare) / name, tokenizer)
                old = Path(spare) / name
            if bits is not None and PARTS[name]:
                changed |= _rounded(old, new, PARTS[name], bits, changed)
            else:
                shutil.copytree(old, new)
        parts = [name for name, kinds in PARTS.items() if kinds and (temporary / name).is_dir()]
        became = {_mark(pipeline / name): _mark(temporary / name) for name in parts}
        marks = [became.get(mark, mark) for mark in str(info["fingerprint"]).split("-")]
        write_json(temporary / "pipeline.json", info | {"fingerprint": "-".join(marks)})
        _copy_card(pipeline, temporary, out, info["fingerprint"], "-".join(marks))
    keep_parts(out, [name for name in PARTS if (pipeline / name).is_dir()])


def _copy_card(pipeline: Path, temporary: Path, out: Path, before: str, after: str) -> None:
    """Take a pipeline's README.md along, unless there is one that is not of smalti: its card with
    the new fingerprint, or what somebody wrote."""
    card, there = pipeline / CARD, out / CARD
    if card.is_file() and (not there.exists() or is_own(_text(there))):
        text = renewed(_text(card), before, after)
        (temporary / CARD).write_text(text, encoding="utf-8", errors="surrogateescape")


def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8", errors="surrogateescape")


def _last(mark: Any, changed: dict[str, str]) -> Any:
    """What became of a mark in the end."""
    while isinstance(mark, str) and changed.get(mark, mark) != mark:
        mark = changed[mark]
    return mark


def _mark(part: Path) -> str:
    """The fingerprint of a part."""
    return str(read_json(part / "config.json")["fingerprint"])


def _replace(old: Path, new: Path, tokenizer: ImageTokenizer) -> None:
    """Write a tokenizer in the place of another one. Raises ValueError if its codes are others."""
    write_module(tokenizer, new)
    wanted = mark_of_codes(read_json(old / "config.json"))
    if (given := mark_of_codes(read_json(new / "config.json"))) != wanted:
        raise ValueError(
            f"the model of {old.parent} draws codes of tokenizer {wanted}, this one has those of "
            f"{given}"
        )


def _rounded(
    old: Path, new: Path, among: dict[str, Any], bits: Bits, changed: dict[str, str]
) -> dict[str, str]:
    """Write a part in fewer bits; how its marks change."""
    module, before = load_module(old, among)
    module.float()
    round_weights(module, bits, exact_names(module))
    others = {k: _last(v, changed) for k, v in before.items() if k not in OWN}
    write_module(module, new, bits, **others)
    after = read_json(new / "config.json")
    return {
        before["fingerprint"]: after["fingerprint"],
        mark_of_codes(before): mark_of_codes(after),
    }
