"""How near training comes to the rate at which its device multiplies.

What is not a product, norms, activations, the optimizer, waiting for data, is what the share leaves
to 1. Operations that are done twice, as with `train.recompute`, count once.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.func import functional_call

from smalti.devices.rates import counted, product_rate
from smalti.train.base import Batch, Objective
from smalti.train.parallel import Precision, World, autocast, wants_bf16


class ProductShare:
    """Compares the operations of training steps with what the device could do in their time."""

    def __init__(self, world: World, precision: Precision) -> None:
        self.world = world
        self.precision: Precision = precision
        self.dtype = torch.bfloat16 if wants_bf16(world.device, precision) else torch.float32
        self.operations = 0.0
        """Of a step of this process."""

    def count(self, objective: Objective, batch: Batch, step: int) -> None:
        """Count the operations of a step, forward and backward, in an extra one that changes
        nothing: its gradients are of other tensors, and buffers are copies.

        What is counted is not what is trained, as counting takes other ways through torch, which
        round otherwise.
        """
        device = self.world.device
        state = {n: b.clone() for n, b in objective.named_buffers()}
        for name, weight in objective.named_parameters():
            state[name] = nn.Parameter(weight.detach(), weight.requires_grad)
        given = {k: v.to(device) for k, v in batch.items()}

        def run() -> None:
            with autocast(device, self.precision):
                losses = functional_call(objective, state, (given, step))
            torch.stack(list(losses.totals.values())).sum().backward()

        self.operations = counted(run)

    def of(self, steps: int, seconds: float) -> float:
        """The share of so many steps in so many seconds, of this process and its device."""
        rate = self.operations * steps / seconds
        return rate / product_rate(self.world.device, self.dtype)
