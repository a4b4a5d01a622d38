"""Held-out likelihood of models that have one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import torch
from torch import Tensor

from smalti.codes import Cond, TokenSpec
from smalti.eval.codebook import bits
from smalti.sampling.orders import order as orders_of
from smalti.text.encoders import TextEncoder, condition


class HasLoss(Protocol):
    spec: TokenSpec

    def loss(
        self, codes: Tensor, cond: Cond, read: Tensor | None = None, *orders: Tensor
    ) -> Tensor: ...


@torch.inference_mode()
def likelihood(
    model: HasLoss,
    batches: Iterable[dict[str, Tensor]],
    device: torch.device | str = "cpu",
    precision: torch.dtype | None = None,
    encoder: TextEncoder | None = None,
    order: str = "",
) -> dict[str, float]:
    """Teacher-forced negative log-likelihood under the true condition, without dropout.

    The condition is a label, or a caption, which a learned `encoder` reads if it is given.

    Gives "nats_per_token", "bits_per_token", "bits_per_image" and "images". The model must be in
    evaluation mode. `precision` autocasts products to this dtype; `order` is one of
    `sampling.orders` in which a raster model predicts, in place of its own.
    """
    orders = (orders_of(order, model.spec.grids[0]).to(device),) if order else ()
    total, count, device = 0.0, 0, torch.device(device)
    for batch in batches:
        batch = {k: v.to(device) for k, v in batch.items()}
        codes = batch["codes"]
        with torch.autocast(device.type, precision, enabled=precision is not None):
            nll = model.loss(codes, condition(batch, encoder), None, *orders)  # (B, N)
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
