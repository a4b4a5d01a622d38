"""`smalti tune`: the settings of drawing that a metric likes best, by successive halving.

Jamieson and Talwalkar, 2016 (arXiv:1502.07943): all candidates draw a few pictures, the better
third draws three times as many, and so on; each round costs the same. What was measured is kept in
the report as it goes, so a search that was stopped goes on.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor
from tyro.conf import Positional, arg

from smalti import __version__
from smalti.arguments import choose
from smalti.cli.drawing import Device, Dtype
from smalti.cli.evaluate import cache, held_out, share_of
from smalti.config import read_json, to_dict, written
from smalti.eval.frechet import distance
from smalti.eval.gathered import Gathered, gather, of_reference
from smalti.eval.metrics import METRICS, NETWORK, How
from smalti.eval.pipelines import asked
from smalti.eval.report import counted
from smalti.eval.scores import inception_score, precision_recall
from smalti.eval.sets import ImageSet, open_set
from smalti.eval.wavelet import packets
from smalti.files import LOCK, check_output, check_own, expand, is_json_of, lock, write_json
from smalti.progress import say, show, track

KEPT = 3
"""One candidate in so many goes on."""
LEAST = 16
"""Pictures of a candidate in the first round."""
COARSE = 8
"""Pixels of a side of the coarsest packet, which stands for a picture without a network."""


@dataclass(frozen=True)
class Search:
    """What is tried. Settings that a pipeline does not have are left out."""

    guidance: tuple[float, ...] = (1.0, 1.5, 2.0, 3.0, 4.0)
    """Values of guidance to try."""
    temperature: tuple[float, ...] = (0.9, 1.0, 1.1)
    """Temperatures to try."""
    top_k: tuple[int, ...] = (0,)
    """Values of top-k to try; 0 is off."""
    top_p: tuple[float, ...] = (0.9, 0.95, 1.0)
    """Values of top-p to try; 1 is off."""
    metric: str = "fwd"
    """What is optimised: fwd, fid, sfid or inception_score."""
    level: int | None = None
    """Level of the wavelet packets; default: chosen by the size of the pictures."""
    budget: int = 4096
    """Number of pictures to draw in all."""
    candidates: int = 27
    """Number of combinations that are tried, chosen by the seed; the pipeline's own is one."""
    seed: int = 0
    """Random seed of the choice of combinations and of drawing."""

    def __post_init__(self) -> None:
        allowed = [m for m in METRICS if METRICS[m].needs != "rows" and "fidelity" not in m]
        object.__setattr__(self, "metric", choose(self.metric, allowed, "metric"))
        if self.candidates < 2:
            raise ValueError(f"candidates must be at least 2, got {self.candidates}")


def candidates(pipe: Any, search: Search) -> list[dict[str, Any]]:
    """The settings to try, the pipeline's own first. Raises ValueError for one that cannot be."""
    names = ("guidance", "temperature", "top_k", "top_p")
    own = {n: v for n, v in written(pipe.sampling).items() if n in names}
    if not pipe.model.spec.discrete:
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


def rounds(count: int, budget: int) -> list[tuple[int, int]]:
    """Candidates of each round and the pictures that each of them draws.

    Raises ValueError for a budget that leaves fewer than `LEAST` in the first.
    """
    sizes = [count]
    while sizes[-1] > 1:
        sizes.append(max(1, sizes[-1] // KEPT))
    plan = [(size, budget // len(sizes) // size) for size in sizes]
    if plan[0][1] < LEAST:
        raise ValueError(
            f"{count} candidates in {len(sizes)} rounds need a budget of at least "
            f"{LEAST * count * len(sizes)} pictures, got {budget}"
        )
    return plan


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


class Scorer:
    """Measures settings of a pipeline: the metric, and precision and recall as fidelity and
    diversity."""

    def __init__(self, pipe: Any, reference: ImageSet, search: Search, net: Any = None) -> None:
        self.pipe, self.reference, self.metric = pipe, reference, search.metric
        self.seed = search.seed
        self.how = How(
            (search.metric, *(("precision",) if net else ())), net, search.level, draws=0
        )
        self.real = of_reference(reference, self.how, cache())
        if net is None:
            coarse = [coarsest(images) for images in reference.batches(self.how.batch)]
            self.real.rows = coarse
        self.request = asked(pipe, reference)

    def __call__(self, settings: dict[str, Any], count: int) -> dict[str, Any]:
        drawn = Drawn(self.pipe, count, self.seed, self.request, settings)
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
        needs = METRICS[self.metric].needs
        if needs == "logits":
            return inception_score(torch.cat(found.logits))
        return distance(found.gaussian(needs), self.real.gaussian(needs)).mean().item()


def coarsest(images: Tensor) -> Tensor:
    """Pictures (B, 3, H, W) averaged to about `COARSE` pixels of a side: (B, D) float64."""
    level = max(0, int(math.log2(min(images.shape[2:]) / COARSE)))
    return packets(images, level)[:, 0]


def halving(
    tried: list[dict[str, Any]],
    plan: list[tuple[int, int]],
    score: Callable[[dict[str, Any], int], dict[str, Any]],
    better: str,
    done: list[dict[str, Any]],
    note: Callable[[list[dict[str, Any]]], None],
) -> list[dict[str, Any]]:
    """The rows of all rounds: round, settings and what `score` says. `done` are rows that are
    known; `note` gets all after each."""
    rows = list[dict[str, Any]]()
    sign = 1 if better == "lower" else -1
    for number, (size, images) in enumerate(plan):
        if number:
            last = [r for r in rows if r["round"] == number - 1]
            tried = [r["settings"] for r in sorted(last, key=lambda r: sign * r["value"])][:size]
        for settings in tried:
            about = {"round": number, "settings": settings}
            known = [r for r in done if _same(r, {"images": images, "settings": settings})]
            rows.append(about | (known[0] | about if known else score(settings, images)))
            note(rows)
    return rows


def _same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return a["images"] == b["images"] and a["settings"] == b["settings"]


def frontier(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those of the first round that no other beats in both fidelity and diversity."""
    first = [r for r in rows if r["round"] == 0]

    def beaten(row: dict[str, Any]) -> bool:
        return any(
            o["fidelity"] >= row["fidelity"]
            and o["diversity"] >= row["diversity"]
            and (o["fidelity"], o["diversity"]) != (row["fidelity"], row["diversity"])
            for o in first
        )

    return sorted((r for r in first if not beaten(r)), key=lambda r: -r["fidelity"])


def tune(
    pipeline: Annotated[Positional[str], arg(metavar="PIPELINE")],
    search: Annotated[Search, arg(name="")] = Search(),  # noqa: B008 - it is frozen
    reference: str | None = None,
    out: Path = Path("tuned"),
    inception: Path | None = None,
    write: bool = False,
    device: Device = "auto",
    dtype: Dtype = "auto",
    json: bool = False,
) -> None:
    """Find the settings of drawing that a metric likes best, by successive halving.

    Args:
        pipeline: Folder or Hugging Face hub id.
        reference: Pictures to measure against; default: what was held out in training.
        out: Folder of the report and the plot of fidelity against diversity. A search that was
            stopped goes on there.
        inception: The Inception network, for metrics that need it; default: downloaded once.
        write: Store what was found as the pipeline's own settings.
        device: Where it is computed: auto (the best there is), cpu, cuda, cuda:1 or mps.
        dtype: Of the generator's weights: float32, bfloat16, float16, or auto, which is bfloat16
            where the device is faster in it and float32 elsewhere.
        json: Print the report on standard output.
    """
    from smalti.cli.plots import is_plot
    from smalti.loading import load

    check_output(out, folder=True)
    check_own(out / "tune.json", lambda path: is_json_of(path, ("format", "rows")))
    check_own(out / "tune.png", is_plot)
    pipe = load(pipeline, device, dtype)
    if write and not (expand(pipeline) / "pipeline.json").is_file():
        raise ValueError(f"--write is for a pipeline in a folder, got {pipeline}")
    with lock(out / LOCK, out):
        report = search_of(pipe, search, reference, out, inception)
    if write:
        path = expand(pipeline) / "pipeline.json"
        told = read_json(path)
        write_json(path, told | {"sampling": told["sampling"] | report["best"]["settings"]})
    if json:
        show(report)
        return
    for row in report["frontier"]:
        say(told_of(row))
    say(f"best {report['metric']}: {told_of(report['best'])}")


def told_of(row: dict[str, Any]) -> str:
    settings = ", ".join(f"{k} {v:g}" for k, v in row["settings"].items())
    return (
        f"fidelity {row['fidelity']:.3f}, diversity {row['diversity']:.3f}, "
        f"{row['value']:.5g} of {row['images']} pictures: {settings}"
    )


def search_of(
    pipe: Any, search: Search, given: str | None, out: Path, inception: Path | None
) -> dict[str, Any]:
    """Run the search, go on with one that is in `out`, and write its report and plot."""
    from smalti.cli.plots import plot_tuning, require

    require()
    given = held_out(pipe) if given is None else given
    pictures = open_set(given, pipe.tokenizer.config.size[0], holdout=share_of(pipe))
    tried = candidates(pipe, search)
    plan = rounds(len(tried), search.budget)
    net = None
    if search.metric in NETWORK:
        from smalti.features.inception import load_inception

        net = load_inception(inception).to(pipe.device)
    score = Scorer(pipe, pictures, search, net)
    path = out / "tune.json"
    about = {
        "format": 1,
        "pipeline": pipe.fingerprint,
        "metric": search.metric,
        "reference": {"name": given, "hash": pictures.hash, "images": len(pictures)},
        "features": "pool_3" if net is not None else f"coarsest packet, {COARSE} pixels",
        "seed": search.seed,
        "level": search.level,
        "sampling": {k: v for k, v in to_dict(pipe.sampling).items() if k not in tried[0]},
        "dtype": str(pipe.dtype).removeprefix("torch."),
        "versions": {"smalti": __version__, "torch": torch.__version__},
        "extractor": "" if net is None else net.hash,
    }
    done = _begun(path, about)

    def earlier(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """What another budget or choice of candidates had measured."""
        return [r for r in done if not any(_same(r, row) for row in rows)]

    def note(rows: list[dict[str, Any]]) -> None:
        out.mkdir(parents=True, exist_ok=True)
        write_json(path, about | {"rows": rows, "earlier": earlier(rows)})
        total = sum(size for size, _ in plan)
        say(f"{len(rows)} of {total}: {told_of(rows[-1])}")

    rows = halving(tried, plan, score, METRICS[search.metric].better, done, note)
    found = {"best": rows[-1], "frontier": frontier(rows)}
    name = counted(search.metric, plan[-1][1])
    report = about | {"metric_name": name, **found, "rows": rows, "earlier": earlier(rows)}
    write_json(path, report)
    plot_tuning(report, out / "tune.png")
    return report


def _begun(path: Path, about: dict[str, Any]) -> list[dict[str, Any]]:
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
