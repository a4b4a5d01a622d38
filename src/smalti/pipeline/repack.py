"""A pipeline whose pictures another tokenizer of the same codes makes."""

from __future__ import annotations

import shutil
from pathlib import Path

from smalti.config import read_json
from smalti.files import filling, write_json
from smalti.modules import mark_of_codes, write_module
from smalti.pipeline.pipeline import check_pipeline
from smalti.tokenizers.base import ImageTokenizer

KEPT = ("model", "text", "map", "words", "eye")
"""Folders of a pipeline that say nothing of how codes become pictures."""


def repack(pipeline: Path, tokenizer: ImageTokenizer, out: Path) -> None:
    """Write the pipeline of a folder to another one, `out`, with a tokenizer in the place of its
    own; all else is copied byte for byte.

    Raises ValueError for a pipeline that draws nothing, if the tokenizer gives other codes, and,
    naming what is there, if `out` holds something else than a pipeline.
    """
    if out.resolve() == pipeline.resolve():
        raise ValueError(f"{out} is the pipeline itself: give another folder")
    check_pipeline(out)
    info, config = read_json(pipeline / "pipeline.json"), pipeline / "tokenizer" / "config.json"
    if not config.is_file():
        raise ValueError(f"{pipeline} draws no pictures: it has no tokenizer")
    wanted = mark_of_codes(read_json(config))
    with filling(out) as temporary:
        mark = write_module(tokenizer, temporary / "tokenizer")
        given = mark_of_codes(read_json(temporary / "tokenizer" / "config.json"))
        if given != wanted:
            raise ValueError(
                f"the model of {pipeline} draws codes of tokenizer {wanted}, this one has those "
                f"of {given}"
            )
        for name in KEPT:
            if (pipeline / name).is_dir():
                shutil.copytree(pipeline / name, temporary / name)
        marks = [mark, *str(info["fingerprint"]).split("-")[1:]]
        write_json(temporary / "pipeline.json", info | {"fingerprint": "-".join(marks)})
