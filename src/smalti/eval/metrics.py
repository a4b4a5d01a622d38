"""The metrics of sets of pictures: what exactly each is, what it needs, and how it is measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from smalti.arguments import choose

KID_SUBSET = 1000


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
TOWERS = {
    "zero_shot": Metric(
        "zero_shot/1: share of pictures whose class is nearest, {told}", "towers", "higher"
    ),
    "retrieval": Metric(
        "{way}/1: share whose own is among the nearest {n}, {told}, equals count against it",
        "towers",
        "higher",
    ),
    "clip_score": Metric(
        "clip_score/1: torchmetrics', 100 times the mean cosine of pictures and texts, float64 "
        "(arXiv:2104.08718)",
        "towers",
        "higher",
        reference=False,
    ),
    "cmmd": Metric(
        "cmmd/1: 1000 times the squared MMD of unit features, Gaussian kernel of width 10, "
        "biased, float64 (arXiv:2401.09603)",
        "towers",
    ),
}
"""Those of pictures and texts, by towers: the first two say what towers know, the others what they
say of pictures."""
KNOWN = ("zero_shot", "retrieval")
PROMPTED = {
    "gecko": Metric(
        "gecko/1: share of the words of its prompt that a reader's answers bear out, of those that "
        "templates ask about, mean over pictures (after arXiv:2404.16820)",
        "reader",
        "higher",
        reference=False,
    ),
}
"""Those of pictures and prompts, by what reads."""
READING = {
    "vqa": Metric(
        "vqa/1: VQAv2's accuracy: each person left out in turn, a third for each other who said "
        "it, at most 1; its code's way of comparing",
        "answers",
        "higher",
    ),
    "exact_match": Metric(
        "exact_match/1: share of answers that are one of people's, both in VQAv2's form",
        "answers",
        "higher",
    ),
    "cider": Metric(
        "cider/1: CIDEr, runs of 1 to 4 words, neither cut nor penalised, times 10, words of "
        "letters, digits, ' and - in lower case (arXiv:1411.5726)",
        "answers",
        "higher",
    ),
    "cider_d": Metric(
        "cider_d/1: CIDEr-D, which COCO's code prints as CIDEr: sigma 6 of lengths, times "
        "10, words of letters, digits, ' and - in lower case (arXiv:1411.5726)",
        "answers",
        "higher",
    ),
    "yes_no": Metric(
        "yes_no_{name}/1: of answers that are yes as POPE's code takes them (arXiv:2305.10355)",
        "answers",
        "higher",
    ),
}
"""Those of what a pipeline answers."""
ALL = METRICS | TOWERS | PROMPTED | READING
NETWORK = tuple(name for name, metric in METRICS.items() if metric.needs != "packets")
"""Those that need the Inception network."""


def named(metrics: Iterable[str], among: Mapping[str, Metric] = ALL) -> tuple[str, ...]:
    """The names of metrics as they are listed. Raises ValueError for one that is not there."""
    return tuple(choose(name, among, "metric") for name in metrics)


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
    draws: int = 200
    """Bootstrap resamples; 0 gives no intervals."""
    seed: int = 0
    batch: int = 64

    def __post_init__(self) -> None:
        object.__setattr__(self, "metrics", named(self.metrics, METRICS))
        if self.net is None and (wanting := [m for m in self.metrics if m in NETWORK]):
            raise ValueError(f"{', '.join(wanting)}: the Inception network is needed")

    @property
    def needs(self) -> set[str]:
        return {METRICS[name].needs for name in self.metrics}

    @property
    def least(self) -> int:
        """How many pictures of either set the metrics need."""
        return 4 if "rows" in self.needs else 2

    @property
    def extractor(self) -> str:
        return "" if self.net is None else self.net.hash
