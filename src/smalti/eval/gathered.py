"""One pass over a set of pictures: moments and features, and what is kept of a reference.

Memory does not depend on the number of pictures, but for precision, recall, KID and the Inception
Score, which need the features of each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from smalti.devices.float64 import wide
from smalti.eval.bootstrap import BLOCKS, deal
from smalti.eval.frechet import Gaussian, Moments
from smalti.eval.metrics import METRICS, How
from smalti.eval.sets import ImageSet
from smalti.eval.wavelet import default_level, packets
from smalti.files import replacing
from smalti.progress import say

ROOM = 2**30
"""Bytes that the moments of all blocks may take."""
LEAST = 4
"""Fewer blocks give no interval."""
WAITING = 2**27
"""No more bytes of pictures wait to be dealt to blocks."""
MOMENTS = {"packets", "pool", "spatial"}
KEPT = "2"
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
    single: dict[str, str] = field(default_factory=dict)
    """Of moments that are not in blocks: why."""

    def gaussian(self, name: str, times: Sequence[int] | None = None) -> Gaussian:
        """Of all blocks, or of each so many times."""
        if name in self.known:
            return _on_cpu(self.known[name])
        return _on_cpu(Moments.joined(self.moments[name], times).gaussian())


def _on_cpu(gaussian: Gaussian) -> Gaussian:
    return Gaussian(gaussian.mean.cpu(), gaussian.cov.cpu(), gaussian.count)


class Blocks:
    """Moments of rows, in blocks where there is room for them, of pictures dealt by chance.

    Pictures wait until each block gets a batch of them.
    """

    def __init__(self, rows: Callable[[Tensor], Tensor], batch: int, room: float) -> None:
        self.rows, self.batch, self.room = rows, batch, room
        self.moments: list[Moments] = []
        self.waiting: list[Tensor] = []
        self.seen = 0
        self.single = ""

    def add(self, pictures: Tensor) -> None:
        """What `rows` makes rows (B, ..., D) of: pictures, or their features."""
        if not self.moments:
            like = self.rows(pictures[:1])[0]
            blocks = int(min(BLOCKS, self.room // (like.numel() * like.shape[-1] * 8)))
            if blocks < LEAST:
                self.single = f"{LEAST} blocks of moments do not fit in {self.room / 2**20:.0f} MiB"
            number = blocks if blocks >= LEAST else 1
            place = wide(like).device
            self.moments = [Moments(*like.shape, device=place) for _ in range(number)]
        if len(self.moments) == 1:
            self.moments[0].add(self.rows(pictures))
            return
        self.waiting.append(pictures)
        size = sum(x.numel() * x.itemsize for x in self.waiting)
        if size > WAITING or sum(map(len, self.waiting)) >= len(self.moments) * self.batch:
            self._flush()

    def _flush(self) -> None:
        if self.waiting:
            pictures = torch.cat(self.waiting)
            dealt = torch.from_numpy(deal(self.seen, len(pictures), len(self.moments)))
            for i in dealt.unique().tolist():
                rows = (dealt == i).nonzero().flatten().to(pictures.device)
                self.moments[i].add(self.rows(pictures[rows]))
            self.seen, self.waiting = self.seen + len(pictures), []

    def done(self) -> list[Moments]:
        """Those of blocks that have pictures, or all in one if they are too few."""
        self._flush()
        filled = [m for m in self.moments if m.count]
        if len(filled) >= LEAST or len(self.moments) == 1:
            return filled
        self.single = f"{sum(m.count for m in filled)} pictures are too few"
        return [Moments.joined(filled)]


@torch.inference_mode()
def gather(batches: Iterable[Tensor], how: How, needs: set[str], room: float = ROOM) -> Gathered:
    """One pass over uint8 pictures (B, 3, H, W). Blocks of moments take up to `room` bytes."""
    found, size, blocks = Gathered(), None, dict[str, Blocks]()
    room = room / max(1, len(needs & MOMENTS)) if how.draws else 0
    for images in batches:
        h, w = images.shape[2:]
        size = size or (h, w)
        if (h, w) != size:
            raise ValueError(f"pictures must have one size, got {size} and {(h, w)}")
        if "packets" in needs:
            level = default_level(size) if how.level is None else how.level
            taken = partial(packets, level=level)
            blocks.setdefault("packets", Blocks(taken, how.batch, room)).add(images)
        if needs - {"packets"}:
            features = how.net(images)
            for name in needs & {"pool", "spatial"}:
                block = blocks.setdefault(name, Blocks(lambda rows: rows, how.batch, room))
                block.add(getattr(features, name))
            if "rows" in needs:
                found.rows.append(features.pool.cpu())
            if "logits" in needs:
                found.logits.append(features.logits.cpu())
        found.images += len(images)
    found.moments = {name: block.done() for name, block in blocks.items()}
    found.single = {name: block.single for name, block in blocks.items()}
    return found


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
    known = {} if paired else _stated(reference, needs)
    if known:
        _check_widths(reference, known, how)
    needs -= set(known)
    if not needs:
        return Gathered(known=known, images=len(reference))
    _require(reference, how, needs)
    if paired and how.draws:
        return _pass(reference, how, needs, ROOM / 2)
    kept = None if cache is None else cache / _name(reference, how, needs)
    if kept is not None and kept.is_file():
        with suppress(SafetensorError):  # a damaged file is written anew
            return _read(kept, known, len(reference))
    new = _pass(reference, replace(how, draws=0), needs)
    new.known = {n: new.gaussian(n) for n in new.moments} | known
    new.moments = {}
    if kept is not None:
        _keep(kept, new)
    return new


def _stated(reference: ImageSet, needs: set[str]) -> dict[str, Gaussian]:
    """The statistics that the reference's file holds, of those that are needed."""
    values = reference.statistics
    return {
        name: Gaussian(torch.from_numpy(values[mean]), torch.from_numpy(values[cov]))
        for name, mean, cov in (("pool", "mu", "sigma"), ("spatial", "mu_s", "sigma_s"))
        if mean in values and name in needs
    }


def _require(reference: ImageSet, how: How, needs: set[str]) -> None:
    """Raise ValueError if the reference has too few pictures for what is needed of them."""
    asked = [m for m in how.metrics if METRICS[m].reference and METRICS[m].needs in needs]
    reference.require(", ".join(asked), how.least)


def _pass(reference: ImageSet, how: How, needs: set[str], room: float = ROOM) -> Gathered:
    """A pass over the reference. Raises ValueError if too few pictures could be read."""
    new = gather(reference.batches(how.batch), how, needs, room)
    _require(reference, how, needs)
    return new


def _check_widths(reference: ImageSet, known: dict[str, Gaussian], how: How) -> None:
    """Raise ValueError if statistics are of other features than the network's."""
    features = how.net(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
    for name, gaussian in known.items():
        have, want = gaussian.mean.shape[-1], getattr(features, name).shape[-1]
        if have != want:
            raise ValueError(
                f"{reference.name} holds statistics of {have} features, the network has {want}"
            )


def _name(reference: ImageSet, how: How, needs: set[str]) -> str:
    """The file of what is kept of a reference: other pictures or networks have another name."""
    level = "" if how.level is None else f"-{how.level}"
    name = "-".join((KEPT, reference.hash, how.extractor, *sorted(needs)))
    return f"{name}{level}.safetensors"


def _keep(path: Path, found: Gathered) -> None:
    """Write what is known of a reference, if it is not too large; a full disk is no error."""
    if sum(g.cov.numel() * g.cov.itemsize for g in found.known.values()) > ROOM:
        return
    try:
        _write(path, found)
    except OSError as error:
        say(f"what is known of the reference is not kept: {error}")


def _write(path: Path, found: Gathered) -> None:
    tensors = {f"{name}.m": g.mean for name, g in found.known.items()}
    tensors |= {f"{name}.c": g.cov for name, g in found.known.items()}
    tensors |= {"rows": torch.cat(found.rows)} if found.rows else {}
    counts = {name: str(g.count) for name, g in found.known.items()}
    with replacing(path) as temporary:
        save_file({k: t.contiguous() for k, t in tensors.items()}, temporary, counts)


def _read(path: Path, known: dict[str, Gaussian], images: int) -> Gathered:
    tensors = load_file(path)
    names = {key.partition(".")[0] for key in tensors if "." in key}
    read = {n: Gaussian(tensors[f"{n}.m"], tensors[f"{n}.c"], images) for n in names}
    rows = [tensors["rows"]] if "rows" in tensors else []
    return Gathered(known=known | read, rows=rows, images=images)
