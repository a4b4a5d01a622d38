"""`smalti repack`: a trained pipeline with another tokenizer behind it, or in fewer bits."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from smalti.progress import say, show


def repack(
    pipeline: Annotated[Positional[str], arg(metavar="PIPELINE")],
    out: Path,
    tokenizer: str | None = None,
    dtype: Literal["bfloat16", "int8"] | None = None,
    data: str | None = None,
    json: bool = False,
) -> None:
    """Write a pipeline again: with another tokenizer of the same codes, which makes its pictures,
    with weights in fewer bits, or both.

    Args:
        pipeline: Pipeline, a folder or a hub id; it stays as it is.
        out: Folder to write; an older pipeline there is replaced.
        tokenizer: Folder of a tokenizer whose codes are those of the pipeline's: made by training
            shapes_refined or illume_refiner around that one.
        dtype: What the files keep weights in: bfloat16, half of float32, or int8, a quarter. What
            that costs is measured and said.
        data: With --dtype: pictures that it is measured on, such as styles@held; default: those
            that the pipeline never saw, where they are here.
        json: Print what was written on standard output.
    """
    from smalti.cli.info import describe
    from smalti.loading import load_tokenizer, pipeline_folder
    from smalti.pipeline.repack import repack as run

    if data is not None and dtype is None:
        raise ValueError(f"--data is what --dtype is measured on, got {data!r} alone")
    if tokenizer is None and dtype is None:
        raise ValueError("repack takes a --tokenizer, a --dtype or both, got neither")
    folder = pipeline_folder(pipeline)
    made = None if tokenizer is None else load_tokenizer(tokenizer, "cpu")
    pictures = None if dtype is None else measured_on(folder, made, data)
    run(folder, out, made, dtype)
    report: dict[str, Any] = describe(str(out)) | {"bytes": size_of(out)}
    if pictures is not None:
        report["costs"] = costs(folder, out, *pictures)
    if json:
        show(report)
        return
    for name, (before, after) in report.get("costs", {}).items():
        say(f"{name}: {after:.4g}, was {before:.4g}")
    what = f"{report['bytes'] / 1e6:.1f} MB, was {size_of(folder) / 1e6:.1f}"
    if made is not None:
        what = "pictures of {} x {} pixels, ".format(*made.size) + what
    say(f"{out}: {what}; smalti info {out} says more")


def size_of(folder: Path) -> int:
    """Bytes of the files of a pipeline."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def measured_on(folder: Path, made: Any, data: str | None) -> tuple[str, float] | None:
    """The name of the pictures that a pipeline, then with the tokenizer that was `made`, is
    measured on, `data` or else those that it never saw, and the share that it held out; None, with
    the reason in a line, where these are not here."""
    from smalti.cli.subjects import held_out, share_of
    from smalti.loading import load

    pipe: Any = load(folder, "cpu", "float32")
    try:
        if pipe.tokenizer is None:
            raise ValueError(f"{folder} draws no pictures")
        given, share = data or held_out(pipe, "--data"), share_of(pipe)
        for tokenizer in (pipe.tokenizer, made or pipe.tokenizer):
            opened(tokenizer, given, share)
        return given, share
    except ValueError as error:
        if data is not None:
            raise
        say(f"what it costs is not measured: {error}")
        return None


def opened(tokenizer: Any, given: str, share: float) -> Any:
    """Pictures at the size of a tokenizer. Raises ValueError for what it cannot give back."""
    from smalti.eval.reconstructed import texts_of
    from smalti.eval.sets import open_set
    from smalti.tokenizers.base import side_of

    pictures = open_set(given, side_of(tokenizer), skip_bad=True, holdout=share)
    texts_of(tokenizer, pictures, range(len(pictures)))
    return pictures


def costs(before: Path, after: Path, given: str, share: float) -> dict[str, tuple[float, float]]:
    """How well two pipelines give pictures back, each at its own size, and how likely these are to
    them, by name."""
    from smalti.eval.metrics import How
    from smalti.eval.pipelines import bits
    from smalti.eval.reconstructed import Reconstructed
    from smalti.loading import load

    told = list[dict[str, float]]()
    for folder in (before, after):
        pipe = load(folder, "cpu", "float32")
        pictures = opened(pipe.tokenizer, given, share)
        back = Reconstructed(pipe.tokenizer, pictures)
        for _ in back.batches(64):
            pass
        found = back.measured(0, 0) + bits(pipe, pictures, How(draws=0))
        told.append({m.metric: m.value for m in found if m.kind != "codes"})
    first, second = told
    return {name: (value, second[name]) for name, value in first.items()}
