"""What a renderer minimises: the squared error of the velocity of a flow from noise to pictures
(Lipman et al. 2022, arXiv:2210.02747), where it says the picture (Li and He 2025,
arXiv:2511.13720).

Unusual: features that a language model says are not quite those of any picture, so that in training
some noise may be added to them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from smalti.config import check
from smalti.data.transforms import to_float
from smalti.nn.features import formed
from smalti.train.base import Batch, CodingConfig, Losses, Objective

SHARPEST = 0.05
"""Least share of noise by which what is left to go is divided."""
TIMES = (-0.8, 0.8)
"""Mean and standard deviation of the logit of times: near the noise, where features decide."""


@dataclass(frozen=True)
class RenderingConfig(CodingConfig):
    cond_dropout: float = 0.1
    """Share of the pictures that are rendered without features, for guidance; MetaMorph: 0.1 in its
    code, 0.8 in the command that it publishes."""
    feature_noise: float = 0.0
    """Length of the noise that is added to features, as a share of their own."""

    def __post_init__(self) -> None:
        check(self, shares=("cond_dropout",), amounts=("feature_noise",))

    def objective(self, model: Any, seed: int, steps: int, begun: bool = False) -> Rendering:
        """What a renderer minimises. Raises ValueError for features without one."""
        model.require_renderer()
        return Rendering(model, self)


class Rendering(Objective):
    """Errors of the velocity, of pictures at random times of the flow; `model` is a
    `FlowTokenizer`, of which the renderer alone learns.

    Times and noise are torch's, which the trainer seeds at each step.
    """

    model: Any

    def __init__(self, model: Any, config: RenderingConfig) -> None:
        super().__init__()
        self.model, self.config = model, config
        model.requires_grad_(False)
        model.renderer.requires_grad_(True)

    def forward(self, batch: Batch, step: int) -> Losses:
        images, config, model = to_float(batch["images"]), self.config, self.model
        with torch.no_grad():
            features = model.vectors(model.encode(images))  # (B, N, C)
            if config.feature_noise:
                length = features.norm(dim=-1, keepdim=True) / features.shape[-1] ** 0.5
                noise = config.feature_noise * length * torch.randn_like(features)
                features = formed(features + noise, model.spec.form)
        count = len(images)
        times = (TIMES[0] + TIMES[1] * torch.randn(count, device=images.device)).sigmoid()
        kept = torch.rand(count, device=images.device) >= config.cond_dropout
        t = times.view(-1, 1, 1, 1)
        x = torch.lerp(torch.randn_like(images), images, t)
        tokens = model.renderer.read(features, kept)
        errors = (model.renderer(x, times, tokens).float() - images).square()
        loss = (errors / (1 - t).clamp(min=SHARPEST).square()).mean()
        psnr = -10 * (errors.detach().mean() / 4).log10()
        return Losses({"model": loss}, {"loss": loss.detach(), "psnr": psnr})
