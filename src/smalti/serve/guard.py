"""What every request passes before it is read: whose it is, where it comes from, and how much it
may bring."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import ipaddress
import secrets
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from starlette.responses import JSONResponse, Response

from smalti.serve.errors import Refused, refusal

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
    "cross-origin-resource-policy": "same-origin",
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
}
PROBES = ("/health", "/ready")
"""What managers and proxies ask, by whatever name they have for the server."""
OPEN = (*PROBES, "/metrics", "/version", "/")
"""What is answered without a key; and the files of the page, which say nothing of anybody."""
IMAGES = "/v1/images/"
"""Behind it stand the names of pictures that have an address."""


MAY = {
    "access-control-allow-methods": "GET, POST",
    "access-control-max-age": "600",
}
"""What pages of other servers may send, if they may call this one: with any header."""


AMOUNTS = ("rate", "share")
"""What a client may have of its own, as in `Rules`."""


@dataclass
class Keys:
    """Who may ask: names by the SHA-256 of their keys. Without any, everybody may."""

    names: dict[str, str] = field(default_factory=dict)
    amounts: dict[str, dict[str, int]] = field(default_factory=dict)
    """By name, those of `AMOUNTS` that are not what all others have."""
    path: Path | None = None
    """The file that they were read from."""

    @staticmethod
    def read(path: Path) -> Keys:
        """A file of lines `name:sha256`, behind which `rate=N` and `share=N` may stand. Raises
        ValueError naming a line that is none, or a file that is no text."""
        names, amounts = dict[str, str](), dict[str, dict[str, int]]()
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            raise ValueError(f"{path} is not text: a line of keys is like NAME:SHA256") from None
        for number, line in enumerate(lines, 1):
            if not (line := line.strip()) or line.startswith("#"):
                continue
            name, colon, rest = line.partition(":")
            digest, *more = rest.split() or [""]
            if not colon or len(digest) != 64 or not set(digest.lower()) <= set("0123456789abcdef"):
                raise ValueError(f"{path}, line {number}: a key is like NAME:SHA256 of the key")
            names[digest.lower()] = name
            for word in more:
                kind, _, count = word.partition("=")
                if kind not in AMOUNTS or not (count.isascii() and count.isdecimal()):
                    raise ValueError(
                        f"{path}, line {number}: behind a key may stand "
                        f"{' and '.join(f'{kind}=N' for kind in AMOUNTS)}, got {word!r}"
                    )
                amounts.setdefault(name, {})[kind] = int(count)
        if not names:
            raise ValueError(f"{path} holds no key")
        return Keys(names, amounts, path)

    def renew(self) -> None:
        """Read the file again. Raises what `read` does, and OSError; they then stay as they are."""
        assert self.path is not None, "these keys were read from no file"
        new = Keys.read(self.path)
        self.names, self.amounts = new.names, new.amounts

    def name(self, key: str) -> str | None:
        """Whose key this is. All are compared, whichever it is."""
        digest, found = hashlib.sha256(key.encode()).hexdigest(), None
        for known, name in self.names.items():
            if hmac.compare_digest(known, digest):
                found = name
        return found


@dataclass
class Rules:
    """What is let in."""

    keys: Keys = field(default_factory=Keys)
    hosts: tuple[str, ...] = ()
    """Names under which the server is called; () of any name."""
    origins: tuple[str, ...] = ()
    """Pages of other servers that may call this one."""
    body: int = 64 << 20
    """Bytes of a request at most."""
    idle: float = 10.0
    """Seconds without a byte of a body after which its request is refused."""
    whole: float = 60.0
    """Seconds in which a body must have come."""
    rate: int = 0
    """Requests of a client in a minute at most; 0: any number."""
    share: int = 0
    """Pictures of a client that may wait or be drawn at once; 0: any number."""
    requests: int = 512
    """That are answered at once."""

    def amount(self, kind: str, client: str) -> int:
        """One of `AMOUNTS`, of this client."""
        own = self.keys.amounts.get(client, {})
        return own[kind] if kind in own else getattr(self, kind)


class Guard:
    """An ASGI application around another. Each request has a number and a client; refusals are
    answered in the shape of OpenAI's errors."""

    def __init__(self, app: App, rules: Rules, log: Callable[[dict[str, Any]], None]) -> None:
        self.app, self.rules, self.log = app, rules, log
        self._recent = dict[str, deque[float]]()
        self._open = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {k.decode("latin-1"): v.decode("latin-1") for k, v in scope["headers"]}
        identity = _identity(headers)
        began, status, begun = time.monotonic(), [500], list[bool]()
        state = scope.setdefault("state", {})
        state["identity"] = identity

        async def answered(message: Message) -> None:
            if message["type"] == "http.response.start":
                status[0] = message["status"]
                begun.append(True)
                own = {k.encode(): v.encode() for k, v in self._headers(headers, identity).items()}
                given = {k.lower(): v for k, v in message.get("headers", [])}
                message["headers"] = [*(own | given).items()]
            await send(message)

        self._open += 1
        try:
            if self._asks_whether(scope, headers):
                asked = headers.get("access-control-request-headers", "")
                may = MAY | {"access-control-allow-headers": asked}
                await Response(status_code=204, headers=may)(scope, receive, answered)
                return
            state["client"] = self._admit(scope, headers)
            state["share"] = self.rules.amount("share", state["client"])
            await self.app(scope, self._bounded(receive, headers), answered)
        except Exception as error:
            refused = refusal(error, identity)
            if not begun:
                answer = JSONResponse(refused.body, refused.status, headers=refused.headers)
                await answer(scope, receive, answered)
        finally:
            self._open -= 1
            self.log(
                {
                    "request": identity,
                    "client": state.get("client", ""),
                    "method": scope["method"],
                    "path": quote(scope["path"]),  # a line of the log is one line
                    "status": status[0],
                    "seconds": round(time.monotonic() - began, 4),
                }
            )

    def _headers(self, asked: Mapping[str, str], identity: str) -> dict[str, str]:
        origin = asked.get("origin", "")
        allowed = {"access-control-allow-origin": origin, "vary": "origin"}
        return (
            HEADERS | {"x-request-id": identity} | (allowed if origin in self.rules.origins else {})
        )

    def _asks_whether(self, scope: Scope, headers: Mapping[str, str]) -> bool:
        """Whether a browser asks, before it sends a request of a page that may call this server and
        without its key, what that request may have."""
        asks = scope["method"] == "OPTIONS" and "access-control-request-method" in headers
        return asks and headers.get("origin") in self.rules.origins

    def _admit(self, scope: Scope, headers: Mapping[str, str]) -> str:
        """The client of a request. Raises Refused if it is not let in."""
        rules, path = self.rules, scope["path"]
        if self._open > rules.requests and path not in PROBES:
            raise Refused(429, "rate_limited", "too many requests are open", retry=1)
        host = _host(headers.get("host", ""))
        if rules.hosts and host not in rules.hosts and path not in PROBES:
            raise Refused(403, "origin_not_allowed", f"this server is not called {host[:80]!r}")
        origin = headers.get("origin")
        known = origin is None or origin in rules.origins
        own = origin is not None and _host(origin.partition("://")[2]) == host
        if scope["method"] not in ("GET", "HEAD") and not known and not own:
            raise Refused(
                403, "origin_not_allowed", f"pages of {str(origin)[:80]!r} may not call it"
            )
        if path in OPEN or path.startswith("/static/") or _stored(scope):
            return ""
        client = self._client(scope, headers)
        self._count(client)
        return client

    def _client(self, scope: Scope, headers: Mapping[str, str]) -> str:
        if self.rules.keys.names:
            name = self.rules.keys.name(_key(headers))
            if name is None:
                raise Refused(401, "invalid_api_key", "this key is not known here")
            return name
        address = scope.get("client")
        return str(address[0]) if address else "local"

    def _count(self, client: str) -> None:
        """Refuse a client that asks too often."""
        if not (rate := self.rules.amount("rate", client)):
            return
        now, recent = time.monotonic(), self._recent.setdefault(client, deque())
        while recent and now - recent[0] > 60:
            recent.popleft()
        if len(recent) >= rate:
            wait = 60 - (now - recent[-rate])
            raise Refused(429, "rate_limited", f"{rate} requests a minute", retry=wait)
        recent.append(now)
        if len(self._recent) > 10_000:  # of clients that came once
            self._recent = {c: r for c, r in self._recent.items() if r and now - r[-1] < 60}

    def _bounded(self, receive: Receive, headers: Mapping[str, str]) -> Receive:
        """A body that comes in time and is not too large."""
        rules, taken, began = self.rules, [0], time.monotonic()
        if (
            headers.get("content-length", "0").isdecimal()
            and int(headers.get("content-length", "0")[:19]) > rules.body
        ):
            raise Refused(413, "body_too_large", f"a request may have {rules.body:,} bytes")
        whole = [False]

        async def received() -> Message:
            if whole[0]:  # only that the client leaves can come
                return await receive()
            left = min(rules.idle, began + rules.whole - time.monotonic())
            try:
                message = await asyncio.wait_for(receive(), max(left, 0.01))
            except TimeoutError:
                raise Refused(408, "body_timeout", "the request did not come in time") from None
            taken[0] += len(message.get("body", b""))
            whole[0] = not message.get("more_body", False)
            if taken[0] > rules.body:
                raise Refused(413, "body_too_large", f"a request may have {rules.body:,} bytes")
            return message

        return received


def _identity(headers: Mapping[str, str]) -> str:
    """The number that a client gave its request, or a new one."""
    given = headers.get("x-request-id", "")
    fine = 0 < len(given) <= 100 and given.isascii() and given.replace("-", "").isalnum()
    return given if fine else f"req-{secrets.token_hex(8)}"


def _key(headers: Mapping[str, str]) -> str:
    """The key that a request brings: as a token, as a password, or in a header of its own."""
    kind, _, given = headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        return given.strip()
    if kind.lower() != "basic":
        return headers.get("api-key", "")
    try:
        return base64.b64decode(given, validate=True).decode().partition(":")[2]
    except ValueError:
        return ""


def _stored(scope: Scope) -> bool:
    """Whether a picture is asked for by its address, which nobody guesses: who was told it may,
    as browsers and other programs send no key along."""
    return scope["method"] == "GET" and scope["path"].startswith(IMAGES)


def _host(name: str) -> str:
    """The name of a host without its port, in lower case."""
    name = name.lower()
    if name.startswith("["):
        return name.partition("]")[0][1:]
    return name.rpartition(":")[0] if name.count(":") == 1 else name


def loopback(host: str) -> bool:
    """Whether a server that listens there is reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
