"""`smalti repack`: a trained pipeline with another tokenizer behind it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from smalti.progress import say, show


def repack(
    pipeline: Annotated[Positional[str], arg(metavar="PIPELINE")],
    tokenizer: str,
    out: Path,
    json: bool = False,
) -> None:
    """Write a pipeline again with another tokenizer of the same codes, which makes its pictures.

    Args:
        pipeline: Pipeline, a folder or a hub id; it stays as it is.
        tokenizer: Folder of a tokenizer whose codes are those of the pipeline's: made by training
            shapes_refined or illume_refiner around that one.
        out: Folder to write; an older pipeline there is replaced.
        json: Print what was written on standard output.
    """
    from smalti.cli.info import describe
    from smalti.files import expand
    from smalti.loading import download, load_tokenizer
    from smalti.pipeline.repack import repack as run

    folder, target = expand(pipeline), expand(out)
    if not folder.is_dir():
        folder = download(pipeline)
    made = load_tokenizer(tokenizer, "cpu")
    run(folder, made, target)
    if json:
        show(describe(str(out)))
    else:
        height, width = made.size
        say(f"{out}: pictures of {height} x {width} pixels; smalti info {out} says more")
