"""AdamW with decay groups, and learning-rate schedules."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal

import torch
from torch import nn

from smalti.config import check


@dataclass(frozen=True)
class OptimConfig:
    lr: float = 1e-4
    """Peak learning rate."""
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    """After the warm-up: constant, or down to `final_lr` by half a cosine or in a line."""
    warmup: int = 0
    """Steps of linear warm-up."""
    hold: int = 0
    """Steps at the peak before the fall begins."""
    final_lr: float = 0.0
    """Where the fall ends, as a fraction of `lr`."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Decay rates of AdamW's two moments."""
    eps: float = 1e-8
    """Added to the root of AdamW's second moment."""
    weight_decay: float = 0.05
    """On parameters of two or more dimensions; biases, norms and what a model names in `NO_DECAY`
    have none."""
    final_weight_decay: float | None = None
    """Where half a cosine leads the weight decay from there; None leaves it."""
    clip: float = 1.0
    """Largest gradient norm, for each optimizer; 0 does not clip."""

    def __post_init__(self) -> None:
        amounts = ["final_lr", "weight_decay", "clip"]
        amounts += ["final_weight_decay"] * (self.final_weight_decay is not None)
        check(self, above_zero=("lr", "eps"), counts=("warmup", "hold"), amounts=amounts)
        if not all(0 <= b < 1 for b in self.betas):
            raise ValueError(f"betas must be in [0, 1), got {self.betas}")


def adamw(module: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """AdamW over the trainable parameters of a module, decayed and undecayed ones apart."""
    named, decayed, plain = spared(module), list[nn.Parameter](), list[nn.Parameter]()
    for p in module.parameters():
        if p.requires_grad:
            (plain if p.dim() < 2 or id(p) in named else decayed).append(p)
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay, "decayed": True},
        {"params": plain, "weight_decay": 0.0, "decayed": False},
    ]
    used = [g for g in groups if g["params"]]
    return torch.optim.AdamW(used, lr=config.lr, betas=config.betas, eps=config.eps, fused=True)


def spared(module: nn.Module) -> set[int]:
    """The ids of the parameters that a module, or one inside it, names in `NO_DECAY`."""
    return {
        id(p)
        for part in module.modules()
        for name, p in part.named_parameters()
        if any(fnmatchcase(name, pattern) for pattern in getattr(part, "NO_DECAY", ()))
    }


def load_state(optimizer: torch.optim.Optimizer, state: dict[str, Any], module: nn.Module) -> None:
    """Load the state of a module's optimizer; one of before parts of a module were asked what they
    spare had all weights of two or more dimensions in its first group, which it goes on from."""
    before = numbered(optimizer, state["param_groups"], module)
    if before is not None:
        after = [p for group in optimizer.param_groups for p in group["params"]]
        now = {id(p): i for i, p in enumerate(after)}
        kept = {now[id(p)]: state["state"][i] for i, p in enumerate(before) if i in state["state"]}
        state = {"state": kept, "param_groups": optimizer.state_dict()["param_groups"]}
    optimizer.load_state_dict(state)


def numbered(
    optimizer: torch.optim.Optimizer, groups: list[dict[str, Any]], module: nn.Module
) -> list[nn.Parameter] | None:
    """The weights of a module's optimizer in the order in which a state with such groups numbers
    them; None: in that of the optimizer."""
    now = [len(group["params"]) for group in optimizer.param_groups]
    if now == [len(group["params"]) for group in groups]:
        return None
    trained = [p for p in module.parameters() if p.requires_grad]
    return [p for p in trained if p.dim() > 1] + [p for p in trained if p.dim() < 2]


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
    begin = config.warmup + config.hold
    progress = min(max(step - begin, 0) / max(steps - begin, 1), 1.0)
    fall = 1 - progress
    if config.schedule == "cosine":
        fall = 0.5 * (1 + math.cos(math.pi * progress))
    return config.lr * (config.final_lr + (1 - config.final_lr) * fall)


def weight_decay_at(step: int, steps: int, config: OptimConfig) -> float:
    """Weight decay of step `step` (0 ... steps - 1)."""
    first, last = config.weight_decay, config.final_weight_decay
    if last is None:
        return first
    return last + (first - last) * 0.5 * (1 + math.cos(math.pi * step / max(steps, 1)))
