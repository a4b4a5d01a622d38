"""What a dVAE minimises: how unlikely pixels are by the mixtures of codes that stand for them, and
how far the codes are from being equally likely (Ramesh et al. 2021, arXiv:2102.12092).

Unusual: pixels are learned by a logit-Laplace distribution, whose values lie between 0 and 1. The
mixtures begin soft and become sharp, and the divergence counts nothing at first, by schedules that
follow half a cosine; both of them, and their numbers, are as remembered.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from smalti.config import check
from smalti.data.transforms import to_float
from smalti.train.base import Batch, CodingConfig, Losses, Objective
from smalti.train.code_meter import CodeMeter


@dataclass(frozen=True)
class RelaxationConfig(CodingConfig):
    temperature: float = 1.0
    """Of the softmax that mixes codes, at first; large is soft."""
    final_temperature: float = 1 / 16
    """The same from `temperature_steps` on."""
    temperature_steps: int = 150_000
    """Steps in which the temperature falls."""
    kl_weight: float = 6.6
    """Of the codes' divergence from equal likelihood, beside the sum of the pixels' losses, from
    `kl_steps` on."""
    kl_steps: int = 5000
    """Steps in which that weight rises from 0."""

    def __post_init__(self) -> None:
        check(
            self,
            above_zero=("temperature", "final_temperature"),
            amounts=("kl_weight",),
            counts=("temperature_steps", "kl_steps"),
        )

    def objective(self, model: Any, seed: int, steps: int, begun: bool = False) -> Relaxation:
        """What a dVAE minimises."""
        return Relaxation(model, self)

    def at(self, step: int) -> tuple[float, float]:
        """The temperature and the weight of the divergence of a step."""
        heat = between(step, self.temperature_steps, self.temperature, self.final_temperature)
        return heat, between(step, self.kl_steps, 0.0, self.kl_weight)


def between(step: int, steps: int, first: float, last: float) -> float:
    """From the first value to the last in so many steps, by half a cosine."""
    share = min(step / steps, 1.0) if steps else 1.0
    return last + (first - last) * 0.5 * (1 + math.cos(math.pi * share))


class Relaxation(Objective):
    """Losses of pixels and of codes; `model` is a `DalleDVAE`.

    The Gumbel numbers are torch's, which the trainer seeds at each step.
    """

    model: Any
    shown = ("psnr", "usage")

    def __init__(self, model: Any, config: RelaxationConfig) -> None:
        super().__init__()
        self.model, self.config, self.meter = model, config, CodeMeter(model.spec)

    def forward(self, batch: Batch, step: int) -> Losses:
        images = to_float(batch["images"])
        temperature, weight = self.config.at(step)
        logits, stats = self.model.mixed(images, temperature)
        nats = unlikelihood(self.model.squeezed(images), stats).mean()
        kl = divergence(logits).flatten(1).sum(1).mean()
        total = nats + weight / images[0].numel() * kl
        mse = F.mse_loss(self.model.shown(stats.detach()), images)
        self.meter.begin(step)
        self.meter.observe(logits.argmax(1))
        logs = {
            "loss": total.detach(),
            "nats": nats.detach(),
            "kl": kl.detach(),
            "psnr": -10 * (mse / 4).log10(),
            "temperature": torch.tensor(temperature, device=images.device),
        }
        return Losses({"model": total}, logs | self.meter.meters())


def unlikelihood(values: Tensor, stats: Tensor) -> Tensor:
    """Negative log-likelihood of each value between 0 and 1, (B, 3, H, W), in nats, by means of
    logits and logarithms of widths (B, 6, H, W)."""
    mean, width = stats.chunk(2, 1)
    far = (values.logit() - mean).abs() * (-width).exp()
    return far + width + math.log(2) + (values * (1 - values)).log()


def divergence(logits: Tensor) -> Tensor:
    """How far the codes that are drawn by logits (B, V, ...) are from being equally likely, (B,
    ...), in nats."""
    logs = logits.log_softmax(1)
    return (logs.exp() * logs).sum(1) + math.log(logits.shape[1])
