"""How a quantizer that draws its codes learns."""

from __future__ import annotations

import math
from dataclasses import dataclass

from smalti.config import check


@dataclass(frozen=True)
class RelaxedConfig:
    """How a quantizer that draws its codes learns (Jang et al. 2017, arXiv:1611.01144)."""

    kl: float = 1e-8
    """Weight of the divergence of each place's codes from all being as likely, in nats."""
    temperature: float = 0.9
    """Of the softmax that has the gradient, at first."""
    final_temperature: float = 1e-6
    """The temperature at the end."""
    temperature_steps: int = 1_000_000
    """Steps in which it falls, by a cosine."""

    def __post_init__(self) -> None:
        check(
            self,
            "relaxed.",
            above_zero=("temperature", "final_temperature"),
            positive=("temperature_steps",),
        )
        if self.kl < 0:
            raise ValueError(f"relaxed.kl must be 0 or more, got {self.kl}")

    def temperature_at(self, step: int) -> float:
        share = (1 + math.cos(math.pi * min(step / self.temperature_steps, 1.0))) / 2
        return self.final_temperature + (self.temperature - self.final_temperature) * share
