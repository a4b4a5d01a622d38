"""Servers side by side, of which one is killed while all draw: who asks another loses nothing."""

import signal
import threading
import time
from http.client import HTTPException

import numpy as np
import pytest

from builders import pipeline
from servers import Process, drawn_at

pytestmark = [pytest.mark.slow, pytest.mark.multi]

CLIENTS, EACH = 6, 4


def test_a_killed_server_loses_its_own_requests_alone(tmp_path):
    """Each request goes to one of two servers, and if that fails to the other."""
    pipe = pipeline("llamagen")
    pipe.save_pretrained(tmp_path / "p")
    exact = ("--dtype", "float32", "--deterministic")
    servers = [Process(str(tmp_path / "p"), *exact) for _ in range(2)]
    ports = [server.port for server in servers]
    found, lost = dict[int, np.ndarray](), list[tuple[int, int, float]]()

    def ask(client: int) -> None:
        for seed in range(client * EACH, (client + 1) * EACH):
            for turn in (client, client + 1):
                port, began = ports[turn % 2], time.monotonic()
                try:
                    found[seed] = drawn_at(port, seed)
                    break
                except (OSError, HTTPException):  # also in the middle of its answer
                    lost.append((port, seed, began))

    try:
        for server in servers:
            server.get("/ready")
        threads = [threading.Thread(target=ask, args=(i,)) for i in range(CLIENTS)]
        for thread in threads:
            thread.start()
        while len(found) < CLIENTS // 2:
            time.sleep(0.001)
        servers[0].process.kill()
        killed = time.monotonic()
        for thread in threads:
            thread.join()
        before = [seed for port, seed, began in lost if began < killed]
        print(f"{len(found)} drawn; lost: {len(before)} in flight, {len(lost) - len(before)} after")
        assert {port for port, _, _ in lost} == {ports[0]} and len(before) <= CLIENTS // 2
        for seed in range(CLIENTS * EACH):
            assert np.array_equal(found[seed], np.asarray(pipe([1], seed=seed)[0])), seed
        servers[1].process.send_signal(signal.SIGTERM)
        assert servers[1].process.wait(60) == 0
    finally:
        for server in servers:
            server.process.kill()
