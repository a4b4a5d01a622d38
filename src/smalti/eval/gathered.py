"""One pass over a set of pictures: moments and features, and what is kept of a reference.

Memory does not depend on the number of pictures, but for precision, recall, KID and the Inception
Score, which need the features of each.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from smalti.config import replacing
from smalti.eval.frechet import Gaussian, Moments
from smalti.eval.metrics import METRICS, How
from smalti.eval.sets import ImageSet
from smalti.eval.wavelet import default_level, packets

BLOCKS = 20
ROOM = 2**30
"""Bytes that the moments of all blocks may take; fewer than 4 blocks give no interval."""
KEPT = "1"
"""The version of what is kept of references; another one is computed anew."""


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
        return _on_cpu(Moments.joined(self.moments[name], times).gaussian())


def _on_cpu(gaussian: Gaussian) -> Gaussian:
    return Gaussian(gaussian.mean.cpu(), gaussian.cov.cpu(), gaussian.count)


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
                about = {"device": rows.device, "middle": rows.double().mean(0)}
                found.moments[name] = [Moments(*rows.shape[1:], **about) for _ in range(number)]
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
    reference: ImageSet, how: How, cache: Path | None, paired: bool = False
) -> Gathered:
    """What the metrics need to know of the reference.

    Statistics that a file holds are used as they are. Features of the network are kept in `cache`
    under the hash of the reference's pictures and that of the network. `paired` is for pictures
    that are reconstructions of the reference's: statistics of a file may be of others, and blocks
    are kept apart, to be resampled together.
    """
    needs = {METRICS[m].needs for m in how.metrics if METRICS[m].reference}
    found = Gathered(images=len(reference))
    for name, mean, cov in (("pool", "mu", "sigma"), ("spatial", "mu_s", "sigma_s")):
        if not paired and mean in reference.statistics and name in needs:
            values = reference.statistics
            found.known[name] = Gaussian(
                torch.from_numpy(values[mean]), torch.from_numpy(values[cov])
            )
    needs -= set(found.known)
    if not needs:
        return found
    asked = [m for m in how.metrics if METRICS[m].reference and METRICS[m].needs in needs]
    reference.require(", ".join(asked), 2)
    if paired and how.draws:
        return gather(reference.batches(how.batch), how, needs, len(reference))
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
