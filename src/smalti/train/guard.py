"""Notices steps whose loss is no number or leaps, without making the device wait.

The verdict on a step is a tensor. It tells the fused optimizer not to step (the means by which
mixed-precision training skips overflows), so bad gradients never reach the weights; the host reads
the verdicts later, when it logs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from smalti.config import check

FINE, NOT_A_NUMBER, SPIKE = 0, 1, 2
SETTLING = 100
"""Steps before a leap is looked for."""
MEMORY = 0.01
"""Weight of a new loss in the running mean and variance."""
PATIENCE = 50
"""Skipped steps in a row after which a run stops all the same."""


@dataclass(frozen=True)
class GuardConfig:
    on_nan: Literal["stop", "skip"] = "stop"
    """At a loss or gradient that is no number: stop the run, or leave the step out."""
    spike: float = 10.0
    """A loss so many standard deviations above its running mean is a spike; 0 looks for none."""
    on_spike: Literal["report", "skip", "stop"] = "report"
    """At a spike: report it, leave the step out, or stop the run."""

    def __post_init__(self) -> None:
        check(self, "train.guard.", amounts=("spike",))


class Event(NamedTuple):
    """A step that went wrong."""

    step: int
    """Counted from 0, as batches are."""
    kind: Literal["nan", "spike"]
    loss: float
    mean: float
    """The running mean before it."""
    action: Literal["report", "skip", "stop"]


class Guard(nn.Module):
    """Judges each step. Its state is in buffers, so a resumed run judges alike."""

    stats: Tensor

    def __init__(self, config: GuardConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("stats", torch.zeros(3))  # mean, variance, count
        self._unread: list[Tensor] = []
        self._row = 0

    @torch.no_grad()
    def judge(self, loss: Tensor, norms: list[Tensor]) -> Tensor:
        """1 where the optimizers must not step, else 0; loss and gradient norms are scalars."""
        loss = loss.detach().float()
        mean, variance, count = self.stats.unbind()
        finite = torch.stack([loss, *(n.detach().float() for n in norms)]).isfinite().all()
        leap = loss > mean + self.config.spike * variance.sqrt()
        spike = finite & leap & (count >= SETTLING) & (self.config.spike > 0)
        verdict = torch.where(finite, spike * SPIKE, NOT_A_NUMBER)
        self._unread.append(torch.stack([verdict.float(), loss, mean]))
        rate = (1 / (count + 1)).clamp(min=MEMORY)
        delta = loss - mean
        new = (mean + rate * delta, (1 - rate) * (variance + rate * delta.square()), count + 1)
        self.stats = torch.where(finite, torch.stack(new), self.stats)
        kept_out = verdict > 0 if self.config.on_spike != "report" else verdict == NOT_A_NUMBER
        return kept_out.float()

    def read(self, step: int) -> list[Event]:
        """What happened since the last call, in the steps before `step`; waits for the device."""
        rows = torch.stack(self._unread).tolist() if self._unread else []
        self._unread = []
        events: list[Event] = []
        for i, (verdict, loss, mean) in enumerate(rows, step - len(rows)):
            if verdict == FINE:
                self._row = 0
                continue
            nan = verdict == NOT_A_NUMBER
            action = self.config.on_nan if nan else self.config.on_spike
            self._row = self._row + 1 if action == "skip" else 0
            if self._row > PATIENCE:
                action = "stop"
            events.append(Event(i, "nan" if nan else "spike", loss, mean, action))
        return events
