"""The routes of a server: OpenAI's images, what models there are, and how the server is."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from smalti.config import written
from smalti.modules import name_of
from smalti.pipeline.coded import short
from smalti.pipeline.sampling import Sampling
from smalti.serve import schemas
from smalti.serve.errors import Refused, refusal
from smalti.serve.guard import Guard, Rules
from smalti.serve.images import add_images, body_of
from smalti.serve.metrics import VERSION
from smalti.serve.sdapi import add_sdapi
from smalti.serve.shared import Shared
from smalti.serve.state import Server
from smalti.serve.static import add_page
from smalti.serve.talker import Talker
from smalti.serve.talks import add_talks

LOG = logging.getLogger("smalti.serve")


def make_app(server: Server, rules: Rules | None = None) -> Guard:
    """An ASGI application that draws with the pipelines of a server; it starts and stops their
    batches."""

    @asynccontextmanager
    async def living(app: FastAPI) -> AsyncIterator[None]:
        for one in server.shared:
            one.batching.start()
        yield
        server.draining = True
        for one in server.shared:
            await asyncio.to_thread(one.batching.stop)

    app = FastAPI(title="smalti", version=VERSION, lifespan=living, docs_url=None, redoc_url=None)
    app.add_exception_handler(Exception, _failed)
    for kind in (Refused, ValueError, HTTPException, RequestValidationError):
        app.add_exception_handler(kind, _failed)
    add_images(app, server)
    add_talks(app, server, body_of)
    if server.options.sdapi:
        add_sdapi(app, server)
    _models(app, server)
    _state(app, server)
    if server.options.page:
        add_page(app)
    return Guard(app, rules or Rules(), partial(_logged, server))


def _logged(server: Server, line: dict[str, Any]) -> None:
    route = line["path"] if line["path"] in ROUTES else "other"
    server.metrics.requests.labels(route, line["status"]).inc()
    server.metrics.answered.labels(route).observe(line["seconds"])
    LOG.info("%(method)s %(path)s %(status)s %(seconds)ss %(request)s %(client)s", line, extra=line)


ROUTES = {
    "/v1/images/generations",
    "/v1/images/edits",
    "/v1/images/variations",
    "/v1/chat/completions",
    "/v1/models",
    "/sdapi/v1/txt2img",
    "/sdapi/v1/img2img",
    "/health",
    "/ready",
    "/metrics",
}
"""Routes that are counted by name."""


async def _failed(request: Request, error: Exception) -> Response:
    """Every error in the shape of OpenAI's."""
    identity = getattr(request.state, "identity", "")
    if isinstance(error, RequestValidationError):
        refused = _invalid(error)
    elif isinstance(error, HTTPException):
        code = {404: "not_found", 405: "method_not_allowed"}.get(
            error.status_code, "invalid_request"
        )
        refused = Refused(error.status_code, code, str(error.detail))
    else:
        refused = refusal(error, identity)
    if refused.status >= 500 and not isinstance(error, Refused):
        LOG.error("%s failed", identity, exc_info=error)
    return JSONResponse(refused.body, refused.status, headers=refused.headers)


def _invalid(error: RequestValidationError) -> Refused:
    """A body that is none, as one line that names its first field."""
    first = error.errors()[0]
    if first["type"] in ("json_invalid", "model_attributes_type", "dict_type"):
        return Refused(400, "invalid_json", "the body must be one object of JSON")
    param = ".".join(str(part) for part in first["loc"][1:]) or None
    code = "missing_required_parameter" if first["type"] == "missing" else "invalid_value"
    return Refused(400, code, f"{param or 'body'}: {first['msg']}", param)


# -- models, and the state of the server


def _models(app: FastAPI, server: Server) -> None:
    @app.get("/v1/models", **schemas.MODELS)
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [_model(one) for one in server.shared]}

    @app.get("/v1/models/{name:path}", **schemas.MODEL)
    async def model(name: str) -> dict[str, Any]:
        return _model(server.find(name))


def _model(one: Shared | Talker) -> dict[str, Any]:
    pipeline, talks = one.pipeline, isinstance(one, Talker)
    size = "{1}x{0}".format(*pipeline.tokenizer.size) if pipeline.draws else None
    settings, foreign = written(pipeline.sampling).items(), Sampling.foreign(pipeline.model)
    return {
        "id": one.name,
        "object": "model",
        "created": 0,
        "owned_by": "smalti",
        "smalti": {
            "kind": name_of(pipeline.model),
            "size": size,
            "text": pipeline.reads_texts,
            "talks": talks,
            "draws_in_conversations": isinstance(one, Talker) and one.pipeline.begins,
            "classes": [] if pipeline.reads_texts else pipeline.classes,
            "text_classes": pipeline.wording.classes,
            "styles": pipeline.wording.styles,
            "map": "" if pipeline.map is None else pipeline.map.map,
            "codes": pipeline.model.spec.positions if pipeline.draws else 0,
            "sampling": {name: value for name, value in settings if name not in foreign},
            "slots": one.limits.slots,
            "device": str(pipeline.device),
            "dtype": short(pipeline.dtype),
            "fingerprint": pipeline.fingerprint,
        },
    }


def _state(app: FastAPI, server: Server) -> None:
    @app.get("/health", **schemas.STATE)
    async def health() -> Response:
        ill = "broken" if server.broken else "stalled"
        return JSONResponse({"status": "ok" if server.well else ill}, 200 if server.well else 503)

    @app.get("/ready", **schemas.STATE)
    async def ready() -> Response:
        headers = {"x-smalti-load": f"{server.load:.2f}"}
        return JSONResponse({"ready": server.ready}, 200 if server.ready else 503, headers=headers)

    @app.get("/version", **schemas.STATE)
    async def version() -> dict[str, str]:
        return {"version": VERSION}

    @app.get("/metrics", include_in_schema=False)
    async def metrics() -> Response:
        return Response(server.metrics.text(), media_type="text/plain; version=0.0.4")
