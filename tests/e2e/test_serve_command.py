"""`smalti serve` as people start it: a process, a port, a signal."""

import hashlib
import json
import signal
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from builders import pipeline
from servers import Process
from small_systems import mistake
from smalti.cli.main import main
from smalti.cli.running import Run
from smalti.cli.serving import Amounts, Place, application
from smalti.serve.server import listen
from smalti.serve.shared import Limits
from smalti.serve.state import Options


@pytest.fixture(autouse=True)
def no_log(monkeypatch):
    """A log would go on writing to a test's output when that is closed."""
    monkeypatch.setattr("smalti.serve.server.set_log", lambda form: None)


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


OPTIONS = (
    "--hosts a.example b.example --cors https://c.example --rate 7 --share 6 --no-page --sdapi "
    "--slots 3 --queue 5 --deadline 9.5 --max-n 2 --max-body 1 --max-pixels 77 --drain 4.5 "
    "--alias y=x --strict-model --deterministic --fit --log json"
)


def test_every_option_arrives_where_it_is_meant(folder, tmp_path, monkeypatch):
    keys, ran, made, logs = tmp_path / "keys", list[tuple](), list[tuple](), list[str]()
    keys.write_text(f"anna:{'0' * 64}\n")
    monkeypatch.setattr("smalti.serve.server.run", lambda *given: ran.append(given))
    monkeypatch.setattr("smalti.serve.server.set_log", logs.append)
    app = lambda state, rules: made.append((state, rules)) or SimpleNamespace(rules=rules)  # noqa: E731
    monkeypatch.setattr("smalti.serve.app.make_app", app)
    main(["serve", f"x={folder}", "--port", "0", "--keys", str(keys), *OPTIONS.split()])
    ((_, socket, drain, seconds, well, broken, renew),) = ran
    socket.close()
    ((state, rules),) = made
    assert rules.keys.names == {"0" * 64: "anna"} and rules.hosts == ("a.example", "b.example")
    assert (rules.origins, rules.body) == (("https://c.example",), 1 << 20)
    assert (rules.rate, rules.share) == (7, 6)
    assert state.options == Options(2, 77, {"y": "x"}, True, fit=True, page=False, sdapi=True)
    (one,), threads = state.shared, state.shared[0].limits.threads
    assert one.name == "x" and one.limits == Limits(3, 5, 9.5, True, threads) and threads
    assert (seconds, logs, well(), broken(), state.draining) == (4.5, ["json"], True, False, False)
    drain()
    assert state.draining
    keys.write_text(f"ben:{'0' * 64}\n")
    renew()
    assert rules.keys.names == {"0" * 64: "ben"}


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.9", "::1", "localhost", "0.0.0.0"])
def test_who_is_reached_from_this_machine_alone_is_called_by_its_names(folder, host):
    """Else a page whose name leads to 127.0.0.1 could read what the server answers."""
    place = Place(host=host)
    app, _ = application({"x": str(folder)}, {}, place, Amounts(), False, False, "text", Run())
    own = {"localhost", "127.0.0.1", "::1", host}
    assert set(app.rules.hosts) == (set() if host == "0.0.0.0" else own)
    assert app.rules.origins == () and app.rules.body == 64 << 20


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
