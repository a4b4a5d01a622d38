"""What keeps a codebook alive in training: k-means start, restart of dead codes, and a meter.

Collapse is the most reported failure of tokenizer training: few codes win early, the others never
receive a gradient again. Three measures, all outside the quantizer, which stays pure:
- a start from data: for the first `warmup` steps latents pass unquantized and are collected, then
  k-means on them gives the codebook (Lancucki et al. 2020, arXiv:2005.08520);
- restart: a code unused for `patience` steps moves onto a latent of the current batch that is far
  from its code (drawn with probability proportional to squared distance, as in k-means++);
- usage and perplexity of a running window, logged live, and advice when usage falls.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn import functional as F

from smalti.tokenizers.quantize.vq import VectorQuantizer


@dataclass(frozen=True)
class CodebookConfig:
    kmeans: bool = True
    """Start the codebook from k-means on the first latents."""
    warmup: int = 20
    """Steps of plain autoencoding before k-means; 0 takes the first batch."""
    patience: int = 100
    """Steps after which an unused code is restarted; 0 never restarts."""
    samples: int = 16
    """Latents kept for k-means, per code."""

    def __post_init__(self) -> None:
        for name, least in (("warmup", 0), ("patience", 0), ("samples", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be {least} or more, got {getattr(self, name)}")


class CodebookCare(nn.Module):
    """Watches one `VectorQuantizer`. All state is in buffers, so a resumed run goes on exactly."""

    age: Tensor
    counts: Tensor
    pool: Tensor
    filled: Tensor

    def __init__(self, quantizer: VectorQuantizer, config: CodebookConfig, seed: int = 0) -> None:
        super().__init__()
        self.config, self.seed = config, seed
        vocab, dim = quantizer.embedding.weight.shape
        self.register_buffer("age", torch.zeros(vocab, dtype=torch.int64))
        self.register_buffer("counts", torch.zeros(vocab))
        rows = config.samples * vocab if config.kmeans else 0
        self.register_buffer("pool", torch.zeros(rows, dim))
        self.register_buffer("filled", torch.zeros((), dtype=torch.int64))

    def warming_up(self, step: int) -> bool:
        """True while latents pass unquantized."""
        return self.config.kmeans and step < self.config.warmup

    @torch.no_grad()
    def collect(self, rows: Tensor) -> None:
        """Keep latents (n, C) for k-means; the newest replace the oldest."""
        rows = _gather(rows.float())[-len(self.pool) :]
        self.pool.copy_(torch.cat((self.pool, rows))[-len(self.pool) :])
        self.filled.add_(len(rows)).clamp_(max=len(self.pool))

    @torch.no_grad()
    def start(self, quantizer: VectorQuantizer, step: int) -> None:
        """Set the codebook to the centres of the collected latents."""
        rows = self.pool[-int(self.filled) :]
        generator = torch.Generator().manual_seed(self.seed + step)
        centres = kmeans(rows, quantizer.vocab, generator, spherical=quantizer.l2_norm)
        quantizer.embedding.weight.copy_(_from_first(centres))

    @torch.no_grad()
    def observe(self, codes: Tensor) -> None:
        """Count the codes of a batch."""
        used = torch.bincount(codes.flatten(), minlength=len(self.counts)).float()
        if dist.is_initialized():
            dist.all_reduce(used)
        self.counts.mul_(0.99).add_(used)
        self.age.add_(1).masked_fill_(used > 0, 0)

    @torch.no_grad()
    def restart(self, quantizer: VectorQuantizer, rows: Tensor, step: int) -> None:
        """Every ten steps, move dead codes onto latents (n, C) that are far from their codes."""
        if not self.config.patience or step % 10:
            return
        dead = (self.age > self.config.patience).nonzero().flatten()[: len(rows)]
        if not len(dead):
            return
        distance = quantizer.distances(rows.float()).amin(1).clamp(min=1e-8).cpu()
        generator = torch.Generator().manual_seed(self.seed + step)
        chosen = torch.multinomial(distance, len(dead), generator=generator)
        quantizer.embedding.weight[dead] = _from_first(rows[chosen.to(rows.device)].float())
        self.age[dead] = 0

    def meters(self) -> dict[str, Tensor]:
        """The share of codes used in the last 100 steps, and the perplexity of their counts."""
        probs = self.counts / self.counts.sum().clamp(min=1)
        return {
            "usage": (self.age < 100).float().mean(),
            "perplexity": torch.special.entr(probs).sum().exp(),
        }

    def advice(self, usage: float, quantizer: VectorQuantizer) -> str | None:
        """What to do when few codes are used; None while at least half of them are."""
        if usage >= 0.5:
            return None
        used, vocab = round(usage * quantizer.vocab), quantizer.vocab
        tips: list[str] = []
        if not self.config.kmeans:
            tips.append("start from k-means (--objective.codebook.kmeans)")
        if not self.config.patience:
            tips.append("restart dead codes (--objective.codebook.patience 100)")
        elif self.config.patience > 100:
            tips.append("restart sooner (--objective.codebook.patience 50)")
        if not quantizer.l2_norm:
            tips.append("normalise the codebook (--model.l2-norm)")
        if quantizer.embedding.embedding_dim > 16:
            tips.append("use 8 or 16 codebook dimensions (--model.dim 8)")
        tips += [
            "add an entropy loss (--objective.entropy 0.1)",
            "lower the learning rate (--train.optim.lr)",
            f"or take fewer codes (--model.vocab {max(2, vocab // 4)})",
        ]
        return f"only {used} of {vocab} codes are in use ({usage:.0%}). Try: " + "; ".join(tips)


def kmeans(
    rows: Tensor, clusters: int, generator: torch.Generator, spherical: bool, rounds: int = 10
) -> Tensor:
    """Lloyd's algorithm: centres (clusters, C) of rows (n, C); empty clusters take random rows.

    With `spherical` the centres are normalised after each round.
    """
    if not len(rows):
        raise ValueError("k-means needs at least one row")
    pick = torch.randperm(len(rows), generator=generator)
    if len(rows) < clusters:  # repeat rows, a little apart
        pick = torch.randint(len(rows), (clusters,), generator=generator)
    centres = rows[pick[:clusters].to(rows.device)].clone()
    if len(rows) < clusters:
        centres += 0.01 * torch.randn(centres.shape, generator=generator).to(rows.device)
    for _ in range(rounds):
        nearest = torch.cat([torch.cdist(part, centres).argmin(1) for part in rows.split(16384)])
        sums = torch.zeros_like(centres).index_add_(0, nearest, rows)
        sizes = torch.bincount(nearest, minlength=clusters)
        spare = torch.randint(len(rows), (clusters,), generator=generator).to(rows.device)
        centres = torch.where(sizes[:, None] > 0, sums / sizes[:, None].clamp(min=1), rows[spare])
        if spherical:
            centres = F.normalize(centres, dim=-1)
    return centres


def _gather(rows: Tensor) -> Tensor:
    """Rows of all processes, one after another."""
    if not dist.is_initialized():
        return rows
    parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, rows.contiguous())
    return torch.cat(parts)


def _from_first(values: Tensor) -> Tensor:
    """The values of process 0, on every process."""
    if dist.is_initialized():
        values = values.contiguous()
        dist.broadcast(values, 0)
    return values
