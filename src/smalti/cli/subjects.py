"""What `smalti eval` can measure: pictures, a pipeline, which is drawn from, a tokenizer, or towers
that match pictures and texts."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from smalti import __version__
from smalti.cli.evaluate import Options
from smalti.cli.matching import Found, Judge, of_towers
from smalti.cli.options import spelled
from smalti.cli.reading import Examiner, of_answers
from smalti.cli.running import check_idle
from smalti.config import to_dict
from smalti.data.documents import JOINT, is_documents
from smalti.data.open import SCHEMES, is_here, is_local
from smalti.devices.named import named_device, named_dtype
from smalti.eval.gathered import of_reference
from smalti.eval.measure import measure
from smalti.eval.metrics import KNOWN, METRICS, NETWORK, READING, How, named
from smalti.eval.pipelines import asked, asked_of, bits, check_judge, conditioning, source_of
from smalti.eval.reconstructed import Reconstructed
from smalti.eval.report import Measured, as_json
from smalti.eval.sets import ImageSet, open_set
from smalti.files import expand
from smalti.loading import is_towers
from smalti.modules import fingerprint
from smalti.progress import say
from smalti.recipes.base import DataConfig
from smalti.tokenizers.base import side_of

Judges = tuple[Judge, Examiner]
"""What looks at pictures, if it is asked for."""
CACHE = "SMALTI_CACHE"
"""Environment variable: the folder of what is kept of references."""


def report_of(subject: str, options: Options, sampling: dict[str, Any]) -> dict[str, Any]:
    """The report of `smalti eval`. Raises ValueError for what cannot be measured."""
    _check(options)
    names = set(named(options.metrics))
    towers = bool(names & set(KNOWN)) or is_towers(expand(subject))
    if sampling and (towers or names & set(READING)):
        raise ValueError(
            f"{', '.join(sampling)}: settings of drawing are for a pipeline that draws"
        )
    if towers:
        _refuse(options, "towers")
        found = of_towers(subject, options)
    elif names & set(READING):
        _refuse(options, "answers")
        found = of_answers(subject, options)
    else:
        found = _of_pictures(subject, options, sampling)
    reference = found.reference
    about: dict[str, Any] = {"subject": {"name": subject, **found.subject}}
    about["reference"] = None if reference is None else {"name": found.given, **_set(reference)}
    about["settings"] = {k: getattr(options, k) for k in ("seed", "bootstrap", "batch")}
    about["versions"] = {"smalti": __version__, "torch": torch.__version__, "numpy": np.__version__}
    return as_json(found.metrics, about | dict(found.details))


def _of_pictures(subject: str, options: Options, sampling: dict[str, Any]) -> Found:
    """What is measured of pictures, a pipeline or a tokenizer."""
    device = named_device(options.device)
    pipe, tokenizer = _opened(subject, device, options.dtype)
    if sampling and pipe is None:
        raise ValueError(f"{', '.join(sampling)}: settings of drawing are for a pipeline")
    kind = "pipeline" if pipe is not None else "tokenizer" if tokenizer is not None else "pictures"
    _refuse(options, kind)
    size: int | None = options.size
    if tokenizer is not None and size is None:
        size = side_of(tokenizer)
    given = options.reference
    if given is None and pipe is not None:
        given = held_out(pipe)
    reference, judges = None, (Judge.of(options, given, share_of(pipe)), Examiner.of(options))
    if given is not None:
        reference = open_set(given, size, options.skip_bad, share_of(pipe))
    how = _how(options)
    if pipe is not None:
        found, told, details = _of_pipeline(pipe, reference, how, options, sampling, judges)
        return Found(found, told, given, reference, details)
    if tokenizer is not None:
        found, told = _of_tokenizer(tokenizer, reference, how, options)
        return Found(found, told, given, reference)
    alone = None if how.metrics else judges[0].side
    size = alone if options.size is None else options.size
    pictures = open_set(subject, size, options.skip_bad)
    found, details = _judged(judges, subject, how)
    if how.metrics:
        found = measure(pictures, reference, how, cache=cache(), say=say) + found
    return Found(found, {"kind": "pictures", **_set(pictures)}, given, reference, details)


def _judged(
    judges: Judges, pictures: str | Path, how: How
) -> tuple[list[Measured], dict[str, Any]]:
    """What towers and a reader say of pictures, and what is told of it beside the numbers."""
    found, details = list[Measured](), dict[str, Any]()
    for judge in judges:
        metrics, told = judge.measured(pictures, how)
        found += metrics
        details |= told
    return found, details


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


def held_out(pipe: Any, option: str = "--reference") -> str:
    """The set of pictures that the pipeline never saw. Raises ValueError, naming the option by
    which a command is given another set, if it does not say or if the files are not here."""
    source = source_of(pipe)
    if not source or not pipe.info.get("holdout"):
        raise ValueError(f"the pipeline does not say which pictures it never saw: give {option}")
    if is_documents(source) or JOINT.search(source):
        raise ValueError(
            f"the pipeline learned documents ({source}): give {option} with the pictures and "
            "captions that it is to draw"
        )
    if not is_here(source):
        raise ValueError(f"the pipeline learned {source}, which is not here: give {option}")
    return f"{source}@held"


def share_of(pipe: Any | None) -> float:
    """The share of a source that `@held` stands for: the pipeline's own, else that of the recipes
    of small systems."""
    return (pipe.info.get("holdout") if pipe is not None else None) or DataConfig().holdout


def _refuse(options: Options, kind: str) -> None:
    """Raise ValueError for options that a subject of a kind has no use for: pictures, pipeline (it
    draws), tokenizer, towers, answers (of a pipeline)."""
    pictures = ("pictures", "pipeline")
    for names, kinds, what in (
        (("n", "balanced", "conditioning", "keep"), ("pipeline",), "a pipeline that draws"),
        (("lpips", "lpips_weights"), ("tokenizer",), "a tokenizer"),
        (("size", "towers", "reader"), pictures, "pipelines and sets of pictures"),
        (("templates",), ("towers",), "towers"),
        (
            ("inception", "level", "half"),
            (*pictures, "tokenizer"),
            "pictures, pipelines and tokenizers",
        ),
    ):
        for name in names:
            if is_given(options, name) and kind not in kinds:
                raise ValueError(f"{spelled(name)} is for {what}")
    draws = kind in ("pipeline", "answers") or options.reader is not None
    if options.dtype != "auto" and not draws:
        raise ValueError("--dtype is for a pipeline that draws or answers")


def is_given(options: Options, name: str) -> bool:
    """Whether an option is another than it is by itself; a 0 is one."""
    return getattr(options, name) != getattr(Options, name)


def _check(options: Options) -> None:
    """Raise ValueError for what can be seen to be wrong before anything is opened."""
    names = named(options.metrics) or ("fwd", *KNOWN)
    named_dtype(options.dtype)
    for option, metrics in (
        ("inception", NETWORK),
        ("level", ("fwd",)),
        ("half", [name for name in NETWORK if METRICS[name].needs == "rows"]),
        ("templates", ("zero_shot",)),
    ):
        if is_given(options, option) and not {*metrics} & {*names}:
            raise ValueError(f"{spelled(option)} is for {', '.join(metrics)}, which is not asked")
    if options.lpips_weights is not None and not options.lpips:
        raise ValueError("--lpips-weights is for --lpips")
    if options.batch < 1 or options.bootstrap < 0:
        raise ValueError(
            "--batch must be at least 1 and --bootstrap 0 or more, "
            f"got {options.batch}, {options.bootstrap}"
        )


def _how(options: Options) -> How:
    """What is measured of pictures alone; fwd where nothing is named."""
    metrics = named(options.metrics) or ("fwd",)
    metrics = tuple(name for name in metrics if name in METRICS)
    net = None
    if any(m in NETWORK for m in metrics):
        from smalti.features.inception import load_inception

        net = load_inception(options.inception).to(named_device(options.device))
    given = {"level": options.level, "half": options.half, "draws": options.bootstrap}
    return How(metrics, net, seed=options.seed, batch=options.batch, **given)


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
    pipe: Any,
    reference: ImageSet | None,
    how: How,
    options: Options,
    sampling: dict[str, Any],
    judges: Judges,
) -> tuple[list[Measured], dict[str, Any], dict[str, Any]]:
    """Draws into an .npz file, `options.keep` or a temporary one, and measures that."""
    assert reference is not None
    check_idle(pipe, sampling)
    request = asked(pipe, reference, options.balanced)
    judges[1].check(request.get("text") or pipe.classes)
    if options.conditioning:
        check_judge(pipe, reference)
    real = of_reference(reference, how, cache())  # mistakes before the pictures are drawn
    count = _count(reference, how, options.n)
    with tempfile.TemporaryDirectory() as folder:
        file = options.keep or Path(folder) / "drawn.npz"
        _draw(pipe, file, count, request, options, sampling)
        drawn = open_set(file, options.size)
        found = measure(drawn, reference, how, say=say, real=real) if how.metrics else []
        judged, details = _judged(judges, file, how)
        found += judged
        found += bits(pipe, reference, how)
        if options.conditioning:
            labels = asked_of(pipe, reference, count, options.balanced)
            found += conditioning(drawn, source_of(pipe), how, labels)
        mark = drawn.hash  # which reads the file, if nothing else has
    theirs = bool(request) and not options.balanced
    told = {
        "kind": "pipeline",
        **_drawn_by(pipe, sampling),
        "hash": mark,
        "images": count,
        "seed": options.seed,
        "conditions": "those of the reference, in turn" if theirs else "all in turn",
    }
    return found, told, details


def _count(reference: ImageSet, how: How, n: int | None) -> int:
    """The number of pictures to draw. Raises ValueError for fewer than the metrics need."""
    if n is None and not len(reference):
        raise ValueError(f"{reference.name} holds statistics and no pictures: give --n")
    count = n if n is not None else len(reference)
    if count < how.least:
        names = ", ".join(how.metrics) or "this"
        raise ValueError(f"{names}: needs at least {how.least} pictures, got --n {count}")
    return count


def _draw(
    pipe: Any,
    file: Path,
    count: int,
    request: dict[str, Any],
    options: Options,
    sampling: dict[str, Any],
) -> None:
    """Draw pictures into an .npz file. Who stops it learns how pictures could be kept."""
    from smalti.pipeline.npz import draw_npz

    given = {"seed": options.seed, "batch": options.batch, "balanced": options.balanced}
    try:
        draw_npz(pipe, file, count, **request, **given, **sampling)
    except KeyboardInterrupt:
        if options.keep is None:
            raise KeyboardInterrupt("stopped; --keep FILE.npz would keep pictures") from None
        raise


def _drawn_by(pipe: Any, sampling: dict[str, Any]) -> dict[str, Any]:
    """What decides which pictures a pipeline draws, beside the seed and what is asked for."""
    return {
        "fingerprint": pipe.fingerprint,
        "tokenizer": fingerprint(pipe.tokenizer),
        "sampling": to_dict(pipe.drawing([], **sampling).sampling),
        "dtype": str(pipe.dtype).removeprefix("torch."),
    }


def _of_tokenizer(
    tokenizer: Any, reference: ImageSet | None, how: How, options: Options
) -> tuple[list[Measured], dict[str, Any]]:
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
