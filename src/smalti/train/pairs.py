"""What towers of pictures and texts minimise, and language models that are to tell captions apart:
how well pairs that belong together are told from all others of a batch.

Softmax: CLIP (Radford et al. 2021, arXiv:2103.00020). Sigmoid: SigLIP (Zhai et al. 2023,
arXiv:2303.15343).

Unusual: a batch of captioned pictures may have a text twice. Whoever is asked which of two equal
texts belongs to a picture can only guess, so a pair of a picture with another's text that is the
same as its own counts neither way. Where all texts of a batch differ, the losses are the published
ones. Features are gathered over all processes, of which each computes the loss of all pairs.

B pictures and texts of all processes, b of one, E features, L ids.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn import functional as F

from smalti.config import check
from smalti.data.transforms import to_float
from smalti.nn.cosines import cosines
from smalti.train.base import Batch, Losses, Objective

LARGEST = math.log(100)
"""Of the logarithm of the inverse temperature, with a softmax."""


@dataclass(frozen=True)
class PairsConfig:
    loss: Literal["softmax", "sigmoid"] = "sigmoid"
    """CLIP's, in which all texts compete for a picture and all pictures for a text, or SigLIP's, in
    which each pair is judged alone."""

    def __post_init__(self) -> None:
        check(self)

    def check_bias(self, biased: bool) -> None:
        """Raise ValueError if the loss needs a bias and towers have none."""
        if self.loss == "sigmoid" and not biased:
            raise ValueError(
                "objective.loss sigmoid needs towers with a bias, those of model.kind siglip: take "
                "softmax"
            )

    def objective(self, model: Any) -> Pairs:
        """What towers minimise. Raises ValueError as `check_bias` does."""
        self.check_bias(model.bias is not None)
        return Pairs(model, self)


class Pairs(Objective):
    """The loss of pictures and the ids of their texts."""

    compares = True
    model: Any

    def __init__(self, model: nn.Module, config: PairsConfig) -> None:
        super().__init__()
        self.model, self.config = model, config

    def forward(self, batch: Batch, step: int) -> Losses:
        model, ids = self.model, batch["text_tokens"]
        softmax = self.config.loss == "softmax"
        if softmax:
            with torch.no_grad():
                model.scale.clamp_(max=LARGEST)
        pictures = gathered(model.see(to_float(batch["images"])))  # (B, E)
        texts, same = gathered(model.read(ids)), equal(together(ids))  # (B, E), (B, B)
        logits = model.logits(pictures, texts)
        loss = (softmax_loss if softmax else sigmoid_loss)(logits, same)
        logs = {"loss": loss, "retrieval": nearest(logits, same), "scale": model.scale.exp()}
        return Losses({"model": loss}, {k: v.detach() for k, v in logs.items()})


@dataclass(frozen=True)
class CaptionsConfig:
    scale: float = 50.0
    """Cosines of two texts are multiplied by it."""

    def __post_init__(self) -> None:
        check(self, "objective.", above_zero=("scale",))

    def objective(self, model: Any) -> Captions:
        """What a language model of sentences minimises."""
        return Captions(model, self)


class Captions(Objective):
    """The loss of ids of texts and of others that say the same: all others of a batch compete for a
    text (LLM2Vec, BehnamGhader et al. 2024, arXiv:2404.05961)."""

    compares = True
    model: Any

    def __init__(self, model: nn.Module, config: CaptionsConfig) -> None:
        super().__init__()
        self.model, self.config = model, config

    def forward(self, batch: Batch, step: int) -> Losses:
        ids, others = batch["text_tokens"], batch["other_tokens"]
        texts, same = gathered(self.model.read(ids)), equal(together(ids))  # (B, C), (B, B)
        logits = self.config.scale * cosines(texts, gathered(self.model.read(others)))
        loss, right = one_way_loss(logits, same), nearest(logits, same)
        logs = {"loss": loss.detach(), "retrieval": right}
        return Losses({"model": loss}, logs)


def equal(ids: Tensor) -> Tensor:
    """Which of texts (B, L) are the same, (B, B) bool."""
    number = torch.unique(ids, dim=0, return_inverse=True)[1]
    return number == number[:, None]


def others(logits: Tensor, same: Tensor | None) -> Tensor:
    """Which pairs (B, B) of logits count neither way, bool: those of another's equal text."""
    own = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    return torch.zeros_like(own) if same is None else same & ~own


def softmax_loss(logits: Tensor, same: Tensor | None = None) -> Tensor:
    """The mean of both cross-entropies, in nats, of logits (B, B) whose diagonal belongs together;
    `same`, (B, B) bool, says which texts are equal, None: none."""
    return (one_way_loss(logits, same) + one_way_loss(logits.T, same)) / 2


def one_way_loss(logits: Tensor, same: Tensor | None = None) -> Tensor:
    """The cross-entropy of the rows alone, as `softmax_loss` else."""
    logits = logits.masked_fill(others(logits, same), -torch.inf)
    return F.cross_entropy(logits, torch.arange(len(logits), device=logits.device))


def sigmoid_loss(logits: Tensor, same: Tensor | None = None) -> Tensor:
    """What each pair loses in nats, summed over the texts and averaged over the pictures, of logits
    (B, B) whose diagonal belongs together; `same` as in `softmax_loss`."""
    signs = 2 * torch.eye(len(logits), device=logits.device) - 1
    terms = F.logsigmoid(logits * signs).masked_fill(others(logits, same), 0.0)
    return -terms.sum() / len(logits)


def nearest(logits: Tensor, same: Tensor | None = None) -> Tensor:
    """The share of pictures whose own text, or one equal to it, is the nearest."""
    logits = logits.masked_fill(others(logits, same), -torch.inf)
    own = torch.arange(len(logits), device=logits.device)
    return (logits.argmax(1) == own).float().mean()


# -- over processes


class Gather(torch.autograd.Function):
    """Rows of all processes, one after another. Gradients are summed over the processes, of which
    each computes the loss of all rows: their mean over processes is then that of one process."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.count = len(rows)
        return together(rows)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        total = grads[0].contiguous()
        dist.all_reduce(total)
        begin = dist.get_rank() * ctx.count
        return total[begin : begin + ctx.count]


def gathered(rows: Tensor) -> Tensor:
    """Rows (b, E) of all processes, through which gradients pass: (B, E)."""
    if not dist.is_initialized():
        return rows
    out: Any = Gather.apply(rows)
    return out


def together(rows: Tensor) -> Tensor:
    """Rows of all processes, one after another, as numbers."""
    if not dist.is_initialized():
        return rows
    parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, rows.contiguous())
    return torch.cat(parts)
