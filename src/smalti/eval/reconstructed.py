"""What a tokenizer gives back of a set of pictures, and what is measured of each on the way.

B pictures, K scales, D depths, V codes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from smalti.data.transforms import to_float, to_uint8
from smalti.eval import reconstruction
from smalti.eval.codebook import entropy, histograms, parts, perplexity, usage
from smalti.eval.measure import preparation
from smalti.eval.report import Measured, counted, of_means
from smalti.eval.sets import ImageSet
from smalti.progress import track

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


@dataclass
class Reconstructed:
    """Pictures as a tokenizer gives them back, with what is measured one by one on the way."""

    tokenizer: Any
    pictures: ImageSet
    lpips: dict[str, Any] = field(default_factory=dict)
    """Networks by the names of `LPIPS`."""
    values: dict[str, list[Tensor]] = field(default_factory=dict)
    counts: Tensor | None = None
    """(K, D, V): how often each scale and depth has each code."""

    def __len__(self) -> int:
        return len(self.pictures)

    def batches(self, n: int) -> Iterator[Tensor]:
        device, spec = next(self.tokenizer.parameters()).device, self.tokenizer.spec
        for images in track(self.pictures.batches(n), "reconstructing", -(-len(self) // n), n):
            codes = self.tokenizer.encode(to_float(images.to(device)))
            back = to_uint8(self.tokenizer.decode(codes)).cpu()
            for name in PAIRED:
                self.values.setdefault(name, []).append(getattr(reconstruction, name)(images, back))
            for name, net in self.lpips.items():
                apart = net(*(to_float(x.to(device)) for x in (images, back)))
                self.values.setdefault(name, []).append(apart.cpu())
            if spec.discrete:
                counts = histograms(codes, spec)
                self.counts = counts if self.counts is None else self.counts + counts
            yield back

    def measured(self, draws: int, seed: int) -> list[Measured]:
        """What was found on the way."""
        about = {"kind": "reconstruction", "images": len(self), "reference": self.pictures.hash}
        about |= {"reference_images": len(self), "preparation": preparation(self.pictures)}
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
        return found + self._codes(about | {"kind": "codes"})

    def _codes(self, about: dict[str, Any]) -> list[Measured]:
        if self.counts is None:
            return []
        found = []
        for part, count in parts(self.counts, self.tokenizer.spec).items():
            for name, rule, text in (
                ("usage", usage, "share of codes that occur"),
                ("perplexity", perplexity, "exp of the entropy of the codes"),
                ("entropy", entropy, "of the codes, in nats"),
            ):
                title, definition = f"{name}{part}", f"{name}/1: {text}, counted over all images"
                found.append(
                    Measured(
                        counted(title, len(self)), definition, rule(count), better="higher", **about
                    )
                )
        return found
