"""Diffusion head: a small network that draws a continuous code for each position.

Li et al. 2024, "Autoregressive Image Generation without Vector Quantization" (arXiv:2406.11838).
It learns the noise in a code and a variance (improved DDPM) or, as a flow, the velocity.

Unusual: what modulates its layers depends on the time and the hidden state alone, not on the code
that is being drawn. That is two thirds of the products, so `sample` computes it for many steps at
once and reads those weights once instead of once per step.

Letters: B images, n positions, D width of the hidden states, C channels of a code, W width,
R rows (positions of all images), E evaluations of a solver.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.codes import Draw, Guide, Past
from smalti.config import check
from smalti.devices.float64 import wide
from smalti.nn.adaln import LN_EPS, modulate, normed
from smalti.nn.linear import Linear
from smalti.nn.times import TimeEmbedding
from smalti.sampling.chance import Chance
from smalti.sampling.noise import SlotNoise
from smalti.sampling.solvers import TIMES, Path, Solver, Temperature, cosine, path

MODULATED = 256
"""Rows of modulation, over steps and positions, that are computed at once while drawing."""
TRAINING = 0xFFFFFFFE
"""A step of the noise that no drawing reaches: training's times and noise."""


@dataclass(frozen=True)
class DiffusionConfig:
    kind: Literal["diffusion", "flow"] = "diffusion"
    """Learn noise and variance along the cosine schedule, or the velocity of a flow."""
    depth: int = 6
    """Residual blocks."""
    width: int = 1024
    """Width of the network."""
    repeat: int = 4
    """Times and noises that a code is learned at in one training step."""
    timesteps: int = 1000
    """Of the diffusion."""
    clip: float = 0.0
    """While drawing, predicted codes are kept in [-clip, clip]; 0 is off. HART: 1."""

    def __post_init__(self) -> None:
        check(self, positive=("depth", "width", "repeat", "timesteps"))
        if not (math.isfinite(self.clip) and self.clip >= 0):
            raise ValueError(f"clip must be 0 (off) or more, got {self.clip}")


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, LN_EPS)
        self.w1 = Linear(width, width)
        self.w2 = Linear(width, width)
        self.adaln = Linear(width, 3 * width)

    def forward(self, x: Tensor, modulation: Tensor) -> Tensor:
        """x (..., W) and the output of `adaln`, (..., 3 W), to (..., W)."""
        shift, scale, gate = modulation.chunk(3, -1)
        h = self.w2(F.silu(self.w1(modulate(self.norm(x), shift, scale))))
        return torch.addcmul(x, gate, h)


class DiffusionHead(nn.Module):
    """Hidden states (B, n, D) to codes (B, n, C), float32."""

    def __init__(self, dim: int, channels: int, config: DiffusionConfig) -> None:
        super().__init__()
        self.config, self.channels = config, channels
        width, self.kind = config.width, config.kind
        self.time_embed = TimeEmbedding(width)
        self.cond_embed = Linear(dim, width)
        self.input_proj = Linear(channels, width)
        self.blocks = nn.ModuleList([Block(width) for _ in range(config.depth)])
        self.adaln = Linear(width, 2 * width)
        self.out = Linear(width, channels * (2 if self.kind == "diffusion" else 1))
        self.init_weights()

    def init_weights(self) -> None:
        """Xavier; times Normal(0, 0.02); zero biases, adaLN and output: a new head predicts 0."""
        for module in self.modules():
            if isinstance(module, Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for layer in (self.time_embed.w1, self.time_embed.w2):
            nn.init.normal_(layer.weight, std=0.02)
        for layer in (*self.adalns, self.out):
            nn.init.zeros_(layer.weight)

    @property
    def adalns(self) -> list[Linear]:
        """All layers that modulate, the last one behind the blocks."""
        return [*(block.adaln for block in self.blocks), self.adaln]  # type: ignore[misc]

    def modulations(self, times: Tensor, conds: Tensor) -> list[Tensor]:
        """Embedded times and hidden states, broadcast to (..., W), to what each layer needs."""
        y = F.silu(times + conds)
        return [adaln(y) for adaln in self.adalns]

    def modulated(self, x: Tensor, modulations: Sequence[Tensor]) -> Tensor:
        """What `project` made of noisy codes, (..., W), to (..., 2 C) or (..., C), float32."""
        for block, modulation in zip(self.blocks, modulations[:-1], strict=True):
            x = block(x, modulation)
        shift, scale = modulations[-1].chunk(2, -1)
        return self.out(modulate(normed(x), shift, scale)).float()

    def project(self, x: Tensor) -> Tensor:
        return self.input_proj(x.to(self.input_proj.weight.dtype))

    def predict(self, x: Tensor, t: Tensor, z: Tensor) -> Tensor:
        """Noisy codes x (..., C), times t (...) counted to 1000 and hidden states z (..., D) to the
        noise and the variance, (..., 2 C), or the velocity, (..., C). Leading axes broadcast."""
        modulations = self.modulations(self.time_embed(t), self.cond_embed(z))
        return self.modulated(self.project(x), modulations)

    def errors(self, h: Tensor, codes: Tensor, t: Tensor, eps: Tensor) -> dict[str, Tensor]:
        """The parts of the loss of each row (...), means over channels.

        Args: hidden states (..., D) and codes (..., C), noised by eps (..., C) to the timestep t
        (...), int64, of a diffusion, or to t in [0, 1] of a flow. Leading axes broadcast.
        Returns `mse`, of the noise or the velocity, and for a diffusion `vb`, the variational bound
        of the variance alone, in bits per channel.
        """
        if self.kind == "flow":
            t = t.unsqueeze(-1)
            x = torch.lerp(eps, codes, t)
            velocity = self.predict(x, TIMES * t.squeeze(-1), h)
            return {"mse": (velocity - (codes - eps)).square().mean(-1)}
        coefficients = _table(self.config.timesteps).to(t.device)[t]  # (..., 6)
        a, b, mean_clean, mean_x, least, most = coefficients.unsqueeze(-2).unbind(-1)
        x = a * codes + b * eps
        predicted, range_ = self.predict(x, t, h).chunk(2, -1)
        clean = (x - b * predicted.detach()) / a
        log_variance = least + (most - least) * (range_ + 1) / 2
        mean = mean_clean * clean + mean_x * x
        nats = torch.where(
            t.unsqueeze(-1) == 0,
            _level_nll(codes, mean, log_variance),
            _gaussian_kl(mean_clean * (codes - clean), least, log_variance),
        )
        mse = (predicted - eps).square().mean(-1)
        return {"mse": mse, "vb": nats.mean(-1) / math.log(2)}

    def loss(self, h: Tensor, codes: Tensor, noise: SlotNoise | None = None) -> Tensor:
        """The training loss of each position, (B, n): the mean over `repeat` times and noises.

        Args: h (B, n, D); codes (B, n, C); the noise of the positions, where a code's times and
        noises are; None is always the same.
        """
        if noise is None:
            noise = SlotNoise.of(None, codes, torch.arange(codes.shape[1]))
        repeat, numbers, slots = self.config.repeat, noise.source, noise.slots
        t = numbers.uniform(slots, repeat, TRAINING)  # (B, n, repeat)
        if self.kind == "diffusion":
            t = (wide(t) * self.config.timesteps).long().to(t.device)
        eps = numbers.normal(slots, repeat * self.channels, TRAINING)
        eps = eps.view(*eps.shape[:-1], repeat, self.channels)  # (B, n, repeat, C)
        parts = self.errors(h.unsqueeze(2), codes.unsqueeze(2), t, eps)  # each (B, n, repeat)
        return torch.stack(list(parts.values())).sum(0).mean(-1)

    def way(self, solver: Solver) -> Path:
        """How a solver gets from noise to codes. Raises ValueError if it does not fit the head."""
        return path(solver, self.kind, self.config.timesteps)

    def sample(self, h: Tensor, chance: Chance) -> Draw:
        """Draw codes (B, n, C) from hidden states of all branches, (branches * B, n, D).

        Of the filters a head reads the temperature. Raises ValueError for a solver that does not
        fit the head.
        """
        way = self.way(chance.solver)
        temperature = chance.filters.warmth
        numbers = chance.noise.normal(way.draws * self.channels)  # (B, n, draws * C)
        rows = numbers.view(-1, way.draws, self.channels).transpose(0, 1)  # (draws, R, C)
        branches = len(h) // len(numbers)
        z = h.reshape(branches, rows.shape[1], h.shape[-1])  # (branches, R, D)
        if isinstance(temperature, Tensor):  # of each row
            temperature = temperature.repeat_interleave(numbers.shape[1]).unsqueeze(-1)  # (R, 1)
        codes = self.solve(z, chance.guide, rows.contiguous(), way, temperature, len(numbers))
        codes = codes.view(*numbers.shape[:2], self.channels)  # (B, n, C)
        return Draw(codes, torch.full_like(codes[..., 0], math.nan), h)

    def solve(
        self,
        z: Tensor,
        guide: Guide,
        noise: Tensor,
        way: Path,
        temperature: Temperature = 1.0,
        images: int | None = None,
    ) -> Tensor:
        """Codes (R, C) from hidden states (branches, R, D) and noise (draws, R, C). The rows are
        those of so many `images`, by default one of each."""
        images = z.shape[1] if images is None else images
        shape = (len(z) * images, z.shape[1] // max(images, 1), self.channels)
        conds = self.cond_embed(z)  # (branches, R, W)
        times = self.time_embed(_times(way.times, z.device))  # (E, W)
        steps = max(1, MODULATED // max(1, conds[..., 0].numel()))
        tables, past = list[Tensor](), Past()

        def denoise(x: Tensor, i: int) -> tuple[Tensor, Tensor]:
            if i % steps == 0:
                tables.clear()
                tables.extend(self.modulations(times[i : i + steps, None, None], conds))
            # the branches part at the first modulation: until there they are one
            found = self.modulated(self.project(x), [table[i % steps] for table in tables])
            clean, share = self._clean(x, found, *way.points[i])  # (branches, R, C)
            clean = guide.merge(clean.reshape(shape), past).flatten(0, 1)
            clip = self.config.clip or math.inf
            return clean.clamp(-clip, clip), share[0]

        return way.solve(denoise, noise, temperature)

    def _clean(self, x: Tensor, found: Tensor, a: float, b: float) -> tuple[Tensor, Tensor]:
        """The clean codes and the share of the largest variance that a prediction means."""
        if self.kind == "flow":
            return x + b * found, found
        predicted, range_ = found.chunk(2, -1)
        return (x - b * predicted) / a, (range_ + 1) / 2


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def _times(times: tuple[float, ...], device: torch.device) -> Tensor:
    """The times of a way, (E,). Kept: to bring them to a device, it is waited for."""
    return torch.tensor(times, device=device)


@lru_cache(maxsize=8)
def _table(timesteps: int) -> Tensor:
    """Coefficients (T, 6) of each step, float32: a, b, what the clean latent and x add to the mean
    of a step back, and its least and greatest log-variance."""
    return torch.tensor(cosine(timesteps).table, dtype=torch.float32)


def _gaussian_kl(apart: Tensor, log_variance: Tensor, learned: Tensor) -> Tensor:
    """KL divergence in nats of two Gaussians whose means are `apart`."""
    ratio = log_variance - learned
    return 0.5 * (ratio.exp() - 1 - ratio + apart.square() * (-learned).exp())


def _level_nll(codes: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """Nats of codes as levels of 8 bits in [-1, 1] under a Gaussian, with tails at both ends."""
    above, below = ((codes - mean + d) * (-0.5 * log_variance).exp() for d in (1 / 255, -1 / 255))
    upper, lower = _normal_cdf(above), _normal_cdf(below)
    mass = torch.where(codes > 0.999, 1 - lower, upper - lower)
    return -torch.where(codes < -0.999, upper, mass).clamp(min=1e-12).log()


def _normal_cdf(x: Tensor) -> Tensor:
    """The approximation by tanh that released models were trained with."""
    return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
