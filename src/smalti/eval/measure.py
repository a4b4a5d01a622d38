"""Distances and scores of a set of pictures against a reference, in one pass over each.

Memory does not depend on the number of pictures, but for precision, recall, KID and the Inception
Score, which need the features of each. Intervals are over blocks of pictures, the reference fixed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from smalti.config import did_you_mean, replacing
from smalti.eval.frechet import Gaussian, Moments, distance, too_few
from smalti.eval.report import FULL, Kind, Measured, bootstrap, counted
from smalti.eval.scores import inception_score, inception_score_fidelity, kid, precision_recall
from smalti.eval.sets import ImageSet, same_size
from smalti.eval.wavelet import default_level, packets

BLOCKS = 20
ROOM = 2**30
"""Bytes that the moments of all blocks may take; fewer than 4 blocks give no interval."""
KID_SUBSET = 1000
KEPT = "1"
"""The version of what is kept of references; another one is computed anew."""


@dataclass(frozen=True)
class Metric:
    definition: str
    """It begins with name and version; the version changes when the numbers would."""
    needs: str
    """What it is computed from: packets, pool or spatial moments, pool rows, or logits."""
    better: Literal["lower", "higher"] = "lower"
    reference: bool = True


METRICS = {
    "fwd": Metric(
        "fwd/1: mean over Haar wavelet packets of level {level} of squared Fréchet distances, RGB "
        "in [0, 1], not resized, unbiased covariances, float64 (arXiv:2312.15289)",
        "packets",
    ),
    "fid": Metric(
        "fid/1: squared Fréchet distance of pool_3 of the Inception of 2015-12-05, resized as "
        "TensorFlow 1 does, unbiased covariances, float64 (ADM rounds means to float32)",
        "pool",
    ),
    "sfid": Metric(
        "sfid/1: as fid, of the first 7 channels of mixed_6/conv after batch norm and ReLU",
        "spatial",
    ),
    "inception_score": Metric(
        "inception_score/1: ADM's, logits without bias, consecutive splits of 5,000 in file order",
        "logits",
        "higher",
        reference=False,
    ),
    "inception_score_fidelity": Metric(
        "inception_score_fidelity/1: torch-fidelity's, 10 splits after a shuffle with seed 2020",
        "logits",
        "higher",
        reference=False,
    ),
    "precision": Metric("precision/1: ADM's, k = 3, distances in {distances}", "rows", "higher"),
    "recall": Metric("recall/1: ADM's, k = 3, distances in {distances}", "rows", "higher"),
    "kid": Metric(
        "kid/1: torch-fidelity's, cubic kernel, mean of 100 subsets of {subset}, seed 2020",
        "rows",
    ),
}
NETWORK = tuple(name for name, metric in METRICS.items() if metric.needs != "packets")
"""Those that need the Inception network."""


class Stream(Protocol):
    """Pictures that can be read once, in batches."""

    def __len__(self) -> int: ...
    def batches(self, n: int) -> Iterator[Tensor]: ...


@dataclass
class Gathered:
    """What a pass over a set of pictures leaves."""

    moments: dict[str, list[Moments]] = field(default_factory=dict)
    """Of packets, pool and spatial features, of each block of pictures."""
    known: dict[str, Gaussian] = field(default_factory=dict)
    """Those that were given or kept, not computed."""
    rows: list[Tensor] = field(default_factory=list)
    logits: list[Tensor] = field(default_factory=list)
    images: int = 0

    def gaussian(self, name: str, times: Sequence[int] | None = None) -> Gaussian:
        """Of all blocks, or of each so many times."""
        if name in self.known:
            return _on_cpu(self.known[name])
        blocks = self.moments[name]
        times = [1] * len(blocks) if times is None else times
        taken = [block for block, n in zip(blocks, times, strict=True) for _ in range(n)]
        total = taken[0]
        for block in taken[1:]:
            total = total + block
        return _on_cpu(total.gaussian())


def _on_cpu(gaussian: Gaussian) -> Gaussian:
    return Gaussian(gaussian.mean.cpu(), gaussian.cov.cpu(), gaussian.count)


@dataclass(frozen=True)
class How:
    """What is computed, and how."""

    metrics: tuple[str, ...] = ("fwd",)
    net: Any = None
    """`InceptionFID`, where a metric needs it."""
    level: int | None = None
    """Of wavelets; None is the default of the pictures' size."""
    half: bool = False
    """Distances of precision and recall in float16, as ADM has them."""
    draws: int = 50
    """Bootstrap resamples; 0 gives no intervals."""
    seed: int = 0
    batch: int = 64

    def __post_init__(self) -> None:
        for name in self.metrics:
            if name not in METRICS:
                near = did_you_mean(name, METRICS)
                raise ValueError(f"metric must be one of {', '.join(METRICS)}, got {name!r}{near}")
        if self.net is None and (wanting := [m for m in self.metrics if m in NETWORK]):
            raise ValueError(f"{', '.join(wanting)}: the Inception network is needed")

    @property
    def needs(self) -> set[str]:
        return {METRICS[name].needs for name in self.metrics}

    @property
    def extractor(self) -> str:
        return "" if self.net is None else self.net.hash


@torch.inference_mode()
def gather(batches: Iterable[Tensor], how: How, needs: set[str], count: int) -> Gathered:
    """One pass over uint8 pictures (B, 3, H, W), `count` in all.

    Of many pictures blocks get whole batches in turn, of few every picture goes to the next block:
    a set that is sorted by class has no block of one class.
    """
    found, size, turn = Gathered(), None, 0
    stride = 1 if count >= BLOCKS * how.batch else BLOCKS
    for images in batches:
        h, w = images.shape[2:]
        size = size or (h, w)
        if (h, w) != size:
            raise ValueError(f"pictures must have one size, got {size} and {(h, w)}")
        parts: dict[str, Tensor] = {}
        if "packets" in needs:
            level = default_level(size) if how.level is None else how.level
            parts["packets"] = packets(images, level)
        if needs - {"packets"}:
            features = how.net(images)
            parts |= {"pool": features.pool} if "pool" in needs else {}
            parts |= {"spatial": features.spatial} if "spatial" in needs else {}
            if "rows" in needs:
                found.rows.append(features.pool.cpu())
            if "logits" in needs:
                found.logits.append(features.logits.cpu())
        for name, rows in parts.items():
            if name not in found.moments:
                number = (
                    _blocks(rows, count // (how.batch if stride == 1 else 1)) if how.draws else 1
                )
                found.moments[name] = [
                    Moments(*rows.shape[1:], device=rows.device) for _ in range(number)
                ]
            blocks = found.moments[name]
            steps = len(blocks) if stride > 1 else 1
            for i in range(steps):
                blocks[(turn + i) % len(blocks)].add(rows[i::steps])
        turn += len(images) if stride > 1 else 1
        found.images += len(images)
    return found


def _blocks(rows: Tensor, pieces: int) -> int:
    """How many blocks of moments of rows (B, ..., D) there is room for."""
    each = rows[0].numel() * rows.shape[-1] * 8
    blocks = min(BLOCKS, ROOM // each, pieces)
    return int(blocks) if blocks >= 4 else 1


# -- the reference


def of_reference(
    reference: ImageSet, how: How, cache: Path | None, statistics: bool = True
) -> Gathered:
    """What the metrics need to know of the reference.

    Statistics that a file holds are used as they are, unless `statistics` is false: they may be of
    other pictures than the file's. Features of the network are kept in `cache` under the hash of
    the reference's pictures and that of the network.
    """
    needs = {METRICS[m].needs for m in how.metrics if METRICS[m].reference}
    found = Gathered(images=len(reference))
    for name, mean, cov in (("pool", "mu", "sigma"), ("spatial", "mu_s", "sigma_s")):
        if statistics and mean in reference.statistics and name in needs:
            values = reference.statistics
            found.known[name] = Gaussian(
                torch.from_numpy(values[mean]), torch.from_numpy(values[cov])
            )
    needs -= set(found.known)
    if not needs:
        return found
    asked = [m for m in how.metrics if METRICS[m].reference and METRICS[m].needs in needs]
    reference.require(", ".join(asked), 2)
    once = How(how.metrics, how.net, how.level, draws=0, batch=how.batch)
    kept = None
    if cache is not None and how.net is not None:
        level = "" if how.level is None else f"-{how.level}"
        name = "-".join((KEPT, reference.hash, how.extractor, *sorted(needs))) + level
        kept = cache / f"{name}.safetensors"
    if kept is not None and kept.is_file():
        with suppress(SafetensorError):  # a damaged file is written anew
            return _read(kept, found)
    new = gather(reference.batches(how.batch), once, needs, len(reference))
    new.known = {n: new.gaussian(n) for n in new.moments} | found.known
    new.moments, new.images = {}, len(reference)
    if kept is not None:
        _write(kept, new)
    return new


def _write(path: Path, found: Gathered) -> None:
    tensors = {f"{name}.m": g.mean for name, g in found.known.items()}
    tensors |= {f"{name}.c": g.cov for name, g in found.known.items()}
    tensors |= {"rows": torch.cat(found.rows)} if found.rows else {}
    counts = {name: str(g.count) for name, g in found.known.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        save_file({k: t.contiguous() for k, t in tensors.items()}, temporary, counts)


def _read(path: Path, found: Gathered) -> Gathered:
    tensors = load_file(path)
    for name in {key.partition(".")[0] for key in tensors if "." in key}:
        found.known[name] = Gaussian(tensors[f"{name}.m"], tensors[f"{name}.c"], found.images)
    found.rows = [tensors["rows"]] if "rows" in tensors else []
    return found


# -- the numbers


def measure(
    samples: Stream,
    reference: ImageSet | None,
    how: How,
    kind: Kind = "generation",
    cache: Path | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> list[Measured]:
    """Every metric of `how`. `say` gets warnings, such as of too few pictures.

    Raises ValueError if a metric needs a reference and there is none, or pictures that are not
    there, for pictures of two sizes, and for too few.
    """
    against = [m for m in how.metrics if METRICS[m].reference]
    if against and reference is None:
        raise ValueError(f"{', '.join(against)}: a reference is needed, give --reference")
    if isinstance(samples, ImageSet):
        samples.require(", ".join(how.metrics))
        if reference is not None:
            same_size(samples, reference)
    real = Gathered()
    if against and reference is not None:
        real = of_reference(reference, how, cache, statistics=kind != "reconstruction")
    if kind == "reconstruction":  # the reference is drawn again with them: no interval
        how = replace(how, draws=0)
    drawn = gather(samples.batches(how.batch), how, how.needs, len(samples))
    if drawn.images < 2:
        raise ValueError(f"metrics of a set need at least 2 pictures, got {drawn.images}")
    if "inception_score" in how.metrics and _sorted(samples):
        say("the pictures are sorted by class, so the consecutive splits of the score see few each")
    numbers = _numbers(drawn, real, how)
    for name in ("packets", "pool", "spatial"):
        if name in drawn.moments and (text := too_few(drawn.images, _features(drawn, name))):
            say(f"{name}: {text}")
    about = {"images": drawn.images, "kind": kind, "preparation": preparation(samples)}
    found = []
    for metric in how.metrics:
        value, interval = numbers[metric]
        rule = METRICS[metric]
        name = f"r{metric}" if kind == "reconstruction" else metric
        given = about
        if rule.reference and reference is not None:
            given = about | {"reference": reference.hash, "reference_images": len(reference)}
            given["preparation"] += f"; reference {preparation(reference)}"
        found.append(
            Measured(
                counted(name, drawn.images, FULL),
                _definition(metric, how, drawn, real),
                value,
                better=rule.better,
                interval=interval,
                extractor=how.extractor if metric in NETWORK else "",
                **given,
            )
        )
    return found


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


def _features(found: Gathered, name: str) -> int:
    return found.moments[name][0].middle.shape[-1]


def _definition(metric: str, how: How, drawn: Gathered, real: Gathered) -> str:
    level = ""
    if metric == "fwd":
        count = len(drawn.moments["packets"][0].middle)
        level = str((count.bit_length() - 1) // 2)
    return METRICS[metric].definition.format(
        level=level,
        distances="float16 as ADM" if how.half else "float64",
        subset=min(KID_SUBSET, drawn.images, real.images),
    )


Number = tuple[float, tuple[float, float] | None]


def _numbers(drawn: Gathered, real: Gathered, how: How) -> dict[str, Number]:
    """The value of each metric, and its interval."""
    found: dict[str, Number] = {}
    for metric in how.metrics:
        needs = METRICS[metric].needs
        if needs in ("packets", "pool", "spatial"):
            found[metric] = _frechet(drawn, real, needs, how)
        elif metric == "inception_score":
            found[metric] = inception_score(torch.cat(drawn.logits)), None
        elif metric == "inception_score_fidelity":
            found[metric] = inception_score_fidelity(torch.cat(drawn.logits))[0], None
        elif metric == "kid":
            rows, others = torch.cat(drawn.rows), torch.cat(real.rows)
            found[metric] = kid(rows, others, size=min(KID_SUBSET, len(rows), len(others)))[0], None
    if {"precision", "recall"} & set(how.metrics):
        pair = precision_recall(torch.cat(real.rows), torch.cat(drawn.rows), half=how.half)
        pair = dict(zip(("precision", "recall"), pair, strict=True))
        found |= {m: (value, None) for m, value in pair.items() if m in how.metrics}
    return found


def _frechet(drawn: Gathered, real: Gathered, needs: str, how: How) -> Number:
    other = real.gaussian(needs)

    def value(times: np.ndarray) -> float:
        return distance(drawn.gaussian(needs, times.tolist()), other).mean().item()

    blocks = len(drawn.moments[needs])
    interval = bootstrap(value, blocks, how.draws, how.seed)
    if interval is not None:  # no distance is below 0
        interval = max(0.0, interval[0]), interval[1]
    return value(np.ones(blocks, np.int64)), interval
