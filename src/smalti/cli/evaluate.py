"""`smalti eval`: measure pictures, a pipeline or a tokenizer; compare two reports."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from tyro.conf import Positional, arg

from smalti import __version__
from smalti.cli.drawing import Device, Dtype, chosen
from smalti.config import from_dict, read_json, to_dict
from smalti.data.open import SCHEMES, is_local
from smalti.devices.named import named_device, named_dtype
from smalti.eval.gathered import of_reference
from smalti.eval.measure import measure
from smalti.eval.metrics import NETWORK, How, named
from smalti.eval.pipelines import asked, bits, check_judge, conditioning
from smalti.eval.reconstructed import Reconstructed
from smalti.eval.report import Measured, as_json, compare
from smalti.eval.sets import ImageSet, open_set
from smalti.files import check_file, expand, write_json
from smalti.progress import say, show
from smalti.recipes.base import DataConfig

CACHE = "SMALTI_CACHE"
"""Environment variable: the folder of what is kept of references."""
# -- the command


@dataclass(frozen=True)
class Options:
    reference: str | None = None
    """What to measure against: a folder, an .npz, or a data source such as emoji@held."""
    metrics: tuple[str, ...] = ()
    """fwd, fid, sfid, inception_score, inception_score_fidelity, precision, recall, kid; default:
    fwd, which needs no network's weights."""
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
    """Measure pictures against a reference, a pipeline, or a tokenizer.

    `smalti eval compare A.json B.json` says how two reports differ, or why they do not compare.

    Args:
        subject: A folder of pictures, an .npz, a data source, a pipeline (which is drawn from), or
            a tokenizer (whose reconstructions are measured).
    """
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise ValueError(
            "eval is one process: draw with torchrun and smalti sample --npz, then measure that"
        )
    if options.keep is not None and options.keep.suffix != ".npz":
        raise ValueError(f"--keep must name a file that ends in .npz, got {options.keep}")
    if options.out is not None:
        check_file(options.out, ".json", _is_report)
        if options.keep is not None and options.keep.with_suffix(".json") == options.out:
            raise ValueError(f"{options.out} says how {options.keep} is drawn: give another --out")
    report = run(subject, options, chosen(settings))
    if options.out is None:
        show(report)
    else:
        write_json(options.out, report)
    for metric in report["metrics"]:
        say(line(metric))
    if options.out is not None:
        say(f"{options.out}: {len(report['metrics'])} metrics")


def line(metric: dict[str, Any]) -> str:
    """A metric and its interval for a person."""
    interval = metric["interval"]
    spread = f"  [{interval[0]:.5g}, {interval[1]:.5g}]" if interval else ""
    return f"{metric['metric']:28} {metric['value']:.6g}{spread}"


def run(subject: str, options: Options, sampling: dict[str, Any]) -> dict[str, Any]:
    """The report of `evaluate`. Raises ValueError for what cannot be measured."""
    _check(options)
    device = named_device(options.device)
    pipe, tokenizer = _opened(subject, device, options.dtype)
    if sampling and pipe is None:
        raise ValueError(f"{', '.join(sampling)}: settings of drawing are for a pipeline")
    _refuse(options, pipe is not None, tokenizer is not None)
    size: int | None = options.size
    if tokenizer is not None and size is None:
        size = tokenizer.config.size[0]
    given = options.reference
    if given is None and pipe is not None:
        given = held_out(pipe)
    reference = None
    if given is not None:
        reference = open_set(given, size, options.skip_bad, share_of(pipe))
    how = _how(options)
    about: dict[str, Any] = {"subject": {"name": subject}}
    if pipe is not None:
        found, told = _of_pipeline(pipe, reference, how, options, sampling)
    elif tokenizer is not None:
        found, told = _of_tokenizer(tokenizer, reference, how, options)
    else:
        pictures = open_set(subject, options.size, options.skip_bad)
        found = measure(pictures, reference, how, cache=cache(), say=say)
        told = {"kind": "pictures", **_set(pictures)}
    about["subject"] |= told
    about["reference"] = None if reference is None else {"name": given, **_set(reference)}
    about["settings"] = {k: getattr(options, k) for k in ("seed", "bootstrap", "batch")}
    about["versions"] = {"smalti": __version__, "torch": torch.__version__, "numpy": np.__version__}
    return as_json(found, about)


def _opened(subject: str, device: torch.device, dtype: str) -> tuple[Any, Any]:
    """The subject's pipeline and its tokenizer, or its tokenizer; neither of pictures."""
    from smalti.loading import load, within

    folder = expand(subject)
    if (folder / "pipeline.json").is_file() or not _is_set(subject):
        pipe = load(subject, device, dtype)
        return pipe, pipe.tokenizer
    if (folder / "config.json").is_file():
        from smalti import modules
        from smalti.modules import load_module

        return None, load_module(folder, modules.TOKENIZERS, device)[0]
    if advice := within(folder):
        raise ValueError(f"{subject} holds no pictures{advice}")
    return None, None


def _is_set(subject: str) -> bool:
    name = subject.split("@")[0].split(":")[0]
    known = subject.endswith(".npz") or name in SCHEMES
    return known or expand(subject).exists() or is_local(subject.partition("@")[0])


def held_out(pipe: Any) -> str:
    """The set of pictures that the pipeline never saw. Raises ValueError if it does not say."""
    source = pipe.info.get("source")
    if not source or not pipe.info.get("holdout"):
        raise ValueError("the pipeline does not say which pictures it never saw: give --reference")
    return f"{source}@held"


def share_of(pipe: Any | None) -> float:
    """The share of a source that `@held` stands for: the pipeline's own, else that of the recipes
    of small systems."""
    return (pipe.info.get("holdout") if pipe is not None else None) or DataConfig().holdout


def _refuse(options: Options, pipeline: bool, tokenizer: bool) -> None:
    """Raise ValueError for options that the subject has no use for."""
    drawing = ("n", "balanced", "conditioning", "keep")
    for names, fits, what in (
        (drawing, pipeline, "a pipeline"),
        (("lpips",), tokenizer and not pipeline, "a tokenizer"),
        (("size",), pipeline or not tokenizer, "pipelines and sets of pictures"),
    ):
        for name in names:
            if getattr(options, name) and not fits:
                raise ValueError(f"--{name} is for {what}")


def _check(options: Options) -> None:
    """Raise ValueError for what can be seen to be wrong before anything is opened."""
    named(options.metrics)
    named_dtype(options.dtype)
    if options.batch < 1 or options.bootstrap < 0:
        raise ValueError(
            "--batch must be at least 1 and --bootstrap 0 or more, "
            f"got {options.batch}, {options.bootstrap}"
        )


def _how(options: Options) -> How:
    metrics = named(options.metrics) or ("fwd",)
    net = None
    if any(m in NETWORK for m in metrics):
        from smalti.features.inception import load_inception

        net = load_inception(options.inception).to(named_device(options.device))
    given = {"level": options.level, "half": options.half, "draws": options.bootstrap}
    return How(tuple(metrics), net, seed=options.seed, batch=options.batch, **given)


def cache() -> Path:
    """Where statistics of references are kept."""
    return expand(os.environ.get(CACHE, "~/.cache/smalti")) / "references"


def _set(pictures: ImageSet) -> dict[str, Any]:
    told: dict[str, Any] = {"hash": pictures.hash, "images": len(pictures)}
    told |= {"crop": pictures.crop, "filter": pictures.filter, "size": pictures.size}
    if pictures.skipped:
        told["skipped"] = pictures.skipped
    return told


def _of_pipeline(
    pipe: Any, reference: ImageSet | None, how: How, options: Options, sampling: dict[str, Any]
) -> tuple[list[Measured], dict[str, Any]]:
    """Draws into an .npz file, `options.keep` or a temporary one, and measures that."""
    from smalti.modules import fingerprint
    from smalti.pipeline.npz import draw_npz

    assert reference is not None
    request = asked(pipe, reference, options.balanced)
    if options.conditioning:
        check_judge(pipe)
    real = of_reference(reference, how, cache())  # mistakes before the pictures are drawn
    if options.n is None and not len(reference):
        raise ValueError(f"{reference.name} holds statistics and no pictures: give --n")
    count = options.n if options.n is not None else len(reference)
    if count < how.least:
        names = ", ".join(how.metrics)
        raise ValueError(f"{names}: needs at least {how.least} pictures, got --n {count}")
    with tempfile.TemporaryDirectory() as folder:
        file = options.keep or Path(folder) / "drawn.npz"
        given = {"seed": options.seed, "batch": options.batch, "balanced": options.balanced}
        try:
            draw_npz(pipe, file, count, **request, **given, **sampling)
        except KeyboardInterrupt:
            if options.keep is None:
                raise KeyboardInterrupt("stopped; --keep FILE.npz would keep pictures") from None
            raise
        drawn = open_set(file, options.size)
        found = measure(drawn, reference, how, say=say, real=real)
        found += bits(pipe, reference, how)
        if options.conditioning:
            found += conditioning(drawn, pipe.info["source"], how)
    told = {
        "kind": "pipeline",
        "fingerprint": pipe.fingerprint,
        "tokenizer": fingerprint(pipe.tokenizer),
        "sampling": to_dict(pipe.settings(sampling)),
        "dtype": str(pipe.dtype).removeprefix("torch."),
        "hash": drawn.hash,
        "images": count,
        "seed": options.seed,
        "conditions": "all in turn" if options.balanced else "those of the reference, in turn",
    }
    return found, told


def _of_tokenizer(
    tokenizer: Any, reference: ImageSet | None, how: How, options: Options
) -> tuple[list[Measured], dict[str, Any]]:
    from smalti.modules import fingerprint

    if reference is None:
        raise ValueError("a tokenizer is measured on pictures: give --reference")
    nets, device = {}, next(tokenizer.parameters()).device
    for net in options.lpips:
        from smalti.features.lpips import load_lpips

        nets[f"lpips_{net}"] = load_lpips(net, options.lpips_weights).to(device)
    back = Reconstructed(tokenizer, reference, nets)
    found = measure(back, reference, how, "reconstruction", cache(), say)
    found += back.measured(options.bootstrap, options.seed)
    return found, {"kind": "tokenizer", "fingerprint": fingerprint(tokenizer)}


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
