"""OpenAI's images: pictures of a text or a class, edits and variations, at once or as a stream."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from PIL import Image

from smalti.engine.waiting import Drawn
from smalti.serve import answers, schemas
from smalti.serve.edits import Mapped, Task, Told, edit_of, variation_of
from smalti.serve.errors import Refused, invalid, refusal
from smalti.serve.orders import Order, Output, order_of
from smalti.serve.shared import Shared
from smalti.serve.stage import Stage, begun, gone, waited
from smalti.serve.state import Server
from smalti.serve.talker import Talker
from smalti.serve.uploads import brought
from smalti.text.prompts import read_part

LOG = logging.getLogger("smalti.serve")
WORDS = 1 << 20
"""Bytes of a request that brings no picture."""


def add_images(app: FastAPI, server: Server) -> None:
    @app.post("/v1/images/generations", **schemas.GENERATIONS)
    async def generations(request: Request) -> Response:
        maps = any(one.pipeline.map is not None for one in server.shared)
        fields = await body_of(request, None if maps else WORDS)
        one = server.find(fields.pop("model", None))
        map = None
        if "map" in fields:
            map = await server.read(brought, fields, {}, "map", server.options.pixels)
        order = order_of(fields, one.pipeline, server.options.most, map=map, fit=server.options.fit)
        order = await coded(one, order, "map", whole=True)
        return await _answer(request, server, one, order, None, "image_generation")

    @app.post("/v1/images/edits", **schemas.EDITS)
    async def edits(request: Request) -> Response:
        return await _edited(request, server, edit_of, ("image", "mask", "map"))

    @app.post("/v1/images/variations", **schemas.VARIATIONS)
    async def variations(request: Request) -> Response:
        return await _edited(request, server, variation_of, ("image", "map"))

    @app.get("/v1/images/{name}", **schemas.FILE)
    async def stored(name: str) -> Response:
        found = server.store.get(name)
        if found is None:
            raise Refused(404, "not_found", "there is no such picture, or no longer")
        return Response(found[1], media_type=found[0])


async def body_of(request: Request, most: int | None = None) -> dict[str, Any]:
    """The object that a body of so many bytes at most holds."""
    kind = request.headers.get("content-type", "application/json").partition(";")[0].strip()
    if kind.lower() != "application/json":
        raise Refused(415, "unsupported_media_type", f"send application/json, got {kind[:80]!r}")
    data = bytearray()
    async for part in request.stream():
        data += part
        if most is not None and len(data) > most:
            message = f"a request that brings no picture may have {most:,} bytes"
            raise Refused(413, "body_too_large", message)
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        raise Refused(400, "invalid_json", "the body must be one object of JSON") from None
    if not isinstance(found, dict):
        raise Refused(400, "invalid_json", "the body must be one object of JSON")
    return found


async def _edited(request: Request, server: Server, read: Any, parts: Sequence[str]) -> Response:
    """Pictures of a picture; `parts` of the request may be files."""
    kind = request.headers.get("content-type", "")
    if kind.startswith("multipart/form-data"):
        async with request.form(max_files=4, max_fields=64, max_part_size=1 << 20) as form:
            fields, files = dict[str, Any](), dict[str, bytes]()
            for name, value in form.multi_items():
                name = name.removesuffix("[]")
                if name in fields or name in files:
                    raise Refused(400, "invalid_value", f"{name} is given twice", name)
                if isinstance(value, str):
                    fields[name] = value
                else:
                    files[name] = await value.read()
    else:
        fields, files = await body_of(request), {}
    _refuse_others(files, parts)
    one = server.find(fields.pop("model", None))
    what = await server.read(read, fields, files, server.options.pixels, one.pipeline)
    most, fit = server.options.most, server.options.fit
    whole = isinstance(what, Mapped)
    order = order_of(fields, one.pipeline, most, what.fields, what.map, fit and not whole)
    if isinstance(what, Told) and order.wanted.get("negative"):
        message = "an instruction takes no negative text: it goes with a mask, or extend"
        raise Refused(400, "unsupported_parameter", message, "negative")
    order = await coded(one, order, "image" if whole else "map", whole)
    return await _answer(request, server, one, order, None if whole else what, "image_edit")


def _refuse_others(files: Iterable[str], parts: Sequence[str]) -> None:
    """Raise Refused for a file by another name than these: it would be left out."""
    for name in files:
        if name not in parts:
            message = f"files may be {', '.join(parts)}, got one that is called {name!r}"
            raise Refused(400, "unsupported_parameter", message, name)


async def coded(one: Shared | Talker, order: Order, param: str, whole: bool) -> Order:
    """An order with the codes of its map, which are made between two steps of the batch.

    Raises Refused, naming `param`, for what is no such map, and where a `whole` picture of another
    size is drawn from it.
    """
    if "map" not in order.wanted:
        return order
    assert isinstance(one, Shared)
    (map,), size = order.wanted["map"], order.wanted.get("size")
    height, width = size or one.pipeline.tokenizer.size
    if whole and map.size != (width, height):
        mine = "{}x{}".format(*map.size)
        message = f"the map must have the size of the picture, {width}x{height}, got {mine}"
        raise Refused(400, "map_mismatch", message, param)
    read = partial(one.pipeline.asked, map=map, size=size)
    try:
        (asked,) = await asyncio.wrap_future(one.batching.call(read))
    except ValueError as error:
        raise invalid(str(error), param) from None
    return replace(order, wanted=order.wanted | {"map": [asked.get("map")]})


async def _answer(
    request: Request,
    server: Server,
    one: Shared | Talker,
    order: Order,
    edit: Task | None,
    kind: str,
) -> Response:
    """The pictures, or their events, whose names begin with `kind`."""
    began = time.monotonic()
    stage = begun(request, server, one, order, edit)
    headers = {"x-smalti-load": f"{server.load:.2f}"}
    if order.stream:
        headers |= {"x-accel-buffering": "no"}
        body = _events(stage, kind, request.state.identity)
        return StreamingResponse(body, media_type="text/event-stream", headers=headers)
    images = await waited(stage, _collected(stage), gone(request))
    if images is None:
        return Response(status_code=499)
    images = [answers.fitted(image, order.fit) for image in images]
    files = await asyncio.to_thread(lambda: [answers.file_of(i, order.output) for i in images])
    data = [
        answers.datum(image, file, order.output, _address(request, server, file, order.output))
        | _revised(stage)
        for image, file in zip(images, files, strict=True)
    ]
    headers |= _timing(stage.drawn)
    headers["openai-processing-ms"] = str(round(1000 * (time.monotonic() - began)))
    body = {"created": int(time.time()), "data": data, "usage": _usage(stage)}
    return JSONResponse(body | answers.shape(images[0], order.output), headers=headers)


def _timing(drawn: Sequence[Drawn]) -> dict[str, str]:
    """How long the slowest picture waited, was drawn and was decoded, as browsers show it."""
    if not drawn:
        return {}
    names = ("waited", "drawing", "decoding")
    longest = (1000 * max(getattr(one, name) for one in drawn) for name in names)
    parts = zip(("queue", "draw", "decode"), longest, strict=True)
    return {"server-timing": ", ".join(f"{name};dur={value:.1f}" for name, value in parts)}


def _usage(stage: Stage) -> dict[str, Any]:
    pipeline, wanted = stage.one.pipeline, stage.order.wanted
    texts, spec, tokens = wanted.get("text"), pipeline.spec_of(wanted.get("size")), 1
    if texts and pipeline.text is not None:
        tokens = sum(min(pipeline.text.count(t), pipeline.text.capacity) for t in texts)
    return answers.usage(tokens, spec.positions, stage.order.n)


def _revised(stage: Stage) -> dict[str, str]:
    """What was read of a prompt, where that is not all of it."""
    encoder, texts = stage.one.pipeline.text, stage.order.wanted.get("text")
    if not texts or encoder is None or encoder.count(texts[0]) <= encoder.capacity:
        return {}
    return {"revised_prompt": read_part(texts[0], encoder)}


def _address(request: Request, server: Server, file: bytes, output: Output) -> str | None:
    if not output.url:
        return None
    name = server.store.put(file, answers.TYPES[output.format])
    return str(request.base_url).rstrip("/") + f"/v1/images/{name}"


async def _collected(stage: Stage) -> list[Image.Image]:
    """All pictures, in their order."""
    found = dict[int, Image.Image]()
    async for what in stage.pictures():
        if what is not None and what[2]:
            found[what[0]] = what[1]
    return [found[number] for number in sorted(found)]


async def _events(stage: Stage, kind: str, identity: str) -> AsyncIterator[bytes]:
    """The events of a stream; where it is closed, what is drawn for it is given up."""
    output, shown, done = stage.order.output, dict[int, int](), False
    try:
        async for what in stage.pictures():
            if what is None:
                yield b": keep-alive\n\n"
                continue
            number, image, last = what
            image = answers.fitted(image, stage.order.fit)
            file = await asyncio.to_thread(answers.file_of, image, output)
            body = answers.datum(image, file, output, None) | answers.shape(image, output)
            body["index"] = number
            if last:
                whole = body | _revised(stage) | {"usage": _usage(stage)}
                yield answers.event(f"{kind}.completed", whole)
            else:
                index = shown[number] = shown.get(number, -1) + 1
                yield answers.event(f"{kind}.partial_image", body | {"partial_image_index": index})
        done = True
    except Exception as error:
        refused = refusal(error, identity)
        if refused.status >= 500:
            LOG.error("%s failed", identity, exc_info=error)
        yield answers.event("error", refused.body)
    finally:
        if not done:
            stage.leave()
