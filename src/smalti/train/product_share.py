"""How near training comes to the rate at which its device multiplies.

What is not a product, norms, activations, the optimizer, waiting for data, is what the share leaves
to 1. Operations that are done twice, as with `train.recompute`, count once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from smalti.devices.rates import counted, product_rate
from smalti.train.base import Batch, Losses, Objective
from smalti.train.parallel import Precision, World, autocast, wants_bf16


def functional(objective: Objective, *, apart: bool = False) -> Callable[[Batch, int], Losses]:
    """The forward pass of an objective, which changes nothing: what it writes, buffers, scales and
    the table of a codebook that is cared for, are copies. With `apart`, gradients are of other
    tensors than its parameters, too."""
    state: dict[str, Tensor] = {n: b.clone() for n, b in objective.named_buffers()}
    table: Any = objective.model.codebook if getattr(objective, "care", None) else nn.Module()
    written = {id(p) for p in table.parameters()}
    for name, weight in objective.named_parameters():
        if not weight.dim() or id(weight) in written:
            state[name] = nn.Parameter(weight.detach().clone(), weight.requires_grad)
        elif apart:
            state[name] = nn.Parameter(weight.detach(), weight.requires_grad)
    return lambda batch, step: functional_call(objective, state, (batch, step))


class ProductShare:
    """Compares the operations of training steps with what the device could do in their time."""

    def __init__(self, world: World, precision: Precision) -> None:
        self.world = world
        self.precision: Precision = precision
        self.dtype = torch.bfloat16 if wants_bf16(world.device, precision) else torch.float32
        self.operations = 0.0
        """Of a step of this process."""

    def count(self, objective: Objective, batch: Batch, step: int, items: int) -> None:
        """Count the operations of a step, forward and backward, in an extra one that changes
        nothing, of so many items of the batch; the others are taken to be like them.

        What is counted is not what is trained, as counting takes other ways through torch, which
        round otherwise.
        """
        device, forward = self.world.device, functional(objective, apart=True)
        given = {k: v[:items].to(device) for k, v in batch.items()}
        local = len(next(iter(batch.values())))

        def run() -> None:
            with autocast(device, self.precision):
                losses = forward(given, step)
            torch.stack(list(losses.totals.values())).sum().backward()

        self.operations = counted(run) * local / items

    def of(self, steps: int, seconds: float) -> float:
        """The share of so many steps in so many seconds, of this process and its device."""
        rate = self.operations * steps / seconds
        return rate / product_rate(self.world.device, self.dtype)
