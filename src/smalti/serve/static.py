"""The page at `/`: a few files of our own that draw by the routes that everybody has."""

from __future__ import annotations

from importlib.resources import files

from fastapi import FastAPI, Response

from smalti.serve.errors import Refused

TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
"""Media types by the ends of names."""


def page_files() -> dict[str, bytes]:
    """The files of the page by their names."""
    folder = files("smalti.serve") / "page"
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


def add_page(app: FastAPI) -> None:
    """Answer `/` and `/static/NAME` with files that are read now: no name that a client sends
    reaches the file system."""
    table = page_files()

    async def index() -> Response:
        return _answer("index.html")

    async def static(name: str) -> Response:
        if name not in table:
            raise Refused(404, "not_found", "there is no such file")
        return _answer(name)

    def _answer(name: str) -> Response:
        kind = TYPES[name.rpartition(".")[2]]
        return Response(table[name], headers={"content-type": kind, "cache-control": "no-cache"})

    for path, answer in (("/", index), ("/static/{name}", static)):
        app.add_api_route(path, answer, methods=["GET", "HEAD"], include_in_schema=False)
