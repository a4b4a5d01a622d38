"""Running a server until it is told to stop: sockets, signals, and connections that do nothing."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from smalti.text.prompts import Cut

LOG = logging.getLogger("smalti.serve")
HEAD = 5.0
"""Seconds in which the head of a request must have come."""
BROKEN = 70
"""Exit code of a server that can draw no more: EX_SOFTWARE of sysexits.h."""
QUIET = 5
"""Seconds that a connection stays open between requests."""


UNREAD = 60.0
"""Seconds in which a client that lets its answer wait must take some of it."""
TAKEN = 64 << 10
"""How many bytes that is."""


class Timed(H11Protocol):
    """Closes a connection on which no whole head of a request came in time, or whose answer is not
    read: uvicorn waits for both for ever."""

    _timer: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._timer = self.loop.call_later(HEAD, self._close)

    def data_received(self, data: bytes) -> None:
        if self._timer is None and self._between:
            self._timer = self.loop.call_later(HEAD, self._close)
        super().data_received(data)

    @property
    def _between(self) -> bool:
        """Whether no request is being read or answered."""
        return self.cycle is None or self.cycle.response_complete

    def _close(self) -> None:
        if self._between and not self.transport.is_closing():
            self.transport.close()

    def handle_events(self) -> None:
        before = self.cycle
        super().handle_events()
        if self.cycle is not before and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch(self.transport.get_write_buffer_size())

    def _watch(self, left: int) -> None:
        """Look later whether the client has taken some of the bytes that are left."""
        self._unread = self.loop.call_later(UNREAD, self._look, left)

    def _look(self, before: int) -> None:
        left = self.transport.get_write_buffer_size()
        if before - left < TAKEN:
            self.transport.abort()  # not closed, which waits until all is read
        else:
            self._watch(left)

    def resume_writing(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._timer, self._unread):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)


class Lines(logging.Formatter):
    """Log lines as JSON, which hold no prompt and no picture."""

    FIELDS = ("request", "client", "method", "path", "status", "seconds")

    def format(self, record: logging.LogRecord) -> str:
        about = {"time": self.formatTime(record), "level": record.levelname.lower()}
        told = {name: vars(record)[name] for name in self.FIELDS if name in vars(record)}
        line = about | (told or {"message": record.getMessage()})
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line)


def set_log(form: str) -> None:
    """Write what happens to standard error, as `text` or as `json`, without any prompt."""
    warnings.simplefilter("ignore", Cut)  # which quotes one; answers say what was read
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        Lines() if form == "json" else logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S")
    )
    LOG.handlers, LOG.propagate = [handler], False
    LOG.setLevel(logging.INFO)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises ValueError if something else does already, or for what is no
    port."""
    if not 0 <= port < 1 << 16:
        raise ValueError(f"port must be in [0, 65535], got {port}")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # told that it is TCP: else answers wait 40 ms, as asyncio leaves Nagle's algorithm on
    found = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((host, port))
    except OSError as error:
        found.close()
        raise ValueError(f"cannot listen on {host} port {port}: {error.strerror}") from None
    found.listen(128)
    return found


def notify(state: str) -> None:
    """Tell systemd how the server is, if that started it and wants to know (`Type=notify`)."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one:
        one.sendto(state.encode(), address.replace("@", "\0", 1) if address[0] == "@" else address)


class Draining(uvicorn.Server):
    """A server that at SIGTERM or SIGINT takes no new work and lets what is running finish; a
    second signal ends it at once. Ended so it exits with 0, where uvicorn would raise the signal
    again.

    Its manager is told when it is ready and when it stops, and, as long as it is `well`, at each
    third of the time after which a watchdog would end it. One that is `broken` stops by itself.
    At SIGHUP it calls `renew`, if that is given.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        drain: Callable[[], None],
        well: Callable[[], bool],
        broken: Callable[[], bool] = lambda: False,
        renew: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(config)
        self._drain, self._well, self._broken, self._renew = drain, well, broken, renew
        self._every, self._told = int(os.environ.get("WATCHDOG_USEC") or 0) / 3e6, 0.0
        self._hung_up = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if not self.should_exit:
            notify("READY=1")

    async def on_tick(self, counter: int) -> bool:
        now = time.monotonic()
        if self._every and now - self._told >= self._every and self._well():
            notify("WATCHDOG=1")
            self._told = now
        if self._hung_up:
            self._hung_up = False
            self._read_again()
        if self._broken():
            self._drain()
            self.should_exit = True
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        notify("STOPPING=1")
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: Any) -> None:
        self._drain()
        self.force_exit = self.should_exit  # which uvicorn does for SIGINT alone
        super().handle_exit(sig, frame)

    def handle_hangup(self, sig: int, frame: Any) -> None:
        self._hung_up = True  # files are not read, and nothing is said, within a signal

    def _read_again(self) -> None:
        """What may have changed; what cannot be read stays as it was."""
        assert self._renew is not None
        try:
            self._renew()
        except (OSError, ValueError) as error:
            LOG.warning("nothing changes: %s", error)
        else:
            LOG.info("the keys were read again")

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        handlers: dict[int, Any] = dict.fromkeys((signal.SIGTERM, signal.SIGINT), self.handle_exit)
        if self._renew is not None and hasattr(signal, "SIGHUP"):  # which Windows has not
            handlers[signal.SIGHUP] = self.handle_hangup
        before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def run(
    app: Any,
    place: socket.socket,
    drain: Callable[[], None],
    seconds: float,
    well: Callable[[], bool] = lambda: True,
    broken: Callable[[], bool] = lambda: False,
    renew: Callable[[], None] | None = None,
) -> None:
    """Answer until a signal comes, and then for some seconds at most, in which `drain` has said
    that nothing new is taken. A server that is no longer `well` is ended by the watchdog of
    systemd, where there is one; one that is `broken` ends with SystemExit(70), so that whatever
    began it begins it anew. SIGHUP calls `renew`, if that is given: what OSError or ValueError
    that raises is told, and nothing else happens."""
    config = uvicorn.Config(
        app,
        http=Timed,
        log_level="error",
        timeout_keep_alive=QUIET,
        timeout_graceful_shutdown=max(1, round(seconds)),
        h11_max_incomplete_event_size=64 << 10,
        server_header=False,
        lifespan="on",
    )
    asyncio.run(Draining(config, drain, well, broken, renew).serve([place]))
    if broken():
        raise SystemExit(BROKEN)
