"""What tokenizers minimise that are trained in two stages, as TiTok's first ones are (Yu et al.
2024, arXiv:2406.07550).

In the first stage the decoder predicts codes of another tokenizer, whose own decoder makes pictures
of them: no loss of pictures, and no adversary. In the second the decoder alone learns by pictures.

B images, h, w code grid of the other tokenizer, V its codes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from smalti.data.transforms import to_float
from smalti.train.base import Batch, Losses
from smalti.train.objectives import (
    PictureConfig,
    PictureObjective,
    ReconstructionConfig,
    ReconstructionObjective,
)


@dataclass(frozen=True)
class ProxyCodesConfig(ReconstructionConfig):
    perceptual: str = "none"
    gan_weight: float = 0.0

    def __post_init__(self) -> None:
        if self.perceptual != "none" or self.gan_weight:
            raise ValueError(
                "the first stage compares codes, not pictures: perceptual must be none and "
                f"gan_weight 0, got {self.perceptual}, {self.gan_weight}"
            )

    def objective(self, model: Any, seed: int, steps: int, begun: bool = False) -> ProxyCodes:
        """What a tokenizer minimises in so many steps. Raises ValueError as `checked` does, and for
        one that begins from another, which has no codes to predict."""
        if begun:
            raise ValueError("the first stage is that of a new tokenizer: init must be empty")
        return ProxyCodes(model, self.checked(model, steps, begun), seed)


class ProxyCodes(ReconstructionObjective):
    """Cross-entropy (nats) of the codes of another tokenizer, and losses of the quantizer; `model`
    predicts them by `proxy_logits`, and `proxy` is the other one."""

    def __init__(self, model: Any, config: ProxyCodesConfig, seed: int = 0) -> None:
        super().__init__(model, config, seed)
        self.proxy = model.take_proxy()

    def _made(self, latent: Tensor) -> Tensor:
        return self.model.proxy_logits(latent)  # (B, h * w, V)

    def _reconstruction(self, out: Tensor, images: Tensor, logs: dict[str, Tensor]) -> Tensor:
        with torch.no_grad():
            codes = self.proxy.encode(images)  # (B, h * w)
        loss = F.cross_entropy(out.float().flatten(0, 1), codes.flatten())
        logs["proxy"] = loss.detach()
        return loss


@dataclass(frozen=True)
class DecoderConfig(PictureConfig):
    def objective(self, model: Any, seed: int, steps: int, begun: bool = False) -> DecoderAlone:
        """What the decoder of a tokenizer minimises. Raises ValueError for a new one."""
        if not begun:
            raise ValueError("the second stage goes on from a tokenizer: give --init DIR")
        return DecoderAlone(model, self)


class DecoderAlone(PictureObjective):
    """Losses of pictures, which only what is behind the codes of a tokenizer learns by."""

    def __init__(self, model: Any, config: DecoderConfig) -> None:
        super().__init__(model, config)
        for part in (model.encoder, model.codebook):
            part.requires_grad_(False)

    def forward(self, batch: Batch, step: int) -> Losses:
        images, logs = to_float(batch["images"]), dict[str, Tensor]()
        with torch.no_grad():
            latent = self.model.embedded(self.model.encode(images))
        out = self.model.render(latent)
        total = self._reconstruction(out, images, logs)
        totals = self._judged(step, images, out, total, total, logs)
        logs["loss"] = totals["model"].detach()
        return Losses(totals, logs)
