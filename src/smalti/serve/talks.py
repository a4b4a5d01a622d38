"""Conversations: texts and pictures in and out, in the form of OpenAI's chat completions.

Pictures come in as parts `image_url` with a `data:` address. Those of a reply stand in
`message.images`, as parts of the same form, since the official shape has no place for them.
"""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Literal, NamedTuple

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from smalti.config import settings_of
from smalti.pipeline.conversation import Piece, Turn, Writing, said
from smalti.pipeline.sampling import Sampling
from smalti.pipeline.unified import Said, Shown
from smalti.serve import answers, schemas
from smalti.serve.errors import Refused, invalid, missing, refusal
from smalti.serve.orders import Output, number_of, plain, text_of, truth_of
from smalti.serve.shared import Gone
from smalti.serve.stage import KEEP_ALIVE, gone
from smalti.serve.state import Server
from smalti.serve.talker import Talker
from smalti.serve.turnstile import Ticket
from smalti.serve.uploads import from_text, picture

Event = Said | Shown
Role = Literal["user", "model"]
MOST_PICTURES = 4
"""Of a reply."""
MOST_SENT = 16
"""Pictures of a conversation."""
TOGETHER = 4
"""So many times the pixels of one picture may all of them have."""


class Sent(NamedTuple):
    """A picture of a conversation that is not decoded yet."""

    url: str
    where: str


SYNONYMS = {
    "max_tokens": "words",
    "max_completion_tokens": "words",
    "temperature": "text_temperature",
    "top_p": "text_top_p",
}
"""Names that OpenAI has for settings of writing."""
IDLE = (
    *("user", "safety_identifier", "modalities", "store", "metadata", "stream_options"),
    *("presence_penalty", "frequency_penalty", "response_format", "logprobs"),
)


def turns_of(messages: Any) -> list[tuple[Role, list[str | Sent]]]:
    """A conversation as roles and what they say, whose pictures are not decoded; what a system says
    stands before what the user says.

    Raises Refused for what is none.
    """
    if not isinstance(messages, list) or not messages:
        raise missing("messages")
    turns, before = list[tuple[Role, list[str | Sent]]](), list[str | Sent]()
    for i, message in enumerate(messages):
        where = f"messages[{i}]"
        role = message.get("role") if isinstance(message, Mapping) else None
        if role not in ("system", "developer", "user", "assistant"):
            raise invalid(f"{where} must have a role: system, user or assistant", where)
        pieces = _pieces(message.get("content"), where)
        images = message.get("images") or []
        if not isinstance(images, list):
            raise invalid(f"{where}.images must be a list of parts", where)
        pieces += [_piece(one, where) for one in images]
        if role in ("system", "developer"):
            before += pieces
            continue
        turns.append(("user" if role == "user" else "model", _apart([*before, *pieces])))
        before = []
    if not turns or turns[-1][0] != "user":
        raise invalid("a conversation ends with what the user says", "messages")
    sent = sum(isinstance(piece, Sent) for _, pieces in turns for piece in pieces)
    if sent > MOST_SENT:
        raise invalid(f"a conversation may bring {MOST_SENT} pictures, got {sent}", "messages")
    return turns


def seen(turns: Sequence[tuple[Role, Sequence[str | Sent]]], pixels: int) -> list[Turn]:
    """A conversation as a pipeline takes it, with its pictures, each of at most `pixels` and all of
    `TOGETHER` times as many. Raises Refused for what is none, and for more."""
    found, left = list[Turn](), TOGETHER * pixels
    for role, pieces in turns:
        turn = list[Piece]()
        for piece in pieces:
            if isinstance(piece, str):
                turn.append(piece)
                continue
            image = picture(from_text(piece.url, piece.where), piece.where, pixels)
            left -= image.width * image.height
            if left < 0:
                most = f"{TOGETHER * pixels:,} pixels together"
                message = f"the pictures of a conversation may have {most}"
                raise Refused(400, "image_too_large", message, piece.where)
            turn.append(image)
        found.append(Turn(role, turn))
    return found


def _apart(pieces: Sequence[str | Sent]) -> list[str | Sent]:
    """The same with texts that follow on each other as one, a blank between them."""
    found = list[str | Sent]()
    for piece in pieces:
        if found and isinstance(last := found[-1], str) and isinstance(piece, str):
            found[-1] = f"{last} {piece}".strip()
        else:
            found.append(piece)
    return found


def _pieces(content: Any, where: str) -> list[str | Sent]:
    if content is None:
        return []
    if isinstance(content, str):
        return [text_of({"content": content}, "content") or ""]
    if not isinstance(content, list):
        raise invalid(f"{where} must hold a text or a list of parts", where)
    return [_piece(part, where) for part in content]


def _piece(part: Any, where: str) -> str | Sent:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind == "text":
        return text_of({"text": part.get("text")}, "text") or ""
    if kind == "image_url":
        given = part.get("image_url")
        url = given.get("url") if isinstance(given, Mapping) else given
        if isinstance(url, str):
            return Sent(url, where)
    raise invalid(f"{where}: a part is a text or an image_url", where)


def settings_in(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of writing and drawing of a request. Raises Refused for a field that is unknown."""
    known = {**settings_of(Sampling), **settings_of(Writing)}
    found = dict[str, Any]()
    for name, value in fields.items():
        name = SYNONYMS.get(name, name)
        if value is None or name in IDLE:
            continue
        if name not in known:
            raise Refused(400, "unsupported_parameter", f"{name} is no setting here", name)
        found[name] = plain(value)
    return found


class Reply:
    """What a request waits for: events of a conversation, computed in a thread of its own; and how
    many positions the model read for it, and wrote."""

    def __init__(
        self,
        make: Callable[[threading.Event], Iterator[Event]],
        read: int,
        codes: int,
        ended: Callable[[], None],
    ) -> None:
        self.read, self.wrote, self.codes, self.ended = read, 0, codes, ended
        self.loop, self.told = asyncio.get_running_loop(), asyncio.Queue[Any]()
        self.make, self.gone = make, threading.Event()
        threading.Thread(target=self._work, name="smalti-reply", daemon=True).start()

    def _work(self) -> None:
        last: BaseException | None = None
        try:
            for event in self.make(self.gone):
                self._tell(event)
        except BaseException as error:
            last = error
        self.ended()  # before the client hears that it may ask again
        if not isinstance(last, Gone):
            self._tell(last)

    def _tell(self, what: Any) -> None:
        with suppress(RuntimeError):  # the loop has gone
            self.loop.call_soon_threadsafe(self.told.put_nowait, what)

    async def events(self) -> AsyncIterator[Event | None]:
        """All events; None where nothing came for a while. Raises what failed."""
        while True:
            try:
                what = await asyncio.wait_for(self.told.get(), KEEP_ALIVE)
            except TimeoutError:
                yield None
                continue
            if what is None:
                return
            if isinstance(what, BaseException):
                raise what
            if what.whole:
                self.wrote += what.ids if isinstance(what, Said) else self.codes
            yield what

    @property
    def usage(self) -> dict[str, int]:
        """What was read and written so far, as OpenAI names it."""
        total = self.read + self.wrote
        return {
            "prompt_tokens": self.read,
            "completion_tokens": self.wrote,
            "total_tokens": total,
        }


def add_talks(app: FastAPI, server: Server, read: Callable[[Request], Any]) -> None:
    """The route of chat completions; `read` reads an object of JSON."""

    @app.post("/v1/chat/completions", **schemas.CHAT)
    async def completions(request: Request) -> Response:
        fields = await read(request)
        one = server.find(fields.pop("model", None))
        if not isinstance(one, Talker):
            raise Refused(400, "unsupported_model", f"{one.name} draws and does not talk", "model")
        server.require_open()
        messages, stream = fields.pop("messages", None), truth_of(fields, "stream")
        seed = number_of(fields, "seed", secrets.randbits(31), -(2**63), 2**63 - 1)
        pictures = number_of(fields, "pictures", 1, 0, MOST_PICTURES)
        if (n := plain(fields.get("n"))) not in (None, 1):
            raise invalid(f"n is 1: a conversation has one reply, got {n!r}", "n")
        rest = {k: v for k, v in fields.items() if k not in ("stream", "seed", "pictures", "n")}
        settings = settings_in(rest)
        one.pipeline.settings(settings)  # which raises ValueError for what cannot be
        turns = await server.read(seen, turns_of(messages), server.options.pixels)
        length = await asyncio.to_thread(_read, one, turns)
        ticket, let_go = _entered(request, server, one)

        def make(gone: threading.Event) -> Iterator[Event]:
            return one.chat(turns, pictures, seed, settings, gone, ticket)

        codes = one.pipeline.model.spec.positions if one.pipeline.draws else 0
        try:
            reply = Reply(make, length, codes, let_go)
        except RuntimeError:  # the system has no more threads
            one.batching.drop(ticket)
            let_go()
            raise
        about, options = _about(one), fields.get("stream_options")
        if stream:
            told = isinstance(options, Mapping) and options.get("include_usage") is True
            body = _chunks(reply, about, request.state.identity, told)
            headers = {"x-accel-buffering": "no"}
            return StreamingResponse(body, media_type="text/event-stream", headers=headers)
        return await _whole(request, reply, about)


def _entered(request: Request, server: Server, one: Talker) -> tuple[Ticket, Callable[[], None]]:
    """A place among those who wait, and what lets go of that of the client's share. Raises what
    `Server.hold` and `Turnstile.enter` do."""
    client = request.state.client
    server.hold(one, client, 1, request.state.share)
    let_go = partial(server.let_go, client, 1)
    try:
        return one.batching.enter(client), let_go
    except BaseException:
        let_go()
        raise


def _read(one: Talker, turns: Sequence[Turn]) -> int:
    """How many positions a conversation takes."""
    pipe = one.pipeline
    return pipe.length - pipe.room(said(turns, pipe.phrases))


def _about(one: Talker) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{secrets.token_hex(8)}",
        "created": int(time.time()),
        "model": one.name,
    }


async def _whole(request: Request, reply: Reply, about: dict[str, Any]) -> Response:
    """A reply in one answer."""

    async def collected() -> dict[str, Any]:
        texts, images, reason = list[str](), list[dict[str, Any]](), "stop"
        async for event in reply.events():
            if event is None or not event.whole:
                continue
            if isinstance(event, Said):
                texts.append(event.text.strip())
                reason = reason_of(event)
            else:
                images.append(await asyncio.to_thread(_part, event))
        message = {"role": "assistant", "content": "\n".join(t for t in texts if t)}
        message |= {"images": images} if images else {}
        return {"index": 0, "message": message, "finish_reason": reason}

    collecting, leaving = (
        asyncio.create_task(collected()),
        asyncio.create_task(gone(request)),
    )
    await asyncio.wait({collecting, leaving}, return_when=asyncio.FIRST_COMPLETED)
    leaving.cancel()
    if not collecting.done():
        reply.gone.set()
        collecting.cancel()
        return Response(status_code=499)
    choices = [collecting.result()]
    body = about | {"object": "chat.completion", "choices": choices, "usage": reply.usage}
    return JSONResponse(body)


def reason_of(text: Said) -> str:
    """Why a reply ends whose last text is this one, as OpenAI names it."""
    return "length" if text.cut else "stop"


async def _chunks(
    reply: Reply, about: dict[str, Any], identity: str, usage: bool
) -> AsyncIterator[bytes]:
    """A reply as it grows: new letters, and pictures on their way and whole, with their number; and
    if that is wanted, its `usage` at last."""
    text, number, whole, why = "", 0, False, "stop"

    def chunk(delta: dict[str, Any] | None, reason: str | None = None, **more: Any) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        choices = [] if delta is None else [choice]
        body = about | {"object": "chat.completion.chunk", "choices": choices} | more
        return f"data: {json.dumps(body)}\n\n".encode()

    try:
        yield chunk({"role": "assistant", "content": ""})
        async for event in reply.events():
            if event is None:
                yield b": keep-alive\n\n"
                continue
            if isinstance(event, Said):
                if event.text.startswith(text) and event.text != text:
                    yield chunk({"content": event.text[len(text) :]})
                text, why = "" if event.whole else event.text, reason_of(event)
                continue
            part = await asyncio.to_thread(_part, event)
            yield chunk({"images": [part | {"index": number, "partial": not event.whole}]})
            number += event.whole
        yield chunk({}, why)
        if usage:
            yield chunk(None, usage=reply.usage)
        yield b"data: [DONE]\n\n"
        whole = True
    except Exception as error:
        yield f"data: {json.dumps(refusal(error, identity).body)}\n\n".encode()
    finally:
        if not whole:
            reply.gone.set()


def _part(event: Shown) -> dict[str, Any]:
    """A picture as a part of a message."""
    data = base64.b64encode(answers.file_of(event.image, Output())).decode()
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}
