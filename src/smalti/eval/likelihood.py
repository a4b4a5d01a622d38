"""Held-out likelihood of models that have one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import torch
from torch import Tensor

from smalti.codes import Cond, TokenSpec
from smalti.eval.codebook import bits


class HasLoss(Protocol):
    spec: TokenSpec

    def loss(self, codes: Tensor, cond: Cond, read: Tensor | None = None) -> Tensor: ...


@torch.inference_mode()
def likelihood(
    model: HasLoss,
    batches: Iterable[dict[str, Tensor]],
    device: torch.device | str = "cpu",
    precision: torch.dtype | None = None,
) -> dict[str, float]:
    """Teacher-forced negative log-likelihood under the true condition, without dropout.

    Gives "nats_per_token", "bits_per_token", "bits_per_image" and "images". The model must be in
    evaluation mode. `precision` autocasts products to this dtype.
    """
    total, count, device = 0.0, 0, torch.device(device)
    for batch in batches:
        codes, labels = batch["codes"].to(device), batch["labels"].to(device)
        with torch.autocast(device.type, precision, enabled=precision is not None):
            nll = model.loss(codes, Cond.of_labels(labels))  # (B, N)
        total += nll.double().sum().item()
        count += len(codes)
    if not count:
        raise ValueError("there are no codes to evaluate on")
    nats = total / (count * model.spec.positions)
    return {
        "nats_per_token": nats,
        "bits_per_token": bits(nats),
        "bits_per_image": bits(nats) * model.spec.positions,
        "images": float(count),
    }
