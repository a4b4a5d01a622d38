"""What a KL-VAE minimises: losses of pictures, and the divergence of its latents from the normal
distribution (Rombach et al. 2021, arXiv:2112.10752).

Their weights are those of losses summed over an image, ours of means: `kl_weight` nats weigh as
much as the sum of an image's pixel losses, so the divergence is divided by the pixels' count.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from smalti.config import check
from smalti.data.transforms import to_float
from smalti.train.base import Batch, Losses
from smalti.train.objectives import PictureConfig, PictureObjective


@dataclass(frozen=True)
class KLConfig(PictureConfig):
    pixel: Literal["l1", "l2"] = "l1"
    """Distance of pixels: l1 is absolute, l2 squared."""
    gan_start: int = 50001
    gan_adaptive: bool = True
    kl_weight: float = 1e-6
    """Of an image's divergence in nats, beside the sum of its pixels' losses."""

    def __post_init__(self) -> None:
        check(self, amounts=("kl_weight",))

    def objective(self, model: Any, seed: int, steps: int, begun: bool = False) -> KLObjective:
        """What a tokenizer minimises."""
        return KLObjective(model, self)


class KLObjective(PictureObjective):
    """Losses of pictures and of the divergence; `model` is a `KLVAE`.

    The noise of the samples is torch's, which the trainer seeds at each step.
    """

    shown = ("kl",)

    def __init__(self, model: Any, config: KLConfig) -> None:
        super().__init__(model, config)
        self.config = config

    def forward(self, batch: Batch, step: int) -> Losses:
        images = to_float(batch["images"])
        out, posterior = self.model(images)
        logs = {"kl": posterior.kl().mean().detach(), "std": posterior.std.mean().detach()}
        reconstruction = self._reconstruction(out, images, logs)
        weight = self.config.kl_weight / images[0].numel()
        total = reconstruction + weight * posterior.kl().mean()
        totals = self._judged(step, images, out, reconstruction, total, logs)
        return Losses(totals, logs | {"loss": total.detach()})
