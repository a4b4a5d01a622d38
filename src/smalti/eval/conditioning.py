"""Whether pictures show what they were drawn for: shapes by the exact oracle, classes by a small
classifier that learns real pictures.

A classifier is no oracle: what it says of generated pictures means something beside what it says
of real ones that it has not seen, so both are told, and what a guess would get.
B pictures, C classes, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smalti.config import check
from smalti.data.loader import Images, prefetch
from smalti.data.open import open_source
from smalti.data.skipped import tell
from smalti.data.source import Source, split
from smalti.data.transforms import Transform, center_crop, to_float
from smalti.eval.bootstrap import Interval, bootstrap
from smalti.eval.matching import hits
from smalti.eval.readers import channels_first
from smalti.eval.sets import ImageSet
from smalti.train.optim import OptimConfig, adamw, lr_at


def shapes(pictures: ImageSet) -> dict[str, np.ndarray]:
    """`matching.hits` of a set with its captions or, of pictures without, their classes.

    Raises ValueError for a set that has neither, or another than those of `shapes`.
    """
    return hits(_asked(pictures))


def _asked(pictures: ImageSet) -> Iterator[tuple[np.ndarray, str]]:
    """Each picture (H, W, 3) with what it was to show."""
    labels, classes = pictures.labels, pictures.classes
    for numbers, images in pictures.numbered():
        for i, image in zip(numbers.tolist(), images.permute(0, 2, 3, 1).numpy(), strict=True):
            text = pictures.caption(i)
            if not text and not 0 <= labels[i] < len(classes):
                raise ValueError(f"{pictures.name} does not say what picture {i} is to show")
            yield image, text or classes[labels[i]]


@dataclass(frozen=True)
class ClassifierConfig:
    pixels: int = 32
    """Larger pictures are brought down to so many pixels of a side."""
    channels: int = 32
    """Of the first of three stages; each has twice those of the one before."""
    steps: int = 800
    batch: int = 64
    lr: float = 4e-3
    """At the peak; up for a tenth of the steps, then down to 0 by half a cosine."""
    flip: bool = True
    """Learn mirror images too, as the generator did."""
    seed: int = 0

    def __post_init__(self) -> None:
        check(self, positive=("pixels", "channels", "steps", "batch"))


class Classifier(nn.Module):
    """uint8 pictures (B, 3, H, W) to logits (B, C): six convolutions in three stages."""

    def __init__(self, config: ClassifierConfig, classes: int) -> None:
        super().__init__()
        parts: list[nn.Module] = []
        width = 3
        for stage in range(3):
            out = config.channels << stage
            for inputs, stride in ((width, 2), (out, 1)):
                parts += [
                    nn.Conv2d(inputs, out, 3, stride, 1, bias=False),
                    nn.BatchNorm2d(out),
                    nn.ReLU(),
                ]
            width = out
        self.stages = nn.Sequential(*parts)
        self.head = nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        x = to_float(images).contiguous(memory_format=torch.channels_last)  # (B, 3, H, W)
        x = self.stages(x)  # (B, 4 channels, H / 8, W / 8)
        return self.head(x.mean((2, 3)))  # (B, C)


@dataclass(frozen=True)
class Recognised:
    """Which pictures were taken for what they are."""

    labels: np.ndarray
    """(N,) int64."""
    right: np.ndarray
    """(N,) bool."""

    def share(self, times: np.ndarray | None = None) -> float:
        """The mean over the classes that there are of the share that was recognised, of pictures
        that are taken so many times, (N,)."""
        times = np.ones(len(self.labels)) if times is None else times
        counts, right = (np.bincount(self.labels, times * x) for x in (1, self.right))
        return float((right[counts > 0] / counts[counts > 0]).mean())

    def interval(self, draws: int, seed: int) -> Interval | None:
        return bootstrap(self.share, len(self.labels), draws, seed, (0.0, 1.0))


def class_accuracy(
    generated: ImageSet,
    data: str,
    config: ClassifierConfig | None = None,
    holdout: float = 0.1,
    device: torch.device | str = "cpu",
    labels: np.ndarray | None = None,
) -> tuple[Recognised, Recognised]:
    """How often a classifier that learned the training part of the source `data`, cut at random,
    finds the class that each picture of `generated` was drawn for; and that of real pictures that
    it has not seen. `labels` are those classes where the set itself does not say them.

    Shares are means over the classes, so sets in which classes are otherwise frequent compare, and
    a guess gets 1 / C. Equal configs give equal classifiers on a CPU.
    Raises ValueError if the source has no classes, or other ones than the pictures.
    """
    config, source = config or ClassifierConfig(), open_source(data)
    labels = generated.labels if labels is None else labels
    size = _check(generated, labels, source)
    train, held = ([i for i in p if source.label(i) >= 0] for p in split(source, holdout))
    if not train or not held:
        raise ValueError(
            f"{data} has {len(train)} pictures with a class to learn and {len(held)} held out, "
            "at least one of each is needed"
        )
    count, side = len(source.classes), min(size, config.pixels)
    views = Transform(side, "random", config.flip)
    real = Images(source, train, views, config.batch, config.seed)
    model = learn(real, count, config, device)
    unseen = Images(source, held, Transform(size), 1).evaluation(256)
    drawn = ((small(r.images, side), labels[r.numbers]) for r in generated.numbered(256))
    real_ones = ((small(b["images"], side), b["labels"].numpy()) for b in unseen)
    judged = recognised(model, drawn), recognised(model, real_ones)
    tell(source)
    return judged


def _check(generated: ImageSet, labels: np.ndarray, source: Source) -> int:
    """The side of the generated pictures. Raises ValueError if their classes are not the source's,
    or they are not square."""
    if len(source.classes) < 2:
        raise ValueError(f"{source.name} has {len(source.classes)} classes, at least 2 are needed")
    if generated.classes not in ([], source.classes) or labels.max() >= len(source.classes):
        names = ", ".join(generated.classes[:3]) or f"0 ... {labels.max()}"
        raise ValueError(
            f"{generated.name} has other classes ({names}) than {source.name} "
            f"({', '.join(source.classes[:3])})"
        )
    if labels.min() < 0:
        raise ValueError(f"{generated.name} does not say what class its pictures are of (arr_1)")
    height, width = generated.require("a classifier").size
    if height != width:
        raise ValueError(f"pictures must be square, those of {generated.name} are {height, width}")
    return height


def small(images: Tensor, side: int) -> Tensor:
    """uint8 pictures (B, 3, H, H) at `side` pixels, by the filter of `data.transforms`."""
    if images.shape[2] == side:
        return images
    pixels = [center_crop(picture, side) for picture in images.permute(0, 2, 3, 1).numpy()]
    return channels_first(np.stack(pixels))


def learn(
    images: Images, classes: int, config: ClassifierConfig, device: torch.device | str = "cpu"
) -> Classifier:
    """A classifier that learned the batches of `images`; rare classes weigh as much as others."""
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        model = Classifier(config, classes).to(device)
    model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    counts = np.bincount(images.labels, minlength=classes)
    weight = torch.tensor(counts.sum() / classes / counts.clip(1), dtype=torch.float32).to(device)
    optim = OptimConfig(config.lr, "cosine", warmup=config.steps // 10)
    optimizer = adamw(model, optim)
    for step, batch in enumerate(prefetch(images, 0, config.steps)):
        for group in optimizer.param_groups:
            group["lr"] = lr_at(step, config.steps, optim)
        logits = model(batch["images"].to(device))
        loss = F.cross_entropy(logits, batch["labels"].to(device), weight)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


@torch.inference_mode()
def recognised(model: nn.Module, batches: Iterable[tuple[Tensor, np.ndarray]]) -> Recognised:
    """Of pictures and what they are."""
    device = next(model.parameters()).device
    labels, right = [], []
    for images, classes in batches:
        labels.append(classes)
        right.append(model(images.to(device)).argmax(1).cpu().numpy() == classes)
    return Recognised(np.concatenate(labels), np.concatenate(right))
