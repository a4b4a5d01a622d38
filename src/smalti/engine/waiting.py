"""Who waits for a picture: in turn, not too many, and not for too long."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, NamedTuple

from smalti.codes import TokenSpec
from smalti.engine.step import Request, Step


class Full(Exception):
    """The queue is full."""

    def __init__(self, waiting: int, seconds: float) -> None:
        super().__init__(f"{waiting} pictures wait already")
        self.seconds = seconds
        """In how many there is a place, as it looks now."""


class Late(Exception):
    """A picture waited for longer than its deadline."""


class Shown(NamedTuple):
    """A picture on the way."""

    picture: Any
    done: int
    """Steps."""
    total: int


class Drawn(NamedTuple):
    """A picture that is done."""

    result: Any
    """What `Decoder.whole` made of its codes; or, of a job that wants them, the codes (N, ...)."""
    waited: float
    """Seconds until its first step."""
    drawing: float
    decoding: float


class Failed(NamedTuple):
    """A picture that is not drawn, and why."""

    error: Exception


Event = Shown | Drawn | Failed


MOST = 16
"""Pictures on the way to one, if they are asked for by steps: each is decoded as a picture is."""


@dataclass(frozen=True)
class Previews:
    """How many pictures on the way are wanted, at equal parts of the steps; there may be fewer."""

    count: int = 0
    every: int = 0
    """One in about so many steps, in place of a number."""

    def of(self, steps: int) -> int:
        """Pictures on the way to a picture of so many steps."""
        return min(max(steps - 1, 0) // self.every, MOST) if self.every else self.count


NO_PREVIEWS = Previews()


@dataclass(eq=False)
class Job:
    """A picture that is asked for."""

    request: Callable[[], Request]
    """Makes its request, when its turn has come: what reads a text is called then."""
    tell: Callable[[Event], None]
    """Called with each event, the last of which is `Drawn` or `Failed`, in the thread that draws;
    nothing is told of a job that was cancelled."""
    client: str = ""
    """Whose it is; clients take turns."""
    previews: Previews = NO_PREVIEWS
    codes: bool = False
    """Whether codes are wanted, not a picture."""
    cancelled: bool = False
    spec: TokenSpec | None = None
    times: list[float] = field(default_factory=list[float])
    """When it came, began, and was drawn."""
    done: int = 0
    total: int = 0
    """Steps; until the first, as many as it takes that knows no codes; 0 where nobody said."""
    pending: Step | None = None
    """What of it is to be shown, or the last step of a finished one."""


class Waiting:
    """Jobs that wait. Those of one client are taken in the order in which they came, and clients in
    turn. Not for several threads at once."""

    def __init__(self) -> None:
        self._jobs = dict[str, deque[Job]]()
        """Of each client, whose turn is next first."""

    def __len__(self) -> int:
        return sum(len(jobs) for jobs in self._jobs.values())

    def __iter__(self) -> Iterator[Job]:
        """All that wait, each client's in their order."""
        return chain.from_iterable(self._jobs.values())

    def put(self, jobs: Iterable[Job]) -> None:
        """Let jobs wait, behind those of their client that do."""
        for job in jobs:
            self._jobs.setdefault(job.client, deque()).append(job)

    def take(self, count: int) -> list[Job]:
        """So many jobs that wait no longer, or all that there are."""
        taken = list[Job]()
        while self._jobs and len(taken) < count:
            client = next(iter(self._jobs))
            jobs = self._jobs.pop(client)
            taken.append(jobs.popleft())
            if jobs:
                self._jobs[client] = jobs  # behind the others
        return taken

    def first(self) -> float:
        """When the one came that waits longest; there must be one."""
        return min(jobs[0].times[0] for jobs in self._jobs.values())

    def sweep(self, before: float) -> tuple[int, list[Job]]:
        """Let go of jobs that were cancelled, and of those that came before some time: how many
        were cancelled, and the late ones."""
        cancelled, late = 0, list[Job]()
        for client, jobs in list(self._jobs.items()):
            kept = deque[Job]()
            for job in jobs:
                if job.cancelled:
                    cancelled += 1
                elif job.times[0] < before:
                    late.append(job)
                else:
                    kept.append(job)
            if kept:
                self._jobs[client] = kept
            else:
                del self._jobs[client]
        return cancelled, late
