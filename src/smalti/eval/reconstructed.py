"""What a tokenizer gives back of a set of pictures, and what is measured of each on the way.

B pictures, K scales, D depths, V codes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from smalti.data.transforms import to_float, to_uint8
from smalti.eval import reconstruction
from smalti.eval.bootstrap import BLOCKS, Interval, deal, from_blocks, of_means
from smalti.eval.codebook import entropy, histograms, parts, perplexity, usage
from smalti.eval.measure import preparation
from smalti.eval.report import Measured, counted
from smalti.eval.sets import ImageSet
from smalti.progress import track
from smalti.tokenizers.base import reading

Rule = tuple[str, Literal["lower", "higher"]]
PAIRED: dict[str, Rule] = {
    "psnr": ("psnr/1: mean over images, dB, of uint8-rounded RGB, float64", "higher"),
    "ssim": (
        "ssim/1: mean over images, 7x7 uniform window, each channel, as scikit-image",
        "higher",
    ),
    "l1": ("l1/1: mean absolute error of uint8-rounded RGB in [0, 1]", "lower"),
}
"""What is measured of a tokenizer's images one by one."""
LPIPS: dict[str, Rule] = {
    f"lpips_{net}": (f"lpips_{net}/1: LPIPS 0.1 ({net}), inputs in [-1, 1]", "lower")
    for net in ("alex", "vgg")
}

CODES: dict[str, tuple[Callable[[Tensor], float], str, Interval]] = {
    "usage": (usage, "share of codes that occur", (0.0, 1.0)),
    "perplexity": (perplexity, "exp of the entropy of the codes", (1.0, math.inf)),
    "entropy": (entropy, "of the codes, in nats", (0.0, math.inf)),
}
"""What is measured of counts of codes, in words, and what no value is beyond."""


def texts_of(tokenizer: Any, pictures: ImageSet, numbers: Iterable[int]) -> list[str] | None:
    """The captions of some pictures, for a decoder that reads texts; None for any other. Raises
    ValueError if one is missing."""
    if not tokenizer.told:
        return None
    texts = [pictures.caption(int(i)) for i in numbers]
    if not all(texts):
        raise ValueError(
            f"{pictures.name} has pictures without a caption, and the decoder reads a text of each"
        )
    return texts


@dataclass
class Reconstructed:
    """Pictures as a tokenizer gives them back, with what is measured one by one on the way."""

    tokenizer: Any
    pictures: ImageSet
    lpips: dict[str, Any] = field(default_factory=dict)
    """Networks by the names of `LPIPS`."""
    values: dict[str, list[Tensor]] = field(default_factory=dict)
    counts: list[Tensor] = field(default_factory=list)
    """Of each block of pictures, (K, D, V): how often each scale and depth has each code."""
    seen: int = 0

    def __len__(self) -> int:
        return len(self.pictures)

    def batches(self, n: int) -> Iterator[Tensor]:
        device, spec = next(self.tokenizer.parameters()).device, self.tokenizer.spec
        for rows in track(self.pictures.numbered(n), "reconstructing", scale=n, of=len(self)):
            images, texts = rows.images, texts_of(self.tokenizer, self.pictures, rows.numbers)
            codes = self.tokenizer.encode(to_float(images.to(device)))
            back = to_uint8(self.tokenizer.decode(codes, **reading(self.tokenizer, texts))).cpu()
            if self.tokenizer.map:  # they are compared with what was coded
                images = to_uint8(self.tokenizer.seen(to_float(images.to(device)))).cpu()
            for name in PAIRED:
                self.values.setdefault(name, []).append(getattr(reconstruction, name)(images, back))
            for name, net in self.lpips.items():
                apart = net(*(to_float(x.to(device)) for x in (images, back)))
                self.values.setdefault(name, []).append(apart.cpu())
            if spec.discrete:
                self._count(codes)
            yield back

    def _count(self, codes: Tensor) -> None:
        spec, blocks = self.tokenizer.spec, torch.from_numpy(deal(self.seen, len(codes)))
        self.counts = self.counts or [torch.zeros_like(histograms(codes[:0], spec))] * BLOCKS
        for i in blocks.unique().tolist():
            taken = codes[(blocks == i).to(codes.device)]
            self.counts[i] = self.counts[i] + histograms(taken, spec)
        self.seen += len(codes)

    def measured(self, draws: int, seed: int) -> list[Measured]:
        """What was found on the way."""
        about = {"kind": "reconstruction", "images": len(self), "reference": self.pictures.hash}
        about |= {
            "reference_images": len(self),
            "resampled": "reference",
            "preparation": preparation(self.pictures),
        }
        found = []
        for name, (definition, better) in (PAIRED | LPIPS).items():
            if name in self.values:
                net = self.lpips.get(name)
                values = torch.cat(self.values[name]).double().clamp(max=100).numpy()
                found.append(
                    Measured(
                        counted(name, len(self)),
                        definition,
                        float(values.mean()),
                        better=better,
                        interval=of_means(values, draws, seed),
                        extractor="" if net is None else net.hash,
                        **about,
                    )
                )
        return found + self._codes(about | {"kind": "codes"}, draws, seed)

    def _codes(self, about: dict[str, Any], draws: int, seed: int) -> list[Measured]:
        if not self.counts:
            return []
        filled = [count for count in self.counts if count.any()]
        images = [int(count.sum()) for count in filled]
        spec, total = self.tokenizer.spec, torch.stack(filled).sum(0)

        def numbers(counts: Tensor) -> dict[str, float]:
            rules = {name: rule for name, (rule, *_) in CODES.items()}
            each = parts(counts, spec).items()
            return {n + part: rule(count) for part, count in each for n, rule in rules.items()}

        without = [numbers(total - count) for count in filled] if draws > 1 else []
        found = []
        for title, value in numbers(total).items():
            name = title.partition("_")[0]
            _, text, within = CODES[name]
            others = [row[title] for row in without]
            found.append(
                Measured(
                    counted(title, len(self)),
                    f"{name}/1: {text}, counted over all images",
                    value,
                    better="higher",
                    interval=from_blocks(value, others, images, draws, seed, within),
                    **about,
                )
            )
        return found
