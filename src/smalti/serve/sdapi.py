"""Routes of AUTOMATIC1111's web UI, for its many clients: SillyTavern, Open WebUI, n8n, plugins of
Krita and Blender.

What such a client always sends and a pipeline has not is left out, and a picture of another size
than the model's is resampled; `info` says both. A model is chosen for the client alone that did.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from PIL import Image

from smalti.serve import schemas, sdbody
from smalti.serve.images import body_of
from smalti.serve.orders import order_of
from smalti.serve.shared import Shared
from smalti.serve.stage import Stage, begun, waited
from smalti.serve.state import Server
from smalti.serve.talker import Talker

CLIENTS = 1000
"""Whose choice of a model is remembered."""


@dataclass(eq=False)
class Work:
    """A request that is being answered."""

    stage: Stage
    seen: dict[int, Image.Image] = field(default_factory=dict)
    """Its pictures by number, as far as they have come."""
    over: bool = False
    """Whether its client has ended it."""
    began: float = field(default_factory=time.monotonic)

    async def collect(self) -> bool:
        """Until all pictures are there."""
        async for what in self.stage.pictures():
            if what is not None:
                self.seen[what[0]] = what[1]
        return True

    async def end(self, request: Request) -> None:
        """Until nobody wants the rest: the client has gone, or has said so."""
        while not self.over and not await request.is_disconnected():
            await asyncio.sleep(0.1)


class Desk:
    """What a server knows of each client: the model it chose, and what is drawn for it."""

    def __init__(self, server: Server) -> None:
        self.server, self.chosen, self.works = server, dict[str, str](), list[Work]()

    def model(self, request: Request, body: dict[str, Any]) -> Shared | Talker:
        """The model of a request. Raises Refused if there is none of its name."""
        settings = body.get("override_settings")
        named = settings.get("sd_model_checkpoint") if isinstance(settings, dict) else None
        return self.server.find(named or self.chosen.get(request.state.client))

    def choose(self, request: Request, name: Any) -> None:
        """Remember a client's model. Raises Refused if there is none of that name."""
        found = self.server.find(name).name
        self.chosen.pop(request.state.client, None)  # the newest stands last
        self.chosen[request.state.client] = found
        while len(self.chosen) > CLIENTS:
            del self.chosen[next(iter(self.chosen))]

    def mine(self, request: Request) -> list[Work]:
        """What is being drawn for the client of a request."""
        return [w for w in self.works if w.stage.client == request.state.client]

    async def draw(self, request: Request, edited: bool) -> Response:
        """Answer a request for pictures: those that there are when it is finished or ended."""
        body = await body_of(request)
        one, options = self.model(request, body), self.server.options
        init = await self.server.read(sdbody.init_of, body, options.pixels) if edited else None
        size = sdbody.size_of(body) if init is None else init.base.size
        fields, left = sdbody.fields_of(body, one.pipeline)
        edit = None if init is None else init.edit
        order = order_of(fields, one.pipeline, options.most, edit.fields if edit else ())
        work = Work(begun(request, self.server, one, order, edit))
        self.works.append(work)
        try:
            whole = await waited(work.stage, work.collect(), work.end(request))
        finally:
            self.works.remove(work)
        drawn = [image for _, image in sorted(work.seen.items())]
        files = await asyncio.to_thread(sdbody.pictures_of, drawn, size, init)
        info = sdbody.info_of(body, one, order.seed, drawn, size)
        info["smalti"] |= {"left_out": left, "interrupted": not whole}
        answer = {"images": files, "parameters": sdbody.told(body), "info": json.dumps(info)}
        return JSONResponse(answer, headers={"x-smalti-load": f"{self.server.load:.2f}"})

    def progress(self, works: list[Work]) -> dict[str, Any]:
        """How far the pictures of a client are, 0 to 1, and in how many seconds they are done."""
        share = sum(work.stage.share for work in works) / max(len(works), 1)
        passed = max((time.monotonic() - work.began for work in works), default=0.0)
        return sdbody.progress_of(share, passed, len(works), any(w.over for w in works))


def _giving(rows: list[dict[str, Any]]) -> Callable[[], list[dict[str, Any]]]:
    return lambda: rows


def add_sdapi(app: FastAPI, server: Server) -> None:
    """Add the routes to an application."""
    desk = Desk(server)
    for name, rows in sdbody.lists_of(server.shared).items():
        app.add_api_route(f"/sdapi/v1/{name}", _giving(rows), **schemas.STATE)

    @app.get("/sdapi/v1/options", **schemas.STATE)
    async def options(request: Request) -> dict[str, Any]:
        one = desk.model(request, {})
        return {"sd_model_checkpoint": one.name, "sd_checkpoint_hash": sdbody.hash_of(one)}

    @app.post("/sdapi/v1/options", **schemas.STATE)
    async def choose(request: Request) -> None:
        wanted = (await body_of(request)).get("sd_model_checkpoint")
        if wanted is not None:
            desk.choose(request, wanted)

    @app.get("/sdapi/v1/progress", **schemas.STATE)
    async def progress(request: Request) -> dict[str, Any]:
        return desk.progress(desk.mine(request))

    @app.post("/sdapi/v1/interrupt", **schemas.STATE)
    async def interrupt(request: Request) -> dict[str, Any]:
        for work in desk.mine(request):
            work.over = True
        return {}

    @app.post("/sdapi/v1/txt2img", **schemas.WEB_UI)
    async def txt2img(request: Request) -> Response:
        return await desk.draw(request, edited=False)

    @app.post("/sdapi/v1/img2img", **schemas.WEB_UI)
    async def img2img(request: Request) -> Response:
        return await desk.draw(request, edited=True)
