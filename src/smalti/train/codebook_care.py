"""What keeps a codebook alive in training: k-means start, restart of dead codes, and a meter.

Collapse is the most reported failure of tokenizer training: few codes win early, the others never
receive a gradient again. Three measures, all outside the quantizer, which stays pure:
- a start from data: for the first `warmup` steps latents pass unquantized and are collected, then
  k-means on them gives the codebook (Lancucki et al. 2020, arXiv:2005.08520);
- restart: a code unused for `patience` steps moves onto a latent of the current batch that is far
  from its code (drawn with probability proportional to squared distance, as in k-means++);
- usage and perplexity of a running window, logged live, and advice when usage falls.

A codebook that serves several scales has all of it for each: k-means gives every scale its share of
the centres, of what the coarser scales leave over; dead codes go to the scales that use the fewest;
every scale has a meter.

Letters: K scales, V codebook entries, C codebook dimensions, h, w the latents' grid.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn import functional as F

from smalti.config import check


class Quantizer(Protocol):
    """What is known of a quantizer, of one scale or of several."""

    vocab: int
    l2_norm: bool
    embedding: nn.Embedding

    def compared(self, z: Tensor) -> list[Tensor]:
        """The vectors (B * n_k, C) of latents (B, C, h, w) that each scale finds codes for."""
        ...

    def distances(self, rows: Tensor) -> Tensor:
        """Squared distances of vectors (n, C) to every code, (n, V)."""
        ...


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
    share: float = 0.3
    """Share of the codes that each of several scales is to use: one that uses fewer takes over
    those that are used least; 0 leaves it. It needs `patience`."""

    def __post_init__(self) -> None:
        check(self, counts=("warmup", "patience"), positive=("samples",), rates=("share",))

    @property
    def chosen(self) -> bool:
        """Whether it is some care, and not what a recipe has by default; a warm-up, which follows
        the number of steps, does not count."""
        default = CodebookConfig(warmup=self.warmup)
        return (self.kmeans or self.patience > 0) and self != default

    @property
    def idle(self) -> dict[str, str]:
        """The fields that do nothing as the others stand, and the field that each is a part of."""
        start = {} if self.kmeans else {"warmup": "kmeans", "samples": "kmeans"}
        return start if self.patience else start | {"share": "patience"}


class CodebookCare(nn.Module):
    """Watches one quantizer, whose scales have the `grids`. All state is in buffers, so a resumed
    run goes on exactly."""

    age: Tensor
    moved: Tensor
    counts: Tensor
    pool: Tensor
    filled: Tensor

    def __init__(
        self,
        quantizer: Quantizer,
        config: CodebookConfig,
        seed: int = 0,
        grids: tuple[tuple[int, int], ...] = ((1, 1),),
    ) -> None:
        super().__init__()
        self.config, self.seed = config, seed
        vocab, dim = quantizer.embedding.weight.shape
        height, width = grids[-1]
        self.sizes = [h * w for h, w in grids]
        self.names = [f"{h}x{w}" for h, w in grids] if len(grids) > 1 else []
        """Of the scales, where there are several."""
        self.register_buffer("age", torch.zeros(len(grids), vocab, dtype=torch.int64))
        self.register_buffer("moved", torch.zeros(vocab, dtype=torch.int64))
        self.register_buffer("counts", torch.zeros(len(grids), vocab))
        kept = math.ceil(config.samples * vocab / (height * width)) if config.kmeans else 0
        self.register_buffer("pool", torch.zeros(kept, dim, height, width))
        self.register_buffer("filled", torch.zeros((), dtype=torch.int64))

    def warming_up(self, step: int) -> bool:
        """True while latents pass unquantized."""
        return self.config.kmeans and step < self.config.warmup

    @torch.no_grad()
    def collect(self, z: Tensor) -> None:
        """Keep latents (B, C, h, w) for k-means; the newest replace the oldest."""
        z = _gather(z.float())[-len(self.pool) :]
        self.pool.copy_(torch.cat((self.pool, z))[-len(self.pool) :])
        self.filled.add_(len(z)).clamp_(max=len(self.pool))

    @torch.no_grad()
    def start(self, quantizer: Quantizer, step: int) -> None:
        """Set the codebook to centres of what is collected: to each scale, coarse to fine, an equal
        share of them, of what is left when those before it are coded."""
        z, weight = self.pool[-int(self.filled) :], quantizer.embedding.weight
        generator = torch.Generator().manual_seed(self.seed + step)
        scales, vocab = len(self.sizes), len(weight)
        shares = pairwise(vocab * k // scales for k in range(scales + 1))
        for k, (begin, end) in enumerate(shares):
            if begin == end:  # fewer codes than scales
                continue
            rows = quantizer.compared(z)[k]
            centres = kmeans(rows, end - begin, generator, spherical=quantizer.l2_norm)
            # codes of later scales repeat these until their turn, and so are never the first choice
            turn = torch.arange(vocab - begin, device=weight.device) % (end - begin)
            weight[begin:] = _from_first(centres)[turn]

    @torch.no_grad()
    def observe(self, codes: Tensor) -> None:
        """Count the codes of a batch, (B, N) or of one scale in any shape."""
        parts = codes.split(self.sizes, 1) if self.names else [codes]
        vocab = self.counts.shape[1]
        used = torch.stack([torch.bincount(p.flatten(), minlength=vocab) for p in parts]).float()
        if dist.is_initialized():
            dist.all_reduce(used)
        self.counts.mul_(0.99).add_(used)
        self.age.add_(1).masked_fill_(used > 0, 0)
        self.moved.add_(1)

    @torch.no_grad()
    def restart(self, quantizer: Quantizer, z: Tensor, step: int) -> None:
        """Every ten steps, move codes onto what latents (B, C, h, w) are compared by, where it is
        far from its code: dead codes and, where a scale uses less than its share, the least used
        ones. A scale that uses half as many codes gets twice as many of them."""
        if not self.config.patience or step % 10:
            return
        settled, used = self.moved > self.config.patience, self._used()
        move = settled & (self.age.amin(0) > self.config.patience)
        worst = used.sum(1).argmin()
        idle = (settled & ~used[worst]).nonzero().flatten()
        short = round(self.config.share * len(settled)) - (len(settled) - len(idle))
        if self.names and short > 0:
            move[idle[self.counts.sum(0)[idle].argsort()[:short]]] = True
        codes = move.nonzero().flatten()
        if not len(codes):
            return
        parts, chances = quantizer.compared(z), list[Tensor]()
        for rows, share in zip(parts, used.float().mean(1), strict=True):
            far = quantizer.distances(rows).amin(1).clamp(min=1e-8)
            chances.append(far / far.sum() / share.clamp(min=1 / len(settled)))
        if self.names and short > 0:
            parts, chances = [parts[worst]], [chances[worst]]
        rows, codes = torch.cat(parts), codes[: sum(len(p) for p in parts)]
        generator = torch.Generator().manual_seed(self.seed + step)
        chosen = torch.multinomial(torch.cat(chances).cpu(), len(codes), generator=generator)
        quantizer.embedding.weight[codes] = _from_first(rows[chosen.to(rows.device)].float())
        self.moved[codes] = 0

    def _used(self) -> Tensor:
        """Which codes each scale used in the last 100 steps, (K, V) bool."""
        return self.age < 100

    def meters(self) -> dict[str, Tensor]:
        """The share of codes used in the last 100 steps, and the perplexity of their counts: over
        all scales and, where there are several, at each."""
        seen = self._used().float()
        used = {"usage": seen.amax(0).mean()}
        used |= {f"usage_{name}": row.mean() for name, row in zip(self.names, seen, strict=False)}
        spread = {"perplexity": _perplexity(self.counts.sum(0))}
        spread |= {
            f"perplexity_{name}": _perplexity(counts)
            for name, counts in zip(self.names, self.counts, strict=False)
        }
        return used | spread

    def advice(
        self, logs: dict[str, float], quantizer: Quantizer, directions: bool = True
    ) -> str | None:
        """What to do when few codes are used, by `meters` of which `logs` has the values;
        `directions` if the tokenizer can compare by them (`l2_norm`).

        None while at least half of the codes are used, and a tenth at each scale.
        """
        vocab, dim = quantizer.embedding.weight.shape
        shares = {name: logs[f"usage_{name}"] for name in self.names}
        worst = min(shares, key=lambda name: shares[name], default="")
        if logs["usage"] < 0.5:
            share, where = logs["usage"], ""
        elif shares and shares[worst] < 0.1:
            share, where = shares[worst], f" at scale {worst}"
        else:
            return None
        tips: list[str] = []
        if not self.config.kmeans:
            tips.append("start from k-means (--objective.codebook.kmeans)")
        if not self.config.patience:
            tips.append("restart dead codes (--objective.codebook.patience 100)")
        elif self.config.patience > 100:
            tips.append("restart sooner (--objective.codebook.patience 50)")
        if directions and not quantizer.l2_norm and not shares:
            tips.append("normalise the codebook (--model.l2-norm)")
        if dim > 16:
            tips.append("use 8 or 16 codebook dimensions (--model.dim 8)")
        if shares:  # an entropy loss would drain the coarse scales: docs/decisions/0004
            more = min(0.9, round(self.config.share + 0.2, 2))
            tips.append(f"give such scales idle codes sooner (--objective.codebook.share {more})")
        else:
            tips.append("add an entropy loss (--objective.entropy 0.1)")
        tips += [
            "lower the learning rate (--train.optim.lr)",
            f"or take fewer codes (--model.vocab {max(2, vocab // 4)})",
        ]
        used = f"only {round(share * vocab)} of {vocab} codes are in use{where} ({share:.0%})"
        return f"{used}. Try: " + "; ".join(tips)


def _perplexity(counts: Tensor) -> Tensor:
    return torch.special.entr(counts / counts.sum().clamp(min=1)).sum().exp()


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
