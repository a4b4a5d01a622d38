"""What a server refuses, in the shape in which OpenAI's clients read it."""

from __future__ import annotations

import math
from typing import Any

from smalti.engine.batching import Stopped
from smalti.engine.waiting import Full, Late

KINDS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}
"""The type of an error by its status; of others below 500 it is invalid_request_error."""


MOST = 1000
"""Letters of a message at most: it may repeat what a client sent, which may be long."""


class Refused(Exception):
    """An answer that is an error.

    Args: the HTTP status; a word for programs; a line for people; the parameter that is meant; in
    how many seconds it may be tried again, None if that would not help.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        param: str | None = None,
        retry: float | None = None,
    ) -> None:
        if len(message) > MOST:
            message = f"{message[: MOST // 2]} ... {message[-MOST // 2 :]}"
        super().__init__(message)
        self.status, self.code, self.retry = status, code, retry
        self.param = param and param[:MOST]

    @property
    def body(self) -> dict[str, Any]:
        """The answer as JSON."""
        kind = KINDS.get(self.status, "server_error" if self.status >= 500 else None)
        return {
            "error": {
                "message": str(self),
                "type": kind or "invalid_request_error",
                "param": self.param,
                "code": self.code,
            }
        }

    @property
    def headers(self) -> dict[str, str]:
        """When, and whether, a client should try again."""
        if self.retry is None:
            return {"x-should-retry": "false"}
        return {"retry-after": str(max(1, math.ceil(self.retry)))}


def invalid(message: str, param: str | None = None) -> Refused:
    """A field that cannot be what it is."""
    return Refused(400, "invalid_value", message, param)


def missing(param: str) -> Refused:
    """A field that is needed and not there."""
    return Refused(400, "missing_required_parameter", f"{param} is missing", param)


def refusal(error: BaseException, identity: str) -> Refused:
    """What is answered where something went wrong. What is no fault of the client's is told by the
    number of its request alone, under which it stands in the log."""
    if isinstance(error, Refused):
        return error
    if isinstance(error, Full):
        return Refused(429, "queue_full", f"the queue is full: {error}", retry=error.seconds)
    if isinstance(error, Late):
        return Refused(503, "deadline", f"there was no time for it: {error}", retry=10)
    if isinstance(error, Stopped):
        return Refused(503, "draining", "the server is being stopped", retry=10)
    if isinstance(error, ValueError):
        return invalid(" ".join(str(error).split()))
    return Refused(500, "engine_error", f"drawing failed; the log says why under {identity}")
