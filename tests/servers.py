"""Servers of tiny pipelines on real sockets, and what asks them."""

import base64
import http.client
import io
import json
import os
import re
import subprocess
import sys
import threading
import time
import urllib.request
from typing import Any

import numpy as np
import uvicorn
from PIL import Image

from smalti.serve.guard import Guard
from smalti.serve.server import Timed, listen
from smalti.serve.state import Server


class Running:
    """A server in a thread of its own."""

    def __init__(self, state: Server, app: Guard) -> None:
        self.state, self.lines = state, []
        write = app.log
        app.log = lambda line: (self.lines.append(line), write(line))
        place = listen("127.0.0.1", 0)
        self.port = place.getsockname()[1]
        config = uvicorn.Config(app, http=Timed, log_level="critical", timeout_graceful_shutdown=1)
        self.server = uvicorn.Server(config)
        run = lambda: self.server.run([place])  # noqa: E731
        self.thread = threading.Thread(target=run, daemon=True)
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(20)

    def ask(
        self, method: str, path: str, body: Any = None, **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of an answer; a body that is no text or bytes is JSON."""
        place = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if body is not None and not isinstance(body, str | bytes):
            body, sent = json.dumps(body), {"content-type": "application/json"} | sent
        place.request(method, path, body, sent)
        answer = place.getresponse()
        found = (answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        place.close()
        return found

    def logged(self, identity: str) -> dict:
        """The line of a request, which is written when its answer has been sent."""
        for _ in range(200):
            if found := [line for line in self.lines if line["request"] == identity]:
                return found[0]
            time.sleep(0.01)
        raise AssertionError(f"nothing is said of {identity}")

    def error(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, dict]:
        """Status and error of an answer that is one."""
        status, _, text = self.ask(method, path, body, **headers)
        return status, json.loads(text)["error"]

    def generate(self, **fields: Any) -> list[dict]:
        """The pictures of a request that succeeds."""
        status, _, text = self.ask("POST", "/v1/images/generations", {"prompt": "0"} | fields)
        assert status == 200, text[:300]
        return json.loads(text)["data"]


def opened(b64: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(b64)))


def png(image: Image.Image) -> bytes:
    data = io.BytesIO()
    image.save(data, "PNG")
    return data.getvalue()


class Process:
    """A server in a process of its own; what it writes."""

    def __init__(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "smalti", "serve", "--port", "0", *arguments]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stderr=pipe, text=True, env={**os.environ})
        self.lines = list[str]()
        self.port = 0
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line.strip())
            if found := re.search(r"serving .* at http://127.0.0.1:(\d+)/", line):
                self.port = int(found[1])
                break
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        self.lines += [line.strip() for line in self.process.stderr]

    def get(self, path: str) -> bytes:
        for _ in range(300):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}") as answer:
                    return answer.read()
            except ConnectionError:
                time.sleep(0.05)
        raise AssertionError("it does not answer")


def drawn_at(port: int, seed: int) -> np.ndarray:
    """A picture of a class, from the server at a port."""
    body = json.dumps({"prompt": "1", "seed": seed}).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/images/generations",
        body,
        {"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        (datum,) = json.load(answer)["data"]
    return np.asarray(opened(datum["b64_json"]))


def same(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two pictures are of the same codes; those of a batch are rounded by themselves."""
    return np.abs(one.astype(int) - other.astype(int)).max() <= 1
