"""Sampling from a diffusion head the slow and obvious way: every product at every step, for every
row of both branches, in the structure of the official code. What `DiffusionHead.sample` must
equal."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.heads.diffusion import DiffusionHead
from smalti.sampling.solvers import spaced


def apply(layer: nn.Module, x: Tensor) -> Tensor:
    assert isinstance(layer, nn.Linear)
    return F.linear(x, layer.weight, layer.bias)


def plain_net(head: DiffusionHead, x: Tensor, t: Tensor, z: Tensor) -> Tensor:
    """x (R, C), t (R,) and z (R, D) to (R, 2 C)."""
    frequencies = torch.exp(-math.log(10000) * torch.arange(128) / 128)
    angles = t[:, None].float() * frequencies
    embedded = torch.cat((angles.cos(), angles.sin()), 1)
    embedded = apply(head.time_embed.w2, F.silu(apply(head.time_embed.w1, embedded)))
    y = F.silu(embedded + apply(head.cond_embed, z))
    x = apply(head.input_proj, x)
    width = (x.shape[-1],)
    for block in head.blocks:
        shift, scale, gate = apply(block.adaln, y).chunk(3, -1)  # type: ignore[arg-type]
        h = F.layer_norm(x, width, block.norm.weight, block.norm.bias, 1e-6)  # type: ignore
        h = apply(block.w1, h * (1 + scale) + shift)  # type: ignore[arg-type]
        x = x + gate * apply(block.w2, F.silu(h))  # type: ignore[arg-type]
    shift, scale = apply(head.adaln, y).chunk(2, -1)
    return apply(head.out, F.layer_norm(x, width, eps=1e-6) * (1 + scale) + shift)


def plain_sample(
    head: DiffusionHead, z: Tensor, scale: float, noise: Tensor, steps: str, temperature: float
) -> Tensor:
    """Ancestral sampling with guidance: z (2 R, D) and noise (steps + 1, R, C) to (R, C)."""
    total = 1000
    level = [math.cos((i / total + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(total + 1)]
    ratio = torch.tensor([max(0.001, level[i + 1] / level[i]) for i in range(total)]).double()
    kept_steps = spaced(total, steps)
    kept = ratio.cumprod(0)[kept_steps]
    before = torch.cat((torch.ones(1), kept[:-1]))
    beta = 1 - kept / before
    variance = beta * (1 - before) / (1 - kept)
    variance[0] = variance[1]
    x = noise[0]
    for draw, k in enumerate(reversed(range(len(kept_steps)))):
        t = torch.full((len(z),), kept_steps[k])
        eps, share = plain_net(head, torch.cat((x, x)), t, z).chunk(2, 1)
        cond, uncond = eps.chunk(2)
        eps = uncond + scale * (cond - uncond)
        clean = kept[k].rsqrt().float() * x - (1 / kept[k] - 1).sqrt().float() * eps
        mean_clean = (beta[k] * before[k].sqrt() / (1 - kept[k])).float()
        mean_x = ((1 - before[k]) * (1 - beta[k]).sqrt() / (1 - kept[k])).float()
        share = (share[: len(x)] + 1) / 2
        log_variance = share * beta[k].log().float() + (1 - share) * variance[k].log().float()
        x = mean_clean * clean + mean_x * x
        if k > 0:
            x = x + (0.5 * log_variance).exp() * noise[1 + draw] * temperature
    return x
