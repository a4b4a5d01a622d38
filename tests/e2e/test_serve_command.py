"""`smalti serve` as people start it: a process, a port, a signal."""

import hashlib
import json
import signal
import threading
from pathlib import Path

import pytest

from builders import pipeline
from servers import Process
from small_systems import mistake
from smalti.serve.server import listen


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("served") / "shapes" / "pipeline"
    pipeline("llamagen").save_pretrained(path)
    return path


def test_a_server_answers_and_a_signal_lets_it_finish(folder, tmp_path):
    import openai  # takes a second, of all who collect tests

    keys = tmp_path / "keys"
    keys.write_text(f"anna:{hashlib.sha256(b'secret').hexdigest()}\n")
    server = Process(str(folder), "--keys", str(keys), "--log", "json", "--alias", "dall-e=shapes")
    try:
        assert json.loads(server.get("/ready")) == {"ready": True}
        client = openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key="secret")
        assert [model.id for model in client.models.list()] == ["shapes"]
        assert len(client.images.generate(prompt="2", model="dall-e", n=2).data) == 2
        metrics = server.get("/metrics").decode()
        assert 'smalti_pictures_total{outcome="done",pipeline="shapes"} 2.0' in metrics
        answers = list[object]()

        def ask() -> None:
            answers.append(client.images.generate(prompt="1", n=10))

        asking = threading.Thread(target=ask)
        asking.start()
        while not any('"POST"' in line for line in server.lines) or not busy(server):
            if not asking.is_alive():
                break
        server.process.send_signal(signal.SIGTERM)
        asking.join(60)
        assert len(answers[0].data) == 10
        assert server.process.wait(60) == 0
        lines = [json.loads(line) for line in server.lines if line.startswith("{")]
        assert {line["client"] for line in lines if line["path"].startswith("/v1")} == {"anna"}
    finally:
        server.process.kill()


def busy(server: Process) -> bool:
    return 'smalti_slots_busy{pipeline="shapes"} 0.0' not in server.get("/metrics").decode()


def test_mistakes(folder, capsys, tmp_path):
    taken = listen("127.0.0.1", 0)
    port = str(taken.getsockname()[1])
    same, key = f"a={folder}", tmp_path / "keys"
    key.write_text("anna\n")
    (tmp_path / "picture").write_bytes(b"\x89PNG\r\n\xff\xfe")
    for arguments, why in (
        ((folder, "--port", port), f"cannot listen on 127.0.0.1 port {port}"),
        ((folder, "--host", "0.0.0.0"), "is reached by others: give --keys FILE"),
        ((same, same), "two pipelines are called a"),
        ((folder, "--alias", "x=y"), "--alias is like OTHER=NAME of shapes"),
        ((folder, "--keys", key, "--port", "0"), "line 1: a key is like NAME:SHA256"),
        ((folder, "--keys", tmp_path / "picture", "--port", "0"), "picture is not text: a line of"),
        ((folder, "--port", "70000"), "port must be in [0, 65535], got 70000"),
        ((folder, "--slots", "0"), "slots must be at least 1, got 0"),
        ((folder, "--deadline", "nan"), "deadline must be a positive number, got nan"),
        ((folder, "--rate", "-1"), "rate must be 0 or more, got -1"),
        ((tmp_path / "none", "--port", "0"), "none"),
        (("smalti/none",), "there is no starter smalti/none"),
    ):
        assert why in mistake(capsys, "serve", *arguments), arguments
    taken.close()
