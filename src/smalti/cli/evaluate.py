"""`smalti eval`: measure pictures, a pipeline, a tokenizer or towers; compare two reports.

Imports torch when it measures; what is measured of which subject, `subjects` says.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from smalti.cli.drawing import chosen
from smalti.cli.reports import line
from smalti.cli.running import Device, Dtype
from smalti.config import from_dict, read_json
from smalti.files import check_file, expand, write_json
from smalti.progress import say, show


@dataclass(frozen=True)
class Options:
    reference: str | None = None
    """What to measure against: a folder, an .npz, or a data source such as emoji@held; for answers
    documents such as qa:FILE.jsonl or captioned:SOURCE."""
    metrics: tuple[str, ...] = ()
    """fwd, fid, sfid, inception_score, inception_score_fidelity, precision, recall, kid; clip_score
    and cmmd by --towers; gecko by --reader; of towers zero_shot and retrieval; of a pipeline's
    answers vqa, exact_match, cider, cider_d, yes_no. Default: fwd, which needs no network's
    weights; of towers both, where there are classes."""
    towers: str | None = None
    """What sees pictures and reads texts for clip_score and cmmd: the folder of towers, or of a
    CLIP or a SigLIP of transformers, or a hub id such as openai/clip-vit-base-patch32."""
    reader: str | None = None
    """What answers questions about pictures for gecko: the folder or hub id of a pipeline of text
    and pictures."""
    templates: tuple[str, ...] = ()
    """Sentences with {} where a class is named, for zero_shot; default: read off the captions that
    name their class, else "a photo of a {}."."""
    n: int | None = None
    """Pictures to draw from a pipeline; default: as many as the reference has."""
    seed: int = 0
    """Random seed of drawing and of the intervals."""
    out: Path | None = None
    """JSON file to write; default: the report goes to standard output."""
    inception: Path | None = None
    """File with the Inception network of 2015-12-05; default: downloaded once."""
    lpips: tuple[Literal["alex", "vgg"], ...] = ()
    """Also measure LPIPS of a tokenizer's reconstructions, with the network alex, vgg or both."""
    lpips_weights: Path | None = None
    """Folder of the published files of LPIPS and its network; default: downloaded once."""
    level: int | None = None
    """Level of the wavelet packets; default: chosen by the size of the pictures."""
    half: bool = False
    """Compute the distances of precision and recall in float16, as the ADM evaluator does."""
    size: int | None = None
    """Resize and crop the pictures of sets to so many pixels of a side."""
    skip_bad: bool = False
    """Leave out pictures that cannot be read; the report counts them."""
    bootstrap: int = 200
    """Number of bootstrap resamples behind each interval; 0 gives no intervals."""
    batch: int = 64
    """Number of pictures that are measured at a time."""
    balanced: bool = False
    """Draw equally many pictures of each class; default: of the classes as the reference has
    them."""
    conditioning: bool = False
    """Also measure how many pictures of a pipeline show the class or caption asked for."""
    device: Device = "auto"
    """Where it is computed: auto (the best there is), cpu, cuda, cuda:1 or mps."""
    dtype: Dtype = "auto"
    """Of a generator's weights: float32, bfloat16, float16, or auto, which is bfloat16 where the
    device is faster in it and float32 elsewhere."""
    keep: Path | None = None
    """Keep a pipeline's pictures in this .npz file; a drawing that was cut off goes on there."""


def evaluate(
    subject: Annotated[Positional[str], arg(metavar="SUBJECT")],
    options: Annotated[Options, arg(name="")] = Options(),  # noqa: B008 - it is frozen
    settings: Annotated[Any, arg(name="")] = None,
) -> None:
    """Measure pictures against a reference, a pipeline, a tokenizer, or towers.

    `smalti eval compare A.json B.json` says how two reports differ, or why they do not compare.

    Args:
        subject: A folder of pictures, an .npz, a data source, a pipeline (which is drawn from), a
            tokenizer (whose reconstructions are measured), or towers that match pictures and texts.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise ValueError(
            "eval is one process: draw with torchrun and smalti sample --npz, then measure that"
        )
    if options.keep is not None and options.keep.suffix != ".npz":
        raise ValueError(f"--keep must name a file that ends in .npz, got {options.keep}")
    if options.out is not None:
        check_file(options.out, ".json", _is_report)
        beside = options.keep and expand(options.keep).with_suffix(".json").resolve()
        if beside == expand(options.out).resolve():
            raise ValueError(f"{options.out} says how {options.keep} is drawn: give another --out")
    from smalti.cli.subjects import report_of

    report = report_of(subject, options, chosen(settings))
    if options.out is None:
        show(report)
    else:
        write_json(options.out, report)
    for metric in report["metrics"]:
        say(line(metric["metric"], metric))
    if options.out is not None:
        say(f"{options.out}: {len(report['metrics'])} metrics")


def compare_reports(
    a: Annotated[Positional[Path], arg(metavar="A")],
    b: Annotated[Positional[Path], arg(metavar="B")],
    json: bool = False,
) -> None:
    """How the metrics of report B differ from those of report A, or why they do not compare.

    Args:
        a: Report of `smalti eval`.
        b: Another.
        json: Print the differences as JSON on standard output.
    """
    from smalti.eval.report import compare

    found, refused = compare(*(read_report(path) for path in (a, b)))
    if json:
        show({"differences": found, "refused": refused})
        return
    for name, why in refused.items():
        print(f"{name:28} does not compare: {why}")
    for row in found:
        spread = ""
        if "interval" in row:
            low, high = row["interval"]
            spread = f"  [{low:.5g}, {high:.5g}]{'' if row['clear'] else ', within chance'}"
        print(
            f"{row['metric']:28} {row['a']:.6g} -> {row['b']:.6g}  {row['difference']:+.4g}{spread}"
        )


def read_report(path: Path) -> dict[str, Any]:
    """A report of `smalti eval`. Raises ValueError for anything else."""
    from smalti.eval.report import Measured

    report = read_json(path)
    metrics = report.get("metrics")
    if report.get("format") != 1 or not isinstance(metrics, list) or not metrics:
        raise ValueError(f"{path} is not a report of smalti eval")
    for i, metric in enumerate(metrics):
        from_dict(Measured, metric, f"{path}: metrics[{i}]")
    return report


def _is_report(path: Path) -> bool:
    with suppress(ValueError, OSError):
        return bool(read_report(path))
    return False
