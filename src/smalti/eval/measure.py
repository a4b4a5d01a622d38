"""Distances and scores of a set of pictures against a reference, each with its interval."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from smalti.eval.bootstrap import Interval, around, of_blocks, of_means, resamples
from smalti.eval.frechet import distance, too_few
from smalti.eval.gathered import ROOM, Gathered, Stream, gather, of_reference
from smalti.eval.metrics import KID_SUBSET, METRICS, NETWORK, How
from smalti.eval.report import FULL, Kind, Measured, counted
from smalti.eval.scores import consecutive, in_balls, kernel_distances, shuffled, split_scores
from smalti.eval.sets import ImageSet, same_size


def measure(
    samples: Stream,
    reference: ImageSet | None,
    how: How,
    kind: Kind = "generation",
    cache: Path | None = None,
    say: Callable[[str], None] = lambda text: None,
    real: Gathered | None = None,
) -> list[Measured]:
    """Every metric of `how`. `say` gets warnings, such as of too few pictures.

    `real` is `of_reference`, where it is known. Raises ValueError if a metric needs a reference and
    there is none, or pictures that are not there, for pictures of two sizes, and for too few.
    """
    _check(samples, reference, how)
    paired = kind == "reconstruction"
    against = reference if any(METRICS[m].reference for m in how.metrics) else None
    if real is None:
        real = Gathered() if against is None else of_reference(against, how, cache, paired)
    drawn = gather(samples.batches(how.batch), how, how.needs, ROOM / 2 if paired else ROOM)
    if drawn.images < how.least:
        names = ", ".join(how.metrics)
        raise ValueError(f"{names}: needs at least {how.least} pictures, got {drawn.images}")
    for text in _warnings(samples, drawn, how):
        say(text)
    alone = {"images": drawn.images, "kind": kind, "preparation": preparation(samples)}
    beside = alone
    if against is not None:
        beside = alone | {"reference": against.hash, "reference_images": len(against)}
        beside["preparation"] += f"; reference {preparation(against)}"
    numbers = _numbers(drawn, real, how, paired)
    return [
        Measured(
            counted(f"r{metric}" if paired else metric, drawn.images, FULL),
            _definition(metric, how, drawn, real),
            value,
            better=METRICS[metric].better,
            interval=interval,
            resampled="reference" if paired or metric == "recall" else "images",
            extractor=how.extractor if metric in NETWORK else "",
            **(beside if METRICS[metric].reference else alone),
        )
        for metric, (value, interval) in ((m, numbers[m]) for m in how.metrics)
    ]


def _check(samples: Stream, reference: ImageSet | None, how: How) -> None:
    """Raise ValueError for what can be seen to be wrong before any picture is measured."""
    against = [m for m in how.metrics if METRICS[m].reference]
    if against and reference is None:
        raise ValueError(f"{', '.join(against)}: a reference is needed, give --reference")
    if isinstance(samples, ImageSet):
        samples.require(", ".join(how.metrics))
        if reference is not None:
            same_size(samples, reference)


def _warnings(samples: Stream, drawn: Gathered, how: How) -> Iterator[str]:
    """What a reader of the numbers should know."""
    if "inception_score" in how.metrics and _sorted(samples):
        few = "the consecutive splits of the score see few each"
        yield f"the pictures are sorted by class, so {few}"
    for name, blocks in drawn.moments.items():
        if text := too_few(drawn.images, blocks[0].mean.shape[-1]):
            yield f"{name}: {text}"
        if how.draws and len(blocks) == 1:
            yield f"{name}: there is no interval: {drawn.single[name]}"


def _sorted(samples: Any) -> bool:
    """Whether a set is known to go class by class."""
    labels = samples.labels if isinstance(samples, ImageSet) else np.empty(0)
    return len(labels) > 2 and labels[0] < labels[-1] and bool((np.diff(labels) >= 0).all())


def preparation(pictures: Any) -> str:
    """Size, crop and filter of a set, in words; pictures that a model made were not cut."""
    if not isinstance(pictures, ImageSet):
        return "as drawn"
    if pictures.size is None:
        return "statistics"
    h, w = pictures.size
    return f"{h}x{w}, crop {pictures.crop}, filter {pictures.filter}"


def _definition(metric: str, how: How, drawn: Gathered, real: Gathered) -> str:
    level = ""
    if metric == "fwd":
        count = len(drawn.moments["packets"][0].mean)
        level = str((count.bit_length() - 1) // 2)
    return METRICS[metric].definition.format(
        level=level,
        distances="float16 as ADM" if how.half else "float64",
        subset=min([KID_SUBSET, *(sum(map(len, some.rows)) for some in (drawn, real))]),
    )


Number = tuple[float, Interval | None]


def _numbers(drawn: Gathered, real: Gathered, how: How, paired: bool) -> dict[str, Number]:
    """The value of each metric, and its interval."""
    found: dict[str, Number] = {}
    for metric in how.metrics:
        needs = METRICS[metric].needs
        if needs == "logits":
            found[metric] = _score(metric, drawn, how)
        elif metric == "kid":
            found[metric] = _kid(drawn, real, how, paired)
        elif needs != "rows":
            found[metric] = _frechet(drawn, real, needs, how)
    if {"precision", "recall"} & set(how.metrics):
        found |= _shares(drawn, real, how)
    return found


def _frechet(drawn: Gathered, real: Gathered, needs: str, how: How) -> Number:
    """Of blocks of pictures, and with them those of a reference that has blocks too."""

    def value(times: np.ndarray) -> float:
        pair = (some.gaussian(needs, times.tolist()) for some in (drawn, real))
        return distance(*pair).mean().item()

    counts = [block.count for block in drawn.moments[needs]]
    whole = value(np.ones(len(counts), np.int64))
    return whole, of_blocks(whole, value, counts, how.draws, how.seed, (0.0, math.inf))


def _shares(drawn: Gathered, real: Gathered, how: How) -> dict[str, Number]:
    """Precision and recall. Balls stay as they are: of pictures taken twice they would shrink."""
    pair = in_balls(torch.cat(real.rows), torch.cat(drawn.rows), half=how.half)
    shares = (found.double().cpu().numpy() for found in pair)
    pairs = zip(("precision", "recall"), shares, strict=True)
    return {name: (float(x.mean()), of_means(x, how.draws, how.seed)) for name, x in pairs}


def _score(metric: str, drawn: Gathered, how: How) -> Number:
    """An Inception Score; a split keeps its pictures, so often as they are taken."""
    logits, cut = torch.cat(drawn.logits), consecutive if metric == "inception_score" else shuffled
    value = split_scores(cut(logits)).mean().item()
    times = _times(len(logits), how)
    if times is None:
        return value, None
    scores = split_scores(cut(logits), cut(times)).nanmean(0)
    return value, around(value, scores.numpy(), (1.0, math.inf))


def _kid(drawn: Gathered, real: Gathered, how: How, paired: bool) -> Number:
    """Samples are resampled, and with reconstructions their originals."""
    rows, others = torch.cat(drawn.rows), torch.cat(real.rows)
    once, times = torch.ones(len(rows), 1), _times(len(rows), how)
    times = once if times is None else torch.cat((once, times), 1)
    subset = min(KID_SUBSET, len(rows), len(others))
    both = times, times if paired else torch.ones(len(others), 1)
    values = kernel_distances(rows, others, *both, size=subset).mean(0)
    return values[0].item(), around(values[0].item(), values[1:].numpy())


def _times(count: int, how: How) -> Tensor | None:
    """How often each picture is taken by each resample, (M, R)."""
    taken = [torch.from_numpy(times) for times in resamples(count, how.draws, how.seed)]
    return torch.stack(taken, 1) if taken else None
