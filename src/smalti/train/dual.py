"""What a tokenizer of two levels minimises: its losses of pictures, and how far the features of its
ViT come back from semantic codes.

ILLUME+ (Huang et al. 2025, arXiv:2504.01934): squared distance 1, perceptual 1, adversarial 0.5
from step 20,000 on, codes 1 and 0.25 of each level, 1 less the cosine of features 1.

Unusual: at random cells the codes of pixels may be those of another picture (`swap`), so that the
decoder forgives mistakes of the model that draws them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from smalti.codes import TokenSpec
from smalti.config import check
from smalti.data.transforms import to_float
from smalti.train.base import Batch, Losses
from smalti.train.code_meter import CodeMeter
from smalti.train.objectives import PictureConfig, PictureObjective


@dataclass(frozen=True)
class DualObjectiveConfig(PictureConfig):
    quantizer_weight: float = 1.0
    """Pulls codes towards latents."""
    commitment: float = 0.25
    """Pulls latents towards codes."""
    features: float = 1.0
    """Weight of 1 less the cosine of the ViT's features and of those that semantic codes give."""
    swap: float = 0.0
    """Share of cells whose codes of pixels are another picture's, of pictures with such cells."""
    swapped: float = 0.1
    """Share of pictures with such cells."""

    def __post_init__(self) -> None:
        check(self, amounts=("quantizer_weight", "commitment", "features"))
        check(self, shares=("swap", "swapped"))

    def objective(self, model: Any, seed: int, steps: int, begun: bool = False) -> DualObjective:
        """What a `DualTokenizer` minimises."""
        return DualObjective(model, self)


class DualObjective(PictureObjective):
    """Losses of pictures, of both levels of codes and of features; `model` is a `DualTokenizer`.

    Which codes are swapped is torch's choice, which the trainer seeds at each step.
    """

    def __init__(self, model: Any, config: DualObjectiveConfig) -> None:
        super().__init__(model, config)
        self.config, spec = config, model.spec
        tables = spec.tables or (spec.vocab,)
        self.meters = nn.ModuleList(
            [CodeMeter(TokenSpec((g,), v)) for g, v in zip(spec.grids, tables, strict=True)]
        )
        self.names = ("semantic", "pixel")[: len(tables)]
        self.shown = ("features", *(f"{name}_usage" for name in self.names))

    def forward(self, batch: Batch, step: int) -> Losses:
        images, config = to_float(batch["images"]), self.config
        out = self.model(images, self.chosen(images) if config.swap else None)
        logs = dict[str, Tensor]()
        total = reconstruction = self._reconstruction(out.images, images, logs)
        weights = {"codebook": config.quantizer_weight, "commitment": config.commitment}
        for name, loss in out.losses.items():
            weight = weights.get(name.rpartition("_")[2], config.features)
            total = total + weight * loss
            logs[name] = loss.detach()
        levels = [level for level in (out.semantic, out.pixels) if level is not None]
        for name, meter, level in zip(self.names, self.meters, levels, strict=True):
            assert isinstance(meter, CodeMeter)
            meter.begin(step)
            meter.observe(level.codes)
            logs |= {f"{name}_{kind}": value for kind, value in meter.meters().items()}
        totals = self._judged(step, images, out.images, reconstruction, total, logs)
        return Losses(totals, logs | {"loss": total.detach()})

    def chosen(self, images: Tensor) -> Tensor:
        """Cells whose codes of pixels are another picture's, (B, 1, h, w) bool."""
        shape, device = (len(images), 1, *self.model.spec.grids[-1]), images.device
        pictures = torch.rand(len(images), 1, 1, 1, device=device) < self.config.swapped
        return pictures & (torch.rand(shape, device=device) < self.config.swap)
