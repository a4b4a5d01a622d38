"""Held-out likelihood of models that have one, a bound of it, or the loss that takes its place."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from smalti.codes import Cond
from smalti.devices.float64 import wide
from smalti.eval.codebook import bits
from smalti.sampling.noise import Noise
from smalti.sampling.orders import order as orders_of
from smalti.sampling.orders import shuffled
from smalti.text.encoders import TextEncoder, condition


def likelihood(model: Any, *given: Any, **options: Any) -> dict[str, float]:
    """`as_bits` of the mean of `losses`, which takes the same, and the number of "images"."""
    found = losses(model, *given, **options)
    return as_bits(model, found.mean().item()) | {"images": float(len(found))}


def as_bits(model: Any, loss: float) -> dict[str, float]:
    """What a mean of `losses` is called, by the kind of model.

    "nats_per_token", "bits_per_token" and "bits_per_image". Of masked models of discrete codes
    these are an upper bound and their names end in "_bound". Models of continuous codes have no
    likelihood: "diffusion_loss" is their loss.
    """
    if not model.spec.discrete:
        return {"diffusion_loss": loss}
    bound = "_bound" if model.loop == "masked" else ""
    return {
        f"nats_per_token{bound}": loss,
        f"bits_per_token{bound}": bits(loss),
        f"bits_per_image{bound}": bits(loss) * model.spec.positions,
    }


@torch.inference_mode()
def losses(
    model: Any,
    batches: Iterable[dict[str, Tensor]],
    device: torch.device | str = "cpu",
    precision: torch.dtype | None = None,
    encoder: TextEncoder | None = None,
    order: str = "",
) -> Tensor:
    """Teacher-forced negative log-likelihood per token under the true condition, without dropout,
    in nats: (N,) float64, of each image.

    The condition is a label, or a caption, which a learned `encoder` reads if it is given.
    Of masked models of discrete codes it is an upper bound: the mean over random orders (Uria,
    Murray, Larochelle 2013, arXiv:1310.1757), estimated with one number of hidden positions for
    each image. Of continuous codes it is the model's loss, at one time and number of hidden
    positions for each image, the same in every call. The model must be in evaluation mode.
    `precision` autocasts products to this dtype; `order` is one of `sampling.orders` in which a
    raster model predicts, in place of its own. Raises ValueError if there are no codes.
    """
    orders = orders_of(order, model.spec.grids[0]).to(device) if order else None
    found, count, device = [], 0, torch.device(device)
    for batch in batches:
        batch = {k: v.to(device) for k, v in batch.items()}
        codes, cond = model.spec.widened(batch["codes"]), condition(batch, encoder)
        with torch.autocast(device.type, precision, enabled=precision is not None):
            noise = Noise.request(0, len(codes), count, device)
            if model.loop == "masked":
                loss = _hidden_loss(model, codes, cond, noise)  # (B,)
            else:
                loss = model.loss(codes, cond, orders, noise).mean(1)  # (B,)
        found.append(wide(loss).cpu())
        count += len(codes)
    if not count:
        raise ValueError("there are no codes to evaluate on")
    return torch.cat(found)


def _hidden_loss(model: Any, codes: Tensor, cond: Cond, noise: Noise) -> Tensor:
    """The mean loss of each image at hidden positions, (B,); where parts of positions are hidden
    by themselves, that at hidden parts times their number."""
    positions = model.spec.positions * model.parts
    # the golden ratio spreads the numbers of hidden positions evenly over any number of images
    share = (wide(noise.index) + 0.5) * (5**0.5 - 1) / 2 % 1  # (B,)
    hidden = 1 + (share * positions).long().to(codes.device).unsqueeze(1)  # (B, 1), 1 ... N
    order = shuffled(noise, positions)
    known = torch.arange(positions, device=codes.device) >= hidden
    known = torch.zeros_like(known).scatter(1, order, known)
    return model.loss(codes, cond, known, noise).sum(1) / hidden.squeeze(1) * model.parts
