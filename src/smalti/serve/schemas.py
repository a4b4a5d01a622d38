"""What the routes take and give, as `/openapi.json` says it."""

from __future__ import annotations

from typing import Any

TEXT, WHOLE, TRUTH = {"type": "string"}, {"type": "integer"}, {"type": "boolean"}
AMOUNT = {"type": "number"}
FILE_PART = {"type": "string", "format": "binary"}
MAP = "Of a model that draws from maps: as large as the picture, in JSON as base64."

COMMON: dict[str, Any] = {
    "model": {**TEXT, "description": "A name of /v1/models; the first, if it is left out."},
    "prompt": {**TEXT, "description": "A text, or the name or number of a class."},
    "style": {**TEXT, "description": "One of the model's, where it knows styles."},
    "n": {**WHOLE, "minimum": 1, "maximum": 10},
    "size": {**TEXT, "description": "auto, or width x height: 256x256."},
    "seed": {"oneOf": [WHOLE, {"type": "array", "items": WHOLE}]},
    "class": {"description": "A class by name or number, or a list of n."},
    "response_format": {**TEXT, "enum": ["b64_json", "url"]},
    "output_format": {**TEXT, "enum": ["png", "jpeg", "webp"]},
    "output_compression": {**WHOLE, "minimum": 0, "maximum": 100},
    "guidance": {**AMOUNT, "minimum": 0},
    "temperature": {**AMOUNT, "minimum": 0},
    "top_k": {**WHOLE, "minimum": 0},
    "top_p": AMOUNT,
}
STREAMED = {
    "stream": TRUTH,
    "partial_images": {**WHOLE, "minimum": 0, "maximum": 3},
    "preview_every": {**WHOLE, "minimum": 0, "description": "One partial image in so many steps."},
}
MASKED = {
    "image": {**FILE_PART, "description": "A PNG, JPEG or WEBP."},
    "mask": {**FILE_PART, "description": "Transparent pixels, or white ones, are painted anew."},
    "extend": {**TEXT, "description": "Pixels to add: left=16,top=8."},
    "map": {**FILE_PART, "description": MAP},
    "keep_pixels": TRUTH,
}
VARIED = {
    "image": FILE_PART,
    "map": MASKED["map"],
    "strength": {**AMOUNT, "description": "Share of codes drawn anew."},
}

ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": TEXT,
                "type": TEXT,
                "param": {"type": ["string", "null"]},
                "code": TEXT,
            },
        }
    },
}
IMAGES = {
    "type": "object",
    "required": ["created", "data"],
    "properties": {
        "created": WHOLE,
        "data": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"b64_json": TEXT, "url": TEXT, "seed": WHOLE, "index": WHOLE},
            },
        },
    },
}
REASONS = {
    400: "Something that cannot be; `param` names it.",
    401: "A key that is not known.",
    403: "A host or a page that may not call.",
    404: "A model or a picture that is not there.",
    405: "Another method.",
    408: "A body that did not come in time.",
    413: "A body that is too large.",
    415: "A body of another type.",
    429: "A queue that is full, or a client that asks for more than its share; `retry-after` says "
    "when there is a place.",
    500: "Drawing failed.",
    503: "The server is being stopped, or there was no time.",
}


def responses(good: dict[str, Any] | None, *more: str) -> dict[int, Any]:
    """The answers of a route; a stream where `more` says so."""
    json = {"application/json": {"schema": good or {"type": "object"}}}
    streams = {kind: {"schema": TEXT} for kind in more}
    refused = {
        status: {"description": why, "content": {"application/json": {"schema": ERROR}}}
        for status, why in REASONS.items()
    }
    return {200: {"description": "Done.", "content": json | streams}} | refused


def body(kinds: dict[str, dict[str, Any]], required: dict[str, list[str]]) -> dict[str, Any]:
    """A request's body of several media types."""
    content = {
        kind: {
            "schema": {"type": "object", "properties": fields, "required": required.get(kind, [])}
        }
        for kind, fields in kinds.items()
    }
    return {"requestBody": {"required": True, "content": content}}


def _route(
    kinds: dict[str, dict[str, Any]], required: dict[str, list[str]], *more: str
) -> dict[str, Any]:
    return {"openapi_extra": body(kinds, required), "responses": responses(IMAGES, *more)}


FORM, JSON, STREAM = "multipart/form-data", "application/json", "text/event-stream"
GENERATIONS = _route(
    {JSON: COMMON | STREAMED | {"map": {**TEXT, "description": MAP}}}, {JSON: ["prompt"]}, STREAM
)
EDITS = _route({FORM: COMMON | STREAMED | MASKED}, {FORM: ["image"]}, STREAM)
VARIATIONS = _route({FORM: COMMON | VARIED}, {FORM: ["image"]})
MESSAGES = {
    "model": COMMON["model"],
    "messages": {"type": "array", "items": {"type": "object"}},
    "stream": TRUTH,
    "seed": WHOLE,
    "n": {**WHOLE, "minimum": 1, "maximum": 1},
    "pictures": {**WHOLE, "minimum": 0, "maximum": 4, "description": "Of a reply, at most."},
    "temperature": {**AMOUNT, "minimum": 0},
    "max_tokens": {**WHOLE, "minimum": 1},
}
CHAT: dict[str, Any] = {
    "openapi_extra": body({JSON: MESSAGES}, {JSON: ["messages"]}),
    "responses": responses(None, STREAM),
}
MODELS: dict[str, Any] = {"responses": responses(None)}
MODEL = MODELS
STATE = MODELS
FILE: dict[str, Any] = {"responses": responses(None, "image/png", "image/jpeg", "image/webp")}

PLAIN = {
    **{name: TEXT for name in ("prompt", "negative_prompt", "mask")},
    **{name: WHOLE for name in ("seed", "steps", "width", "height", "batch_size", "n_iter")},
    **{name: AMOUNT for name in ("cfg_scale", "denoising_strength", "mask_blur")},
    "init_images": {"type": "array", "items": TEXT},
    "inpainting_mask_invert": {**WHOLE, "enum": [0, 1]},
}
"""Fields of AUTOMATIC1111's web UI, which refuses none that it does not know."""
ANSWER = {
    "type": "object",
    "required": ["images", "parameters", "info"],
    "properties": {"images": {"type": "array", "items": TEXT}, "info": TEXT},
}
WEB_UI: dict[str, Any] = {"openapi_extra": body({JSON: PLAIN}, {}), "responses": responses(ANSWER)}
