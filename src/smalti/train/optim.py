"""AdamW with decay groups, and learning-rate schedules."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn


@dataclass(frozen=True)
class OptimConfig:
    lr: float = 1e-4
    """Peak learning rate."""
    schedule: Literal["constant", "cosine"] = "constant"
    """After the warm-up: constant, or half a cosine down to `final_lr`."""
    warmup: int = 0
    """Steps of linear warm-up."""
    final_lr: float = 0.0
    """Where the cosine ends, as a fraction of `lr`."""
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.05
    """On parameters of two or more dimensions; biases and norms have none."""
    clip: float = 1.0
    """Largest gradient norm, for each optimizer; 0 does not clip."""

    def __post_init__(self) -> None:
        if not 0 < self.lr < math.inf:
            raise ValueError(f"lr must be above 0, got {self.lr}")
        for name in ("warmup", "final_lr", "weight_decay", "clip"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}")
        if not all(0 <= b < 1 for b in self.betas):
            raise ValueError(f"betas must be in [0, 1), got {self.betas}")


def adamw(module: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """AdamW over the trainable parameters of a module, decayed and undecayed ones apart."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [g for g in groups if g["params"]], lr=config.lr, betas=config.betas, fused=True
    )


def fill_state(optimizer: torch.optim.AdamW) -> None:
    """Give every parameter the state that its first step would give it, for loading in place."""
    for group in optimizer.param_groups:
        for p in group["params"]:
            optimizer.state[p] = {
                "step": torch.zeros((), device=p.device),
                "exp_avg": torch.zeros_like(p),
                "exp_avg_sq": torch.zeros_like(p),
            }


def lr_at(step: int, steps: int, config: OptimConfig) -> float:
    """Learning rate of step `step` (0 ... steps - 1)."""
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    if config.schedule == "constant":
        return config.lr
    progress = (step - config.warmup) / max(steps - config.warmup, 1)
    fall = 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
    return config.lr * (config.final_lr + (1 - config.final_lr) * fall)
