"""How near training comes to the rate at which its device multiplies.

What is not a product, norms, activations, the optimizer, waiting for data, is what the share leaves
to 1. Operations that are done twice, as with `train.recompute`, count twice.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from smalti.devices.rates import counter, product_rate
from smalti.train.parallel import Precision, World, wants_bf16


class ProductShare:
    """Counts the operations of a training step, and compares their rate with the device's."""

    def __init__(self, world: World, precision: Precision, every: int) -> None:
        """`every`: steps between two counts, as what a step does can change."""
        self.device, self.every = world.device, every
        self.dtype = torch.bfloat16 if wants_bf16(world.device, precision) else torch.float32
        self._found: Any = None

    def counting(self, step: int) -> AbstractContextManager[object]:
        """A context for a step: the first one of a process is counted, and some later ones."""
        if self._found is not None and step % self.every:
            return nullcontext()
        self._found = found = counter()
        return found

    def of(self, steps: int, seconds: float) -> float:
        """Of so many steps in so many seconds; of this process and its device."""
        return self._found.get_total_flops() * steps / seconds / product_rate(self.device, self.dtype)
