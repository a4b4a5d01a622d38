"""No second branch where guidance is 1: there the conditional prediction is all that counts.

Of a model that keeps nothing from step to step, rows of other branches are left out at any step
(`Fresh`). A causal one drops them behind the last guided step (`alone_from`): before one, they must
have read all codes, and to read them late in one pass costs what it costs in turn.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from smalti.codes import Cond, Guide
from smalti.engine.step import Request
from smalti.sampling.guidance import Guidance, Unguided

P = TypeVar("P")
"""What a model prepares, once per image."""


def alone_from(guidance: Guidance, steps: int) -> int:
    """The step from which on the conditional prediction alone counts; `steps` where there are no
    other branches."""
    first = steps
    while first and not guidance.off and guidance.alone(first - 1, steps):
        first -= 1
    return first


class Fresh(Generic[P]):
    """What a model that keeps nothing from step to step prepares: of all branches, and of the
    condition alone once a step needs no more."""

    def __init__(self, prepare: Callable[[Cond], P], request: Request) -> None:
        self.guidance, self.prepare, self.cond = request.guidance, prepare, request.cond
        branches = self.guidance.branches(request.cond, request.negative, request.pictures)
        self.batch, self.all = branches.batch, prepare(branches)
        self.first = self.all if self.guidance.off else None

    def at(self, step: int, steps: int, share: float | None = None) -> tuple[Guide, P]:
        """The guide of a step, as `Guidance.at`, and what is prepared of the rows that it needs."""
        if not self.guidance.alone(step, steps, share):
            return self.guidance.at(step, steps, share), self.all
        if self.first is None:
            self.first = self.prepare(self.cond)
        return Unguided(), self.first
