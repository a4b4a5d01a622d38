"""What an autoencoder minimises whose latents are neither quantized nor drawn: losses of pictures
alone, by all of it or by a part.

Deep autoencoders learn in stages (Chen et al. 2024, arXiv:2410.10733): all of small pictures; then,
of large ones, what is next to the latent, so that latents suit them; then, of small ones again and
against a discriminator, what makes pixels, which moves no latent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Self

from smalti.config import check
from smalti.data.transforms import to_float
from smalti.tokenizers.dcae import Learns
from smalti.train.base import Batch, Losses
from smalti.train.objectives import PictureConfig, PictureObjective


@dataclass(frozen=True)
class AutoencodingConfig(PictureConfig):
    pixel: Literal["l1", "l2"] = "l1"
    """Distance of pixels: l1 is absolute, l2 squared."""
    gan_weight: float = 0.0
    """0 trains without a discriminator."""
    gan_start: int = 0
    """Step at which the discriminator sets in."""
    gan_adaptive: bool = True
    learns: Learns = "whole"
    """What the run moves: the whole, the levels next to the latent (middle), or what makes pixels
    (head)."""

    def __post_init__(self) -> None:
        check(self)

    def objective(
        self, model: Any, seed: int, steps: int, begun: bool = False
    ) -> AutoencodingObjective:
        """What a tokenizer minimises. Raises ValueError for a part of one that knows nothing."""
        if self.learns != "whole" and not begun:
            raise ValueError(
                f"objective.learns {self.learns} is of a tokenizer that is trained: give --init"
            )
        return AutoencodingObjective(model, self)


class AutoencodingObjective(PictureObjective):
    """Losses of pictures; `model` has a `part` of each name, of which one learns. The others stay
    as they are, their norms over batches too."""

    def __init__(self, model: Any, config: AutoencodingConfig) -> None:
        super().__init__(model, config)
        self.learns = config.learns
        model.requires_grad_(False)
        for part in model.part(self.learns):
            part.requires_grad_(True)
        if config.gan_weight and config.gan_adaptive and not model.last_layer.requires_grad:
            raise ValueError(
                "objective.gan_adaptive weighs by the gradient of the last layer, which objective."
                f"learns {self.learns} leaves as it is: give --objective.no-gan-adaptive"
            )

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        self.model.eval()
        for part in self.model.part(self.learns):
            part.train(mode)
        return self

    def forward(self, batch: Batch, step: int) -> Losses:
        images = to_float(batch["images"])
        out, latent = self.model(images)
        logs = {"std": latent.detach().float().std()}
        reconstruction = self._reconstruction(out, images, logs)
        totals = self._judged(step, images, out, reconstruction, reconstruction, logs)
        return Losses(totals, logs | {"loss": totals["model"].detach()})
