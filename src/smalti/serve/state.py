"""What all routes of a server share: its pipelines, their names, and how it is."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ParamSpec, TypeVar

import torch

from smalti.serve.answers import Store
from smalti.serve.errors import Refused, invalid
from smalti.serve.metrics import Metrics
from smalti.serve.shared import Shared
from smalti.serve.talker import Talker

P = ParamSpec("P")
T = TypeVar("T")
READERS = 2
"""Requests whose pictures are decoded at once."""
STALLED = 30.0
"""Seconds without a step, while there is something to draw, after which a server is not well."""
THEIRS = ("gpt-image", "chatgpt-image", "dall-e")
"""How the names of OpenAI's own models begin, which clients send without being asked."""


@dataclass(frozen=True)
class Options:
    """How a server answers."""

    most: int = 10
    """Pictures of a request at most."""
    pixels: int = 16_000_000
    """Of a picture that is sent, at most."""
    aliases: Mapping[str, str] = field(default_factory=dict)
    """Other names of pipelines."""
    strict: bool = False
    """Whether names of OpenAI's own models are refused; if not, they are the first pipeline."""
    fit: bool = False
    """Whether sizes that a model does not draw are resampled; if not, they are refused."""
    page: bool = True
    """Whether a page to draw with is at `/`."""
    sdapi: bool = False
    """Whether clients of AUTOMATIC1111's web UI are answered too."""


@dataclass
class Server:
    """What the routes share."""

    shared: Sequence[Shared | Talker]
    options: Options = field(default_factory=Options)
    store: Store = field(default_factory=Store)
    draining: bool = False

    def __post_init__(self) -> None:
        self.metrics = Metrics(self.shared)
        self._held, self._holding = Counter[str](), threading.Lock()
        self._reading = asyncio.Semaphore(READERS)

    async def read(self, function: Callable[P, T], *given: P.args, **more: P.kwargs) -> T:
        """Have pictures of a request decoded, in a thread and while few others are."""
        async with self._reading:
            return await asyncio.to_thread(function, *given, **more)

    def find(self, name: Any) -> Shared | Talker:
        """The pipeline of this name. Raises Refused if there is none."""
        names = {one.name: one for one in self.shared}
        if name is None or name == "":
            return self.shared[0]
        name = self.options.aliases.get(str(name), str(name))
        if name in names:
            return names[name]
        if name.startswith(THEIRS) and not self.options.strict:
            return self.shared[0]
        listed = ", ".join(names)
        raise Refused(
            404, "model_not_found", f"there is no model {name[:80]!r}, but {listed}", "model"
        )

    def hold(self, one: Shared | Talker, client: str, count: int, share: int) -> None:
        """So many pictures of a client wait, or are drawn, from now on, until they are let go.
        Raises Refused if they would be more than its share; 0 is any number."""
        told = f"{share} pictures of a client may wait or be drawn at once"
        if 0 < share < count:
            raise invalid(f"{told}, got {count}", "n")
        with self._holding:
            if 0 < share < (before := self._held[client]) + count:
                retry = one.batching.eta()
                raise Refused(429, "rate_limited", f"{told}, {before} of yours do", retry=retry)
            self._held[client] += count

    def let_go(self, client: str, count: int) -> None:
        """So many pictures of a client are done, or given up."""
        with self._holding:
            self._held[client] -= count
            if not self._held[client]:
                del self._held[client]  # clients that came once

    def require_open(self) -> None:
        """Raise Refused if the server is being stopped."""
        if self.draining:
            raise Refused(503, "draining", "the server is being stopped", retry=10)

    @property
    def ready(self) -> bool:
        """Whether a picture that is asked for now would be taken."""
        return not self.draining and all(
            s.batching.room > 0 and not s.batching.broken for s in self.shared
        )

    @property
    def well(self) -> bool:
        """Whether steps are done where there are any to do, by devices that still compute."""
        now = time.monotonic()
        return not self.broken and all(
            not (s.batching.drawing or s.batching.waiting) or now - s.batching.last_turn < STALLED
            for s in self.shared
        )

    @property
    def broken(self) -> bool:
        """Whether a device computes no more: the server must begin anew."""
        return any(s.batching.broken for s in self.shared)

    @property
    def load(self) -> float:
        """Pictures that wait or are drawn, of each slot."""
        busy = sum(s.batching.waiting + s.batching.drawing for s in self.shared)
        return busy / sum(s.batching.slots for s in self.shared)


def compute_alone() -> int:
    """Leave the processor's cores to the thread that draws: this one, and all that begin later,
    compute with one thread. How many threads that is for the one that draws.

    Each thread that computes with several has a team of its own, and GNU's OpenMP lets all teams
    sleep as soon as there are more threads than cores: a picture then takes twice as long. It must
    be called before anything is computed.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    return threads
