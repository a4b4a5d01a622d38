"""How codes are used while a tokenizer learns that has no table to care for."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch import distributed as dist

from smalti.codes import TokenSpec
from smalti.nn.groups import numbered, values

WINDOW = 100
"""Steps after which a code that did not occur is unused."""


class InSteps(nn.Module):
    """What counts by steps, each of which may come in parts whose gradients add up."""

    latest: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("latest", torch.tensor(-1), persistent=False)
        self.first = torch.tensor(True)
        """Whether what comes is of another step than what came before."""

    @torch.no_grad()
    def begin(self, step: int) -> None:
        """Say of which step comes what comes."""
        self.first = self.latest != step
        self.latest.fill_(step)


class CodeMeter(InSteps):
    """Counts codes of `spec`: numbers, or groups of bits. All state is in buffers, so a resumed run
    goes on exactly."""

    age: Tensor
    counts: Tensor

    def __init__(self, spec: TokenSpec) -> None:
        super().__init__()
        self.spec, sizes = spec, values(spec)
        self.vocab = sum(sizes)
        self.register_buffer("age", torch.full((len(sizes), max(sizes)), WINDOW))
        self.register_buffer("counts", torch.zeros(len(sizes), max(sizes)))

    @torch.no_grad()
    def observe(self, codes: Tensor) -> None:
        """Count the codes of a batch, (B, N, *trailing) or (B, h, w, *trailing)."""
        codes = codes.reshape(len(codes), -1, *self.spec.trailing)
        vocab = self.counts.shape[1]
        groups = numbered(codes, self.spec).unbind(2)
        used = torch.stack([torch.bincount(g.flatten(), minlength=vocab) for g in groups]).float()
        if dist.is_initialized():
            dist.all_reduce(used)
        first = self.first.to(used.device)
        self.counts.mul_(torch.where(first, 0.99, 1.0)).add_(used)
        self.age.add_(first.long()).masked_fill_(used > 0, 0)

    def meters(self) -> dict[str, Tensor]:
        """The share of codes that occurred in the last steps, of those of all groups, and the
        perplexity of their counts, the mean over groups."""
        shares = self.counts / self.counts.sum(1, keepdim=True).clamp(min=1)
        perplexity = torch.special.entr(shares).sum(1).exp()
        return {"usage": (self.age < WINDOW).sum() / self.vocab, "perplexity": perplexity.mean()}
