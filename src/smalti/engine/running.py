"""Pictures of one model that are drawn together, each by its own request: they join and leave while
others are being drawn.

Pictures that can share the passes of a model stand in one lane, whatever their class or text, seed,
guidance, filters, order and known codes are, and however far each is; those of scales share passes
if they begin together. What is drawn is what `engine.stream` draws of the request alone, but for
rounding: numbers that are computed in batches of other sizes differ in their last digit, so once in
many pictures another code wins. Pictures that are drawn `alone`, by passes of their own, are equal
to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import ExitStack
from itertools import count
from typing import Any

import torch
from torch import nn

from smalti.codes import TokenSpec
from smalti.engine import LOOPS
from smalti.engine.causal_lane import CausalLane
from smalti.engine.lanes import Lane, Moved, alike, one_row
from smalti.engine.masked_lane import MaskedLane
from smalti.engine.step import Loop, Model, Request, Step, check_request
from smalti.nn.linear import packed
from smalti.sampling.reveal import Reveal

LANES: dict[Loop, Callable[[Any, TokenSpec, torch.device], Lane]] = {
    "causal": CausalLane,
    "masked": MaskedLane,
}
"""What draws several requests of models of a loop together; those of other loops are drawn one by
one."""


class Alone:
    """A `Lane` of one picture, drawn as `engine.stream` does."""

    open = False

    def __init__(self, model: Model, request: Request) -> None:
        self.steps: Iterator[Step] | None = LOOPS[model.loop](model, request)

    def __len__(self) -> int:
        return int(self.steps is not None)

    def join(self, requests: Sequence[Request]) -> None:
        raise ValueError("this picture is drawn alone")

    def leave(self, rows: Sequence[int]) -> None:
        if rows:
            self.steps = None

    def step(self) -> list[Moved]:
        assert self.steps is not None
        try:
            return [next(self.steps)]
        except ValueError as error:
            return [error]


class Running:
    """The pictures that are being drawn, and their numbers. Not for several threads at once."""

    def __init__(self, model: Model, alone: bool = False) -> None:
        assert isinstance(model, nn.Module)
        self.model, self.alone = model, alone
        self._lanes: list[tuple[Hashable, Lane, list[int]]] = []
        """What the requests of each have in common, and the numbers of its rows."""
        self._numbers, self._packed = count(), ExitStack()
        self._packed.enter_context(packed(model))

    def __len__(self) -> int:
        """How many pictures are being drawn."""
        return sum(len(numbers) for _, _, numbers in self._lanes)

    @property
    def cohorts(self) -> bool:
        """Whether pictures share passes only if they begin together."""
        model: Any = self.model
        return model.loop == "causal" and len(model.blocks()) != model.spec.positions

    @property
    def steps(self) -> int:
        """How many a picture takes that asks for none of its own; 1 where nobody knows."""
        model: Any = self.model
        if model.loop == "masked":
            return Reveal().count(model.spec.positions * model.parts)
        return len(model.blocks()) if model.loop == "causal" else 1

    def clear(self) -> None:
        """Let all pictures go."""
        self._lanes.clear()

    def close(self) -> None:
        """Let all pictures go, and the packed weights."""
        self.clear()
        self._packed.close()

    @torch.inference_mode()
    def join(self, requests: Sequence[Request]) -> list[int]:
        """Begin to draw pictures, a request for each; their numbers.

        Raises ValueError, and begins none, if one is of several pictures, or if the model cannot
        serve it.
        """
        requests = [one_row(request) for request in requests]
        specs = [check_request(self.model, request) for request in requests]
        keys = [self._key(r, spec) for r, spec in zip(requests, specs, strict=True)]
        numbers = [next(self._numbers) for _ in requests]
        try:
            for key in dict.fromkeys(keys):
                which = [i for i, k in enumerate(keys) if k == key]
                self._enter(key, specs[which[0]], [(numbers[i], requests[i]) for i in which])
        except Exception:
            for number in numbers:
                self.leave(number)
            raise
        return numbers

    def _enter(
        self, key: Hashable | None, spec: TokenSpec, given: Sequence[tuple[int, Request]]
    ) -> None:
        """Begin pictures whose requests have this in common."""
        if key is None:
            for number, request in given:
                self._lanes.append((None, Alone(self.model, request), [number]))
            return
        lane, there = self._lane(key, spec, given[0][1].cond.device)
        lane.join([request for _, request in given])
        there += [number for number, _ in given]

    def _key(self, request: Request, spec: TokenSpec) -> Hashable | None:
        """What the requests of its lane have in common; None: it is drawn alone."""
        other = request.parallel.mode in ("speculative", "zipar")  # exact draws the same pictures
        other = other or bool(request.pruning.prune)  # rows of one scale, with outputs of it
        own = other or request.refresh > 1 or request.guidance.pictures is not None
        known = request.known is not None and bool(request.known.mask.all())
        if self.alone or own or known or self.model.loop not in LANES:
            return None
        return alike(request, spec)

    def _lane(self, key: Hashable, spec: TokenSpec, device: torch.device) -> tuple[Lane, list[int]]:
        """A lane that requests may join, and the numbers of its rows."""
        for mine, lane, numbers in self._lanes:
            if mine == key and lane.open:
                return lane, numbers
        lane, numbers = LANES[self.model.loop](self.model, spec, device), list[int]()
        self._lanes.append((key, lane, numbers))
        return lane, numbers

    @torch.inference_mode()
    def leave(self, number: int) -> None:
        """Let a picture go, if it is still being drawn."""
        for _, lane, numbers in self._lanes:
            if number in numbers:
                self._take(lane, numbers, [numbers.index(number)])

    def _take(self, lane: Lane, numbers: list[int], rows: list[int]) -> None:
        if rows:
            lane.leave(rows)
            numbers[:] = [n for row, n in enumerate(numbers) if row not in rows]
            self._lanes = [kept for kept in self._lanes if kept[2]]

    @torch.inference_mode()
    def step(self) -> list[tuple[int, Moved]]:
        """Go on by one step in every picture: by number its step, or why it is not drawn. A picture
        that failed or is done leaves. What fails in a pass fails the pictures of that pass."""
        found = list[tuple[int, Moved]]()
        for _, lane, numbers in list(self._lanes):
            try:
                moved = lane.step()
            except Exception as error:  # whatever it is, others go on
                moved = [error] * len(numbers)
            found += zip(list(numbers), moved, strict=True)
            over = [row for row, m in enumerate(moved) if _over(m)]
            self._take(lane, numbers, over)
        return found


def computes(device: torch.device, error: BaseException) -> bool:
    """Whether a device still computes after an error: after some of a GPU's nothing does, until the
    process begins anew."""
    if not isinstance(error, RuntimeError) or isinstance(error, torch.OutOfMemoryError):
        return True
    try:
        torch.ones(1, device=device).item()
    except RuntimeError:
        return False
    return True


def _over(moved: Moved) -> bool:
    return not isinstance(moved, Step) or moved.done == moved.total
