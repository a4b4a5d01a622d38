"""`smalti serve`: pictures over HTTP. Imports torch and the server when it begins."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from smalti.cli.running import FLAT, Run, opened
from smalti.config import check
from smalti.interop.starters import STARTER
from smalti.progress import say

if TYPE_CHECKING:
    from smalti.serve.guard import Rules
    from smalti.serve.state import Server

Build = Callable[[], "tuple[Any, Server]"]


@dataclass(frozen=True)
class Place:
    """Where the server is reached, and by whom."""

    host: str = "127.0.0.1"
    """Address to listen on; the default is reached from this machine alone."""
    port: int = 8000
    """Port to listen on; 0 takes a free one."""
    keys: Path | None = None
    """A file of those who may ask, a line NAME:SHA256 of each one's key, behind which rate=N and
    share=N may stand; without it everybody may. It is read again at SIGHUP."""
    insecure: bool = False
    """Listen on an address that others reach though there are no keys."""
    hosts: tuple[str, ...] = ()
    """Names under which the server may be called; default: any, or, if it is reached from this
    machine alone, this machine's."""
    cors: tuple[str, ...] = ()
    """Origins of other pages that may call it, such as https://example.org."""
    rate: int = 0
    """Requests of a client in a minute at most; 0: any number."""
    share: int = 0
    """Pictures of a client that may wait or be drawn at once; 0: any number."""
    page: bool = True
    """Show a page to draw with, at the server's own address."""
    sdapi: bool = False
    """Answer clients of AUTOMATIC1111's web UI too, at /sdapi/v1."""
    ray: bool = False
    """Run on Ray Serve, in --replicas processes. Needs pip install smalti[ray]."""


@dataclass(frozen=True)
class Amounts:
    """How much is drawn, and taken."""

    slots: int = 8
    """Pictures of a pipeline that are drawn at once."""
    queue: int = 64
    """Pictures that wait at most; those above are refused."""
    deadline: float = 300.0
    """Seconds after which a picture that has not begun is given up."""
    max_n: int = 10
    """Pictures of a request at most."""
    max_body: int = 64
    """MiB of a request at most."""
    max_pixels: int = 16_000_000
    """Pixels of a picture that is sent, at most."""
    fit: bool = False
    """Resample pictures to sizes that a model does not draw, which are refused otherwise."""
    drain: float = 30.0
    """Seconds that what is being drawn has, when the server is stopped."""
    replicas: int = 1
    """Processes that each load the pipelines and draw; more than one with --ray."""


def serve(
    pipelines: Annotated[Positional[tuple[str, ...]], arg(metavar="PIPELINE...")] = (STARTER,),
    place: Annotated[Place, FLAT] = Place(),  # noqa: B008 - it is frozen, as all are
    amounts: Annotated[Amounts, FLAT] = Amounts(),  # noqa: B008
    alias: tuple[str, ...] = (),
    strict_model: bool = False,
    deterministic: bool = False,
    log: Literal["text", "json"] = "text",
    run: Annotated[Run, FLAT] = Run(),  # noqa: B008
) -> None:
    """Serve pipelines over HTTP, to clients of OpenAI's images. Needs pip install smalti[serve].

    Args:
        pipelines: Folders or Hugging Face hub ids, each as it is or as NAME=PIPELINE; default: the
            one that comes with smalti.
        alias: Other names of pipelines, OTHER=NAME.
        strict_model: Refuse names of OpenAI's own models, which otherwise mean the first pipeline.
        deterministic: Draw each picture by passes of its own: equal to the bit to a picture drawn
            alone, and slower.
        log: What is written of each request: text, or json.
    """
    check_public(place)
    check_amounts(place, amounts)
    named = names_of(pipelines)
    others = aliases_of(alias, named)
    require("fastapi", "prometheus_client", "python_multipart", "uvicorn")
    build = partial(
        application, named, others, place, amounts, strict_model, deterministic, log, run
    )
    if place.ray:
        require("ray")
        on_ray(build, place, amounts, run)
        return
    from smalti.serve import server

    socket = server.listen(place.host, place.port)
    app, state = build()
    host, port = socket.getsockname()[:2]
    say(f"serving {', '.join(named)} at http://{f'[{host}]' if ':' in host else host}:{port}/")

    def drain() -> None:
        state.draining = True

    renew = None if place.keys is None else app.rules.keys.renew
    well, broken = lambda: state.well, lambda: state.broken  # noqa: E731
    server.run(app, socket, drain, amounts.drain, well, broken, renew)


def require(*modules: str) -> None:
    """Raise ValueError, naming what is to be installed, unless these can be imported."""
    try:
        for module in modules:
            import_module(module)
    except ImportError as error:
        extra = "ray" if error.name == "ray" else "serve"
        raise ValueError(f"{error.name} is missing: pip install 'smalti[{extra}]'") from None


def on_ray(build: Build, place: Place, amounts: Amounts, run: Run) -> None:
    """Serve in several processes."""
    from smalti.serve import ray, server

    server.listen(place.host, place.port).close()  # a port that is taken is told here
    say(f"serving at http://{place.host}:{place.port}/ by {amounts.replicas} on Ray")
    ray.run(build, place.host, place.port, amounts.replicas, amounts.drain, run.device == "cpu")


def application(
    named: dict[str, str],
    aliases: dict[str, str],
    place: Place,
    amounts: Amounts,
    strict: bool,
    alone: bool,
    log: str,
    run: Run,
) -> tuple[Any, Server]:
    """The application that serves pipelines by name, and its state."""
    from smalti.pipeline.unified import UnifiedPipeline
    from smalti.serve import server
    from smalti.serve.app import make_app
    from smalti.serve.shared import Limits, Shared
    from smalti.serve.state import Options, Server, compute_alone
    from smalti.serve.talker import Talker

    server.set_log(log)

    limits = Limits(amounts.slots, amounts.queue, amounts.deadline, alone, compute_alone())
    rules = rules_of(place, amounts)
    shared = list[Any]()
    for name, path in named.items():
        pipe = opened(path, run)
        talks = isinstance(pipe, UnifiedPipeline)
        shared.append(Talker(name, pipe, limits) if talks else Shared(name, pipe, limits))
    shown = {"fit": amounts.fit, "page": place.page, "sdapi": place.sdapi}
    options = Options(amounts.max_n, amounts.max_pixels, aliases, strict, **shown)
    state = Server(shared, options)
    return make_app(state, rules), state


def rules_of(place: Place, amounts: Amounts) -> Rules:
    """Who is let in, and with how much. Raises what `Keys.read` does."""
    from smalti.serve.guard import Keys, Rules, loopback

    hosts = place.hosts
    if not hosts and loopback(place.host):
        hosts = ("localhost", "127.0.0.1", "::1", place.host)
    return Rules(
        Keys() if place.keys is None else Keys.read(place.keys),
        hosts,
        place.cors,
        amounts.max_body << 20,
        rate=place.rate,
        share=place.share,
    )


def check_public(place: Place) -> None:
    """Raise ValueError for an address that others reach without keys, unless that is meant."""
    from smalti.serve.guard import loopback

    if place.insecure and (place.keys is not None or loopback(place.host)):
        why = f"at {place.host}" if place.keys is None else "with --keys"
        raise ValueError(f"--insecure does nothing {why}")
    if place.keys is None and not place.insecure and not loopback(place.host):
        raise ValueError(
            f"{place.host} is reached by others: give --keys FILE, or --insecure if everybody may "
            "draw here"
        )


def check_amounts(place: Place, amounts: Amounts) -> None:
    """Raise ValueError for amounts that cannot be."""
    check(
        amounts,
        positive=("slots", "queue", "max_n", "max_body", "max_pixels"),
        above_zero=("deadline",),
        amounts=("drain",),
    )
    check(place, counts=("rate", "share"))
    if amounts.replicas < 1 or (amounts.replicas > 1 and not place.ray):
        raise ValueError(f"--replicas is 1, or more with --ray, got {amounts.replicas}")


def names_of(pipelines: tuple[str, ...]) -> dict[str, str]:
    """Pipelines by name: as it is given, or the last part of a folder that says something.

    Raises ValueError for a name that two have.
    """
    found = dict[str, str]()
    for given in pipelines:
        name, equals, path = given.partition("=")
        if not equals:
            path, parts = given, [p for p in Path(given).parts if p not in ("/", ".", "pipeline")]
            name = parts[-1] if parts else "pipeline"
        if name in found:
            raise ValueError(f"two pipelines are called {name}: give NAME=PIPELINE")
        found[name] = path
    return found


def aliases_of(given: tuple[str, ...], names: dict[str, str]) -> dict[str, str]:
    """Other names of pipelines. Raises ValueError for one of a pipeline that is not there."""
    found = dict[str, str]()
    for one in given:
        other, equals, name = one.partition("=")
        if not equals or name not in names:
            raise ValueError(f"--alias is like OTHER=NAME of {', '.join(names)}, got {one!r}")
        found[other] = name
    return found
