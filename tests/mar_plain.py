"""MAR drawn the plain way, as published: everything is computed anew at every step.

Both branches of guidance go whole through encoder and decoder, z is that of all positions, and each
diffusion step runs the head on both branches' rows from their embedding on. The slow and obvious
reference of `MAR.draw`, for tests and benchmarks/mar.py. Unbatched masks: each row knows as many
positions.

B images (2B rows with guidance), N positions, m positions to draw, C channels, T diffusion steps.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.models.mar import MAR
from smalti.sampling.solvers import Schedule


def linear(layer: Any, x: Tensor) -> Tensor:
    return F.linear(x, layer.weight, layer.bias)


def norm(layer: nn.LayerNorm, x: Tensor) -> Tensor:
    return F.layer_norm(x, layer.normalized_shape, layer.weight, layer.bias, layer.eps)


def stack(stack: Any, x: Tensor) -> Tensor:
    """All blocks over all rows of (B, n, D), and the last norm."""
    for block in stack.layers:
        heads = block.attention.heads
        qkv = linear(block.attention.wqkv, norm(block.norm1, x)).unflatten(-1, (3, heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + linear(block.attention.wo, y)
        h = F.gelu(linear(block.feed_forward.w1, norm(block.norm2, x)))
        x = x + linear(block.feed_forward.w2, h)
    return norm(stack.norm, x)


def trunk(model: MAR, codes: Tensor, ids: Tensor, known: Tensor) -> Tensor:
    """z of all positions, (B, N, E), from codes (B, N, C), rows of the table of classes (B,) and
    what is known, (B, N) bool."""
    batch, p = len(codes), model.config.buffer
    label = model.cls_embedding.weight[ids][:, None].expand(-1, p, -1)
    x = torch.cat((label, linear(model.z_proj, codes)), 1) + model.encoder_pos
    x = norm(model.z_norm, x)  # (B, P + N, D)
    kept = torch.cat((known.new_ones(batch, p), known), 1)
    x = stack(model.encoder, x[kept].view(batch, -1, x.shape[-1]))
    x = linear(model.decoder_embed, x)
    canvas = model.mask_token.expand(batch, kept.shape[1], -1).clone()
    canvas[kept] = x.flatten(0, 1)
    x = stack(model.decoder, canvas + model.decoder_pos)
    return x[:, p:] + model.head_pos


def network(model: MAR, x: Tensor, t: Tensor, z: Tensor) -> Tensor:
    """The head's network, from noisy codes (R, C), times (R,) and z (R, E) to (R, 2 C)."""
    head = model.head
    half = 128
    angles = t[:, None].float() * torch.exp(-math.log(10000) * torch.arange(half) / half)
    waves = torch.cat((angles.cos(), angles.sin()), -1)
    y = linear(head.time_embed.w2, F.silu(linear(head.time_embed.w1, waves)))
    y = F.silu(y + linear(head.cond_embed, z))
    x = linear(head.input_proj, x)
    for block in head.blocks:
        shift, scale, gate = linear(block.adaln, y).chunk(3, -1)  # type: ignore[arg-type]
        h = norm(block.norm, x) * (1 + scale) + shift  # type: ignore[arg-type]
        x = x + gate * linear(block.w2, F.silu(linear(block.w1, h)))
    shift, scale = linear(head.adaln, y).chunk(2, -1)
    x = F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift
    return linear(head.out, x)


def diffuse(
    model: MAR, z: Tensor, noise: Tensor, schedule: Schedule, scale: float, temperature: float
) -> Tensor:
    """Codes (R, C) by ancestral sampling from z (R, E), or (2R, E) with guidance, and noise
    (T + 1, R, C), the initial one first."""
    x, branches = noise[0], len(z) // noise.shape[1]
    means, spread = (schedule.mean_clean, schedule.mean_x), (schedule.log_variance, schedule.betas)
    table = list(zip(*means, *spread, strict=True))
    for i, draw in zip(reversed(range(len(schedule.kept))), noise[1:], strict=True):
        t = torch.tensor(schedule.timesteps[i]).expand(len(z))
        eps, share = network(model, x.repeat(branches, 1), t, z).chunk(2, -1)
        if branches == 2:
            cond, uncond = eps.chunk(2)
            eps, share = uncond + scale * (cond - uncond), share.chunk(2)[0]
        kept, share = schedule.kept[i], (share + 1) / 2
        mean_clean, mean_x, least, beta = table[i]
        clean = (x - math.sqrt(1 - kept) * eps) / math.sqrt(kept)
        mean = mean_clean * clean + mean_x * x
        deviation = (0.5 * (share * math.log(beta) + (1 - share) * least)).exp()
        x = mean + (i > 0) * deviation * draw * temperature
    return x


class PlainStep(NamedTuple):
    z: Tensor
    """(branches * B, m, E)."""
    codes: Tensor
    """(B, m, C)."""


def step(
    model: MAR,
    codes: Tensor,
    ids: Tensor,
    known: Tensor,
    wanted: Tensor,
    noise: Tensor,
    schedule: Schedule,
    scale: float,
    temperature: float = 1.0,
) -> PlainStep:
    """Draw the wanted positions (B, m) of codes (B, N, C).

    Args: ids (B,), or (2B,) with guidance; noise (B, m, T + 1, C).
    """
    branches = len(ids) // len(codes)
    z = trunk(model, codes.repeat(branches, 1, 1), ids, known.repeat(branches, 1))
    index = wanted.repeat(branches, 1)[..., None].expand(-1, -1, z.shape[-1])
    z = z.gather(1, index)  # (branches * B, m, E)
    numbers = noise.flatten(0, 1).transpose(0, 1)  # (T + 1, R, C)
    drawn = diffuse(model, z.flatten(0, 1), numbers, schedule, scale, temperature)
    return PlainStep(z, drawn.view(*wanted.shape, -1))
