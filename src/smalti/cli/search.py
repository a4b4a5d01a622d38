"""The search of `smalti tune`: candidates are drawn from, measured, and kept in a report."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from smalti import __version__
from smalti.cli.options import spelled
from smalti.cli.subjects import cache, held_out, share_of
from smalti.cli.tune import Search, told_of
from smalti.config import read_json, to_dict
from smalti.eval.frechet import distance
from smalti.eval.gathered import Gathered, gather, of_reference
from smalti.eval.halving import Row, frontier, halving, rounds, same
from smalti.eval.metrics import METRICS, NETWORK, How
from smalti.eval.pipelines import asked
from smalti.eval.report import counted
from smalti.eval.scores import inception_score, precision_recall
from smalti.eval.sets import ImageSet, open_set
from smalti.eval.wavelet import packets
from smalti.files import write_json
from smalti.progress import say, track
from smalti.tokenizers.base import side_of

COARSE = 8
"""Pixels of a side of the coarsest packet, which stands for a picture without a network."""


def run(pipe: Any, search: Search, out: Path) -> dict[str, Any]:
    """Run the search, go on with one that is in `out`, and write its report and plot."""
    from smalti.cli.plots import plot_tuning, require

    require()
    given = held_out(pipe) if search.reference is None else search.reference
    search = replace(search, reference=given)
    reference = open_set(given, side_of(pipe.tokenizer), holdout=share_of(pipe))
    tried = candidates(pipe, search)
    plan = rounds(len(tried), search.budget)
    score = Scorer(pipe, reference, search, network(search, pipe.device))
    kept = Kept(out / "tune.json", about(score, tried[0]), sum(size for size, _ in plan))
    rows = halving(tried, plan, score, METRICS[search.metric].better, kept.done, kept.note)
    found = {"best": rows[-1], "frontier": frontier(rows)}
    name = counted(search.metric, plan[-1][1])
    report = kept.about | {"metric_name": name, **found} | kept.told(rows)
    write_json(kept.path, report)
    plot_tuning(report, out / "tune.png")
    return report


def candidates(pipe: Any, search: Search) -> list[dict[str, Any]]:
    """The settings to try, the pipeline's own first, as JSON has them. Raises ValueError for one
    that cannot be."""
    names = ("guidance", "temperature", "top_k", "top_p")
    own = {n: v for n, v in to_dict(pipe.sampling).items() if n in names}
    if not pipe.model.filtered:
        for name in names[2:]:
            if getattr(search, name) != getattr(Search, name):
                raise ValueError(f"{spelled(name)} is for pipelines that draw discrete codes")
        names = names[:2]
        own = {n: own[n] for n in names}
    grid = [
        dict(zip(names, values, strict=True))
        for values in itertools.product(*(getattr(search, n) for n in names))
    ]
    for settings in grid:
        pipe.sampling.changed(**settings).check(pipe.model)
    others = [settings for settings in grid if settings != own]
    rng = np.random.default_rng(search.seed)
    chosen = rng.permutation(len(others))[: search.candidates - 1]
    return [own, *(others[i] for i in sorted(chosen))]


@dataclass
class Drawn:
    """Pictures of a pipeline, drawn as they are read."""

    pipe: Any
    count: int
    seed: int
    request: dict[str, Any]
    """Conditions, in turn."""
    sampling: dict[str, Any]

    def __len__(self) -> int:
        return self.count

    def batches(self, n: int) -> Iterator[Tensor]:
        for first in track(range(0, self.count, n), "drawing", scale=n, of=self.count):
            part = {"n": min(n, self.count - first), "first": first, "seed": self.seed}
            images = self.pipe(**self.request, **part, batch=n, **self.sampling)
            pixels = np.stack([np.asarray(image) for image in images])
            yield torch.from_numpy(pixels).permute(0, 3, 1, 2)


def network(search: Search, device: torch.device) -> Any:
    """The Inception network, for a metric that needs it; else None."""
    if search.metric not in NETWORK:
        return None
    from smalti.features.inception import load_inception

    return load_inception(search.inception).to(device)


class Scorer:
    """Measures settings of a pipeline: the metric, and precision and recall as fidelity and
    diversity."""

    def __init__(self, pipe: Any, reference: ImageSet, search: Search, net: Any = None) -> None:
        self.pipe, self.reference, self.search = pipe, reference, search
        self.how = How(
            (search.metric, *(("precision",) if net else ())), net, search.level, draws=0
        )
        self.real = of_reference(reference, self.how, cache())
        if net is None:
            coarse = [coarsest(images) for images in reference.batches(self.how.batch)]
            self.real.rows = coarse
        self.request = in_any_order(asked(pipe, reference), search.seed)

    def __call__(self, settings: dict[str, Any], count: int) -> dict[str, Any]:
        drawn = Drawn(self.pipe, count, self.search.seed, self.request, settings)
        kept: list[Tensor] = []

        def noted() -> Any:
            for images in drawn.batches(self.how.batch):
                if self.how.net is None:
                    kept.append(coarsest(images))
                yield images

        found = gather(noted(), self.how, self.how.needs)
        rows = torch.cat(found.rows or kept)
        fidelity, diversity = precision_recall(torch.cat(self.real.rows), rows)
        value = self._value(found)
        return {"value": value, "images": count, "fidelity": fidelity, "diversity": diversity}

    def _value(self, found: Gathered) -> float:
        needs = METRICS[self.search.metric].needs
        if needs == "logits":
            return inception_score(torch.cat(found.logits))
        return distance(found.gaussian(needs), self.real.gaussian(needs)).mean().item()


def in_any_order(request: dict[str, list[Any]], seed: int) -> dict[str, list[Any]]:
    """The same conditions in an order of the seed, so that the first of them, which the first
    rounds draw, are as mixed as all."""
    rng = np.random.default_rng(seed)
    return {name: [each[i] for i in rng.permutation(len(each))] for name, each in request.items()}


def coarsest(images: Tensor) -> Tensor:
    """Pictures (B, 3, H, W) averaged to about `COARSE` pixels of a side: (B, D) float64."""
    level = max(0, int(math.log2(min(images.shape[2:]) / COARSE)))
    return packets(images, level)[:, 0]


# -- the report


def about(score: Scorer, own: dict[str, Any]) -> dict[str, Any]:
    """What decides the numbers of a search, beside the settings that it tries, such as `own`."""
    pipe, search, reference, net = score.pipe, score.search, score.reference, score.how.net
    mixed = {"conditions": "the reference's, in an order of the seed"} if score.request else {}
    return mixed | {
        "format": 1,
        "pipeline": pipe.fingerprint,
        "metric": search.metric,
        "reference": {
            "name": search.reference,
            "hash": reference.hash,
            "images": len(reference),
        },
        "features": "pool_3" if net is not None else f"coarsest packet, {COARSE} pixels",
        "seed": search.seed,
        "level": search.level,
        "sampling": {k: v for k, v in to_dict(pipe.sampling).items() if k not in own},
        "dtype": str(pipe.dtype).removeprefix("torch."),
        "versions": {"smalti": __version__, "torch": torch.__version__},
        "extractor": "" if net is None else net.hash,
    }


class Kept:
    """The rows of a search, written after each, so that one that was stopped goes on.

    Raises ValueError if the file is of another search.
    """

    def __init__(self, path: Path, about: dict[str, Any], total: int) -> None:
        self.path, self.about, self.total = path, about, total
        self.done = _begun(path, about)
        """Rows that are known before the search begins."""

    def told(self, rows: list[Row]) -> dict[str, Any]:
        """All rows; `earlier` are what another budget or choice of candidates had measured."""
        earlier = [r for r in self.done if not any(same(r, row) for row in rows)]
        return {"rows": rows, "earlier": earlier}

    def note(self, rows: list[Row]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.path, self.about | self.told(rows))
        say(f"{len(rows)} of {self.total}: {told_of(rows[-1])}")


def _begun(path: Path, about: dict[str, Any]) -> list[Row]:
    """Rows of a search that was stopped. Raises ValueError if it was another."""
    if not path.is_file():
        return []
    told = read_json(path)
    for key, value in json.loads(json.dumps(about)).items():
        if told.get(key) != value:
            raise ValueError(
                f"{path} is of a search with {key} {told.get(key)!r}, now {value!r}: "
                "give another --out"
            )
    return told.get("rows", []) + told.get("earlier", [])
