"""Several processes behind one address, by Ray Serve: one is killed while all draw."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from builders import pipeline
from servers import drawn_at, same

pytest.importorskip("ray")

pytestmark = [pytest.mark.slow, pytest.mark.multi]

CLIENTS, EACH = 6, 4


def replicas() -> list[int]:
    """The processes of all replicas on this machine, by what Ray calls them."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            line = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if folder.name.isdecimal() and line.startswith(b"ray::ServeReplica:smalti"):
            found.append(int(folder.name))
    return found


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def ready(port: int, process: subprocess.Popen) -> None:
    end = time.monotonic() + 480
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=5):
                return
        except OSError:
            time.sleep(1)
    raise AssertionError("Ray did not start the server")


def test_a_killed_replica_loses_its_own_requests_alone(tmp_path):
    pipe = pipeline("llamagen")
    pipe.save_pretrained(tmp_path / "p")
    port = free_port()
    command = [sys.executable, "-m", "smalti", "serve", str(tmp_path / "p"), "--ray"]
    command += ["--replicas", "2", "--port", str(port), "--device", "cpu"]
    command += ["--dtype", "float32"]
    environment = os.environ | {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_raylet_start_wait_time_s": "300",
    }
    process = subprocess.Popen(command, env=environment)
    try:
        ready(port, process)
        first = replicas()
        assert len(first) == 2
        expected = {seed: np.asarray(pipe([1], seed=seed)[0]) for seed in range(CLIENTS * EACH)}
        outcome = dict[int, tuple[float, object]]()

        def ask(client: int) -> None:
            for seed in range(client * EACH, (client + 1) * EACH):
                began = time.monotonic()
                try:
                    outcome[seed] = (began, drawn_at(port, seed))
                except (OSError, urllib.error.HTTPError) as error:
                    outcome[seed] = (began, error)

        threads = [threading.Thread(target=ask, args=(i,)) for i in range(CLIENTS)]
        for thread in threads:
            thread.start()
        while len(outcome) < CLIENTS:
            time.sleep(0.01)
        os.kill(first[0], signal.SIGKILL)
        killed = time.monotonic()
        for thread in threads:
            thread.join()
        drawn = {s: found for s, (_, found) in outcome.items() if isinstance(found, np.ndarray)}
        lost = {s: (began - killed, e) for s, (began, e) in outcome.items() if s not in drawn}
        print(f"{len(drawn)} drawn, lost: {lost}")
        assert len(lost) < CLIENTS and all(began < 1 for began, _ in lost.values()), lost
        assert all(same(expected[s], image) for s, image in drawn.items())
        end = time.monotonic() + 60
        while len(replicas()) < 2 and time.monotonic() < end:
            time.sleep(0.5)
        assert len(replicas()) == 2 and first[1] in replicas()  # one anew, beside the other
        assert same(drawn_at(port, 0), expected[0])
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0 and replicas() == []
    finally:
        if process.poll() is None:
            process.terminate()  # Ray ends its own processes
            process.wait(60)
