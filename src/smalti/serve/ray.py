"""The same server in several processes, on one machine or many: Ray Serve starts them, gives each
request to the one that has least to do, and starts one anew that has died or is not well.

Needs the extra `ray`. Each replica loads its own pipelines and draws its own batch; what one keeps
(pictures with an address, the model that a client chose) the others do not know.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from importlib import import_module
from typing import Any

from smalti.serve.state import Server

ray: Any = import_module("ray")  # looked for by name: the checks of types do without it
serve: Any = import_module("ray.serve")

NAME, OPEN = "smalti", 512
"""Of what Ray runs; and requests that a replica has at once, most of them in its queue."""
CHECKED = 5.0
"""Seconds between two looks at how a replica is."""
STORE = 80 << 20
"""Bytes of Ray's object store on a machine of its own; no picture goes through it."""

Build = Callable[[], tuple[Any, Server]]
"""Makes the application of a replica and its state, in the replica's process."""


def deployment(build: Build, replicas: int, drain: float, gpus: float) -> Any:
    """What Ray runs: so many copies of an application, each on so many GPUs."""
    held = list[Server]()

    def app() -> Any:
        made, state = build()
        held.append(state)
        return made

    @serve.deployment(
        name=NAME,
        num_replicas=replicas,
        max_ongoing_requests=OPEN,
        health_check_period_s=CHECKED,
        graceful_shutdown_timeout_s=drain,
        ray_actor_options={"num_cpus": 1, "num_gpus": gpus},
    )
    @serve.ingress(app)
    class Replica:
        def check_health(self) -> None:
            if not all(state.well for state in held):
                raise RuntimeError("nothing is drawn, though there is something to draw")

    return Replica.bind()


def run(build: Build, host: str, port: int, replicas: int, drain: float, cpu: bool) -> None:
    """Serve until SIGTERM or SIGINT: on the cluster that RAY_ADDRESS names, or on this machine.

    Raises ValueError if there is none, or Ray does not start here.
    """
    address = os.environ.get("RAY_ADDRESS")
    alone = {"address": "local", "include_dashboard": False, "object_store_memory": STORE}
    try:
        ray.init(**({"address": address} if address else alone))
    except Exception as error:  # whatever kept it from starting
        raise ValueError(f"Ray does not start at {address or 'this machine'}: {error}") from error
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    there, ours = 0 if cpu else int(ray.cluster_resources().get("GPU", 0)), False
    if not address and 0 < there < replicas:
        raise ValueError(f"--replicas {replicas} need a GPU each, this machine has {there}")
    try:
        serve.start(http_options={"host": host, "port": port})
        ours = True
        serve.run(deployment(build, replicas, drain, min(1, there)), name=NAME, route_prefix="/")
        ended.wait()
    finally:
        if not address:
            serve.shutdown()
        elif ours:
            serve.delete(NAME)  # others may serve on that cluster
        ray.shutdown()
