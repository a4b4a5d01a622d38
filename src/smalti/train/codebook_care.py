"""What keeps a codebook alive in training: k-means start, restart of dead codes, and a meter.

Collapse is the most reported failure of tokenizer training: few codes win early, the others never
receive a gradient again. Three measures, all outside the quantizer, which stays pure:
- a start from data: for the first `warmup` steps latents pass unquantized and are collected, then
  k-means on them gives the codebook (Lancucki et al. 2020, arXiv:2005.08520);
- restart: a code unused for `patience` steps moves onto a latent of the current batch that is far
  from its code (drawn with probability proportional to squared distance, as in k-means++);
- usage and perplexity of a running window, logged live, and advice when usage falls.
Codes learn by gradients, or are moving averages (`train.code_averages`).

A codebook that serves several levels, which are scales or depths, has all of it for each: k-means
gives every level its share of the centres, of what the coarser levels leave over; dead codes go to
the levels that use the fewest; every level has a meter. Where each level has a table of its own,
each table is cared for by itself.

Letters: K levels, T tables, one or K, V codes of a table, C codebook dimensions, h, w the latents'
grid.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor, nn
from torch import distributed as dist

from smalti.config import check
from smalti.train.code_averages import CodeAverages
from smalti.train.code_meter import InSteps
from smalti.train.kmeans import kmeans


class Quantizer(Protocol):
    """What is known of a quantizer, of one level or of several: scales, coarse to fine, or
    depths."""

    vocab: int
    l2_norm: bool
    tables: int
    """T: one table for all levels, or one for each."""
    parts: int
    """Into how many parts, each as wide as a code, the channels of a latent are cut."""
    embedding: nn.Embedding
    """The tables, one behind the other: (T * V, C)."""

    def compared(self, z: Tensor) -> list[Tensor]:
        """The vectors (B * n_k, C) of latents (B, C, h, w) that each level finds codes for."""
        ...

    def distances(self, rows: Tensor, level: int = 0) -> Tensor:
        """Squared distances of vectors (n, C) to every code of a level, (n, V)."""
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
    """Share of the codes that each of several scales or depths is to use: one that uses fewer takes
    over those that are used least; 0 leaves it. It needs `patience`, and a table for all."""
    decay: float = 0.0
    """Makes codes moving averages of the latents that they stand for, which keep this share from
    step to step: 0.99; 0: codes learn by gradients."""

    def __post_init__(self) -> None:
        check(self, counts=("warmup", "patience"), positive=("samples",), rates=("share", "decay"))

    @property
    def chosen(self) -> bool:
        """Whether it is some care, and not what a recipe has by default; a warm-up, which follows
        the number of steps, does not count."""
        default = CodebookConfig(warmup=self.warmup)
        some = self.kmeans or self.patience > 0 or self.decay > 0
        return some and self != default

    @property
    def idle(self) -> dict[str, str]:
        """The fields that do nothing as the others stand, and the field that each is a part of."""
        start = {} if self.kmeans else {"warmup": "kmeans", "samples": "kmeans"}
        return start if self.patience else start | {"share": "patience"}


class CodebookCare(InSteps):
    """Watches one quantizer, whose scales have the `grids`, and whose positions have `depth` codes,
    or one if that is 0. All state is in buffers, so a resumed run goes on exactly."""

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
        depth: int = 0,
    ) -> None:
        super().__init__()
        self.config, self.seed, self.depth, self.tables = config, seed, depth, quantizer.tables
        rows, dim = quantizer.embedding.weight.shape
        height, width = grids[-1]
        self.sizes = [h * w for h, w in grids]
        names = [f"{h}x{w}" for h, w in grids] if len(grids) > 1 else []
        depths = [f"depth{d}" for d in range(depth)] if depth > 1 else []
        self.names = [f"{n}_{d}" for n in names for d in depths] or names or depths
        """Of the levels, where there are several."""
        levels = len(grids) * max(depth, 1)
        assert self.tables in (1, levels), "one table for all levels, or one for each"
        vocab = rows // self.tables
        self.register_buffer("age", torch.zeros(levels, vocab, dtype=torch.int64))
        self.register_buffer("moved", torch.zeros(rows, dtype=torch.int64))
        self.register_buffer("counts", torch.zeros(levels, vocab))
        kept = math.ceil(config.samples * vocab / (height * width)) if config.kmeans else 0
        self.register_buffer("pool", torch.zeros(kept, dim * quantizer.parts, height, width))
        self.register_buffer("filled", torch.zeros((), dtype=torch.int64))
        self.averages = None
        if config.decay:
            self.averages = CodeAverages(quantizer.embedding.weight, config.decay)

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
        """Set the codebook to centres of what is collected: to each level, coarse to fine, an equal
        share of those of its table, of what is left when those before it are coded."""
        z, weight = self.pool[-int(self.filled) :], quantizer.embedding.weight
        generator = torch.Generator().manual_seed(self.seed + step)
        levels, vocab = len(self.age) // self.tables, self.age.shape[1]
        shares = list(pairwise(vocab * k // levels for k in range(levels + 1)))
        for k, (begin, end) in enumerate(shares * self.tables):
            if begin == end:  # fewer codes than levels
                continue
            rows = quantizer.compared(z)[k]
            centres = kmeans(rows, end - begin, generator, spherical=quantizer.l2_norm)
            # codes of later levels repeat these until their turn, and so are never the first choice
            turn = torch.arange(vocab - begin, device=weight.device) % (end - begin)
            table = weight.view(self.tables, vocab, -1)[k // levels]
            table[begin:] = _from_first(centres)[turn]
        if self.averages is not None:
            self.averages.begin(weight)

    def of_levels(self, codes: Tensor) -> list[Tensor]:
        """The codes of each level, of (B, N) or of one scale in any shape, with an axis for depths
        behind it if there are any."""
        parts = list(codes.split(self.sizes, 1)) if len(self.sizes) > 1 else [codes]
        return [d for part in parts for d in part.unbind(-1)] if self.depth else parts

    @torch.no_grad()
    def observe(self, codes: Tensor) -> None:
        """Count the codes of a batch, as `of_levels` takes them."""
        parts, vocab = self.of_levels(codes), self.counts.shape[1]
        used = torch.stack([torch.bincount(p.flatten(), minlength=vocab) for p in parts]).float()
        if dist.is_initialized():
            dist.all_reduce(used)
        first = self.first.to(used.device)
        self.counts.mul_(torch.where(first, 0.99, 1.0)).add_(used)
        self.age.add_(first.long()).masked_fill_(used > 0, 0)
        self.moved.add_(first.long())

    @torch.no_grad()
    def average(self, quantizer: Quantizer, z: Tensor, codes: Tensor) -> None:
        """Take latents (B, C, h, w) into the averages of their codes, as `of_levels` takes them, if
        codes are such; `settle` then makes these the codebook."""
        if self.averages is None:
            return
        parts, vocab = self.of_levels(codes), self.age.shape[1]
        levels = len(parts) // self.tables
        rows = [part.flatten() + k // levels * vocab for k, part in enumerate(parts)]
        latents = torch.cat(quantizer.compared(z))
        self.averages.update(latents, torch.cat(rows), self.first.to(z.device))

    @torch.no_grad()
    def settle(self, quantizer: Quantizer) -> None:
        """Make the averages of the steps before this one the codebook, if codes are such. No graph
        may hold it at this time."""
        if self.averages is not None:
            self.averages.place(quantizer.embedding.weight, self.first)

    @torch.no_grad()
    def restart(self, quantizer: Quantizer, z: Tensor, step: int) -> None:
        """Every ten steps, move codes onto what latents (B, C, h, w) are compared by, where it is
        far from its code: dead codes and, where a level uses less than its share, the least used
        ones. A level that uses half as many codes of its table gets twice as many of them."""
        if not self.config.patience or step % 10:
            return
        generator = torch.Generator().manual_seed(self.seed + step)
        for table in range(self.tables):
            codes, rows = self._moves(quantizer, z, table, generator)
            if len(codes):
                rows = _from_first(rows.float())
                quantizer.embedding.weight[codes] = rows
                self.moved[codes] = 0
                if self.averages is not None:
                    self.averages.move(codes, rows)

    def _moves(
        self, quantizer: Quantizer, z: Tensor, table: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """The rows of the codebook that are to move, of those of a table, and where to (n, C)."""
        count, vocab = len(self.age) // self.tables, self.age.shape[1]
        levels = range(table * count, (table + 1) * count)
        settled = self.moved.view(-1, vocab)[table] > self.config.patience
        age, used = self.age[levels.start : levels.stop], self._used()[levels.start : levels.stop]
        move = settled & (age.amin(0) > self.config.patience)
        worst = int(used.sum(1).argmin())
        idle = (settled & ~used[worst]).nonzero().flatten()
        short = round(self.config.share * vocab) - (vocab - len(idle))
        if count > 1 and short > 0:
            counts = self.counts[levels.start : levels.stop].sum(0)
            move[idle[counts[idle].argsort()[:short]]] = True
        codes = move.nonzero().flatten()
        if not len(codes):
            return codes, z.new_zeros(0)
        compared, parts, chances = quantizer.compared(z), list[Tensor](), list[Tensor]()
        for k, share in zip(levels, used.float().mean(1), strict=True):
            far = quantizer.distances(compared[k], k).amin(1).clamp(min=1e-8)
            parts.append(compared[k])
            chances.append(far / far.sum() / share.clamp(min=1 / vocab))
        if count > 1 and short > 0:
            parts, chances = [parts[worst]], [chances[worst]]
        rows, codes = torch.cat(parts), codes[: sum(len(p) for p in parts)]
        chosen = torch.multinomial(torch.cat(chances).cpu(), len(codes), generator=generator)
        return codes + table * vocab, rows[chosen.to(rows.device)]

    def _used(self) -> Tensor:
        """Which codes each level used in the last 100 steps, (K, V) bool."""
        return self.age < 100

    def meters(self) -> dict[str, Tensor]:
        """The share of codes used in the last 100 steps, and the perplexity of their counts, of
        several tables the mean: over all levels and, where there are several, at each."""
        seen, shape = self._used().float(), (self.tables, -1, self.age.shape[1])
        used = {"usage": seen.view(shape).amax(1).mean()}
        used |= {f"usage_{name}": row.mean() for name, row in zip(self.names, seen, strict=False)}
        tables = self.counts.view(shape).sum(1)  # (T, V)
        spread = {"perplexity": torch.stack([_perplexity(counts) for counts in tables]).mean()}
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

        None while at least half of the codes are used, and a tenth at each level.
        """
        codes, dim = quantizer.embedding.weight.shape
        shares = {name: logs[f"usage_{name}"] for name in self.names}
        worst = min(shares, key=lambda name: shares[name], default="")
        if logs["usage"] < 0.5:
            share, where = logs["usage"], ""
        elif shares and shares[worst] < 0.1:
            kind = "depth" if self.depth else "scale"
            share, where = shares[worst], f" at {kind} {worst.removeprefix('depth')}"
            codes = quantizer.vocab
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
        if (
            len(shares) > self.tables
        ):  # an entropy loss would drain the coarse scales: docs/decisions/0004
            more = min(0.9, round(self.config.share + 0.2, 2))
            levels = "depths" if self.depth else "scales"
            tips.append(f"give such {levels} idle codes sooner (--objective.codebook.share {more})")
        else:
            tips.append("add an entropy loss (--objective.entropy 0.1)")
        tips += [
            "lower the learning rate (--train.optim.lr)",
            f"or take fewer codes (--model.vocab {max(2, quantizer.vocab // 4)})",
        ]
        used = f"only {round(share * codes)} of {codes} codes are in use{where} ({share:.0%})"
        return f"{used}. Try: " + "; ".join(tips)


def _perplexity(counts: Tensor) -> Tensor:
    return torch.special.entr(counts / counts.sum().clamp(min=1)).sum().exp()


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
