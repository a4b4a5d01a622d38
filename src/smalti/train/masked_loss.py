"""What masked models minimise: the loss at hidden positions, given the others.

How many are hidden follows the published systems. MAR: one share for a whole batch, normal around 1
and cut off at a least share, so that an encoder of known positions has rows of one length. MaskGIT:
cos(pi u / 2) of each sample, u uniform; MaskBit: acos(u) / (pi / 2).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from smalti.config import check
from smalti.devices.float64 import wide
from smalti.sampling.noise import Noise
from smalti.sampling.orders import shuffled
from smalti.text.encoders import condition
from smalti.train.base import Batch, Losses, Objective, ObjectiveConfig


@dataclass(frozen=True)
class MaskedConfig(ObjectiveConfig):
    LOOP: ClassVar[str] = "masked"

    masking: Literal["normal", "cosine", "arccos"] = "normal"
    """How many positions are hidden: normal, as many in all samples of a step (MAR); in each sample
    another number: cosine (MaskGIT), arccos (MaskBit)."""
    least: float = 0.7
    """Least share of hidden positions, with normal."""
    deviation: float = 0.25
    """Of the normal distribution around 1."""
    smoothing: float = 0.0
    """Share of each target that is spread over all codes; discrete codes only."""
    known_weight: float = 0.0
    """What the loss of codes that are shown counts beside that of hidden ones; 1 in MaskBit, 0 in
    others. Held-out losses are of hidden ones alone."""

    def __post_init__(self) -> None:
        check(self, shares=("cond_dropout", "least", "smoothing"), above_zero=("deviation",))
        check(self, amounts=("known_weight",))

    def objective(self, model: Any, encoder: Any | None, seed: int) -> MaskedObjective:
        """What a model, and a text encoder that learns with it, minimise."""
        return MaskedObjective(model, self, encoder, seed)

    def counts(self, uniform: Tensor, positions: int) -> Tensor:
        """How many of the positions are hidden, at least one, for numbers in [0, 1): int64."""
        uniform = wide(uniform)
        if self.masking == "cosine":
            share = (math.pi / 2 * uniform).cos()
        elif self.masking == "arccos":
            share = uniform.acos() * 2 / math.pi
        else:  # the inverse of the distribution function between the limits
            below, half = _cdf((self.least - 1) / self.deviation), 0.5
            share = 1 + self.deviation * torch.special.ndtri(below + (half - below) * uniform)
        return (share * positions).ceil().clamp(1, positions).long()


def _cdf(x: float) -> float:
    return 0.5 * math.erfc(-x / math.sqrt(2))


class MaskedObjective(Objective):
    """Mean loss at hidden positions (nats, or the diffusion loss), with condition dropout.

    All random numbers are those of each item and of the step, so they are the same on any number of
    processes. A text `encoder` is trained together with the model.
    """

    def __init__(
        self, model: Any, config: MaskedConfig, encoder: Any | None = None, seed: int = 0
    ) -> None:
        super().__init__()
        if config.smoothing and not model.spec.discrete:
            raise ValueError(
                f"smoothing is for discrete codes: it must be 0, got {config.smoothing}"
            )
        if config.smoothing:
            for part in model.head.modules():  # a head of stacks has one for each depth
                if hasattr(part, "smoothing"):
                    part.smoothing = config.smoothing
        if config.known_weight and model.known_weight is None:
            raise ValueError(
                "known_weight is for models that predict codes which they are shown as well: it "
                f"must be 0, got {config.known_weight}"
            )
        if config.known_weight:
            model.known_weight = config.known_weight
        self.model = model
        if encoder is not None:
            self.model = nn.ModuleDict({"generator": model, "encoder": encoder})
        self.config, self.seed = config, seed
        self._parts: tuple[Any, Any] = model, encoder  # a tuple registers nothing twice

    def forward(self, batch: Batch, step: int) -> Losses:
        (model, encoder), config = self._parts, self.config
        cond = condition(batch, encoder).dropped(batch["chance"] < config.cond_dropout)
        noise = Noise(batch["shuffle"], torch.zeros_like(batch["shuffle"]))
        known = self.known(noise, step)
        loss = model.loss(model.spec.widened(batch["codes"]), cond, known, noise).sum()
        hidden = (~known).sum()
        # not the count of this rank's samples, of which other ranks have more or less
        usual = hidden if config.masking == "normal" else 2 / math.pi * known.numel()
        usual, found = (n + config.known_weight * (known.numel() - n) for n in (usual, hidden))
        return Losses({"model": loss / usual}, {"loss": loss.detach() / found})

    def known(self, noise: Noise, step: int) -> Tensor:
        """Which positions, or parts of them, are not hidden in this step, (b, N * parts) bool."""
        model, first = self._parts[0], torch.zeros(1, dtype=torch.int64)
        positions = model.spec.positions * model.parts
        if self.config.masking == "normal":
            numbers = Noise.request(self.seed, 1, first=step).uniform(first)  # (1, 1)
        else:
            numbers = noise.uniform(first)  # (b, 1)
        hidden = self.config.counts(numbers, positions).to(noise.seeds.device)
        order = shuffled(noise, positions)
        return torch.zeros_like(order, dtype=torch.bool).scatter(
            1, order, (torch.arange(positions, device=order.device) >= hidden).expand(order.shape)
        )
