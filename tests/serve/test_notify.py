"""What systemd is told: the unit's protocol, spoken with a socket of the test's own."""

import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from configparser import ConfigParser
from pathlib import Path

import pytest

pytest.importorskip("fastapi")

from smalti.cli.serving import Amounts
from smalti.serve import server as serving
from smalti.serve.server import notify
from smalti.serve.state import STALLED

UNIT = Path(__file__).parents[2] / "deploy" / "smalti@.service"


class Manager:
    """The side of systemd: what it was told, and when."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address)
        self.told = list[str]()

    def next(self, seconds: float = 20.0) -> str:
        self.socket.settimeout(seconds)
        self.told.append(self.socket.recv(100).decode())
        return self.told[-1]

    def silent(self, seconds: float) -> bool:
        """Whether nothing more comes, once what was under way has."""
        end = time.monotonic() + seconds
        try:
            while (left := end - time.monotonic()) > 0:
                self.next(left)
        except TimeoutError:
            return True
        return False


@pytest.fixture
def manager(tmp_path, monkeypatch):
    found = Manager(str(tmp_path / "notify"))
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    yield found
    found.socket.close()


async def app(scope, receive, send):
    """Nothing but a beginning and an end."""
    if scope["type"] == "lifespan":
        for state in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{state}.complete"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"there"})


def served(meanwhile, well=lambda: True, broken=lambda: False, renew=None) -> list[bool]:
    """Run a server in this thread, as `smalti serve` does, and something beside it, which ends it
    with SIGTERM unless it is broken."""
    drained, failed, place = list[bool](), list[BaseException](), serving.listen("127.0.0.1", 0)

    def beside() -> None:
        try:
            meanwhile(place.getsockname()[1])
        except BaseException as error:
            failed.append(error)
        finally:
            if not broken():
                os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=beside)
    thread.start()
    try:
        serving.run(app, place, lambda: drained.append(True), 1.0, well, broken, renew)
    finally:
        thread.join()
        place.close()
    assert not failed, failed
    return drained


def test_it_is_ready_alive_and_stopping(manager, monkeypatch):
    monkeypatch.setenv("WATCHDOG_USEC", "600000")

    def meanwhile(port: int) -> None:
        assert manager.next() == "READY=1"
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10) as answer:
            assert answer.read() == b"there"  # it was ready indeed
        began = time.monotonic()
        assert [manager.next() for _ in range(3)] == ["WATCHDOG=1"] * 3
        assert time.monotonic() - began > 0.3  # at a third of the time, not at each tick

    assert served(meanwhile) == [True]
    assert manager.silent(0.2) and manager.told[-1] == "STOPPING=1"
    assert manager.told.count("READY=1") == manager.told.count("STOPPING=1") == 1


def test_one_that_is_broken_ends_as_a_failure(manager):
    """So that it is begun anew, by systemd or by Docker."""
    broken = [False]

    def meanwhile(port: int) -> None:
        assert manager.next() == "READY=1"
        broken[0] = True

    with pytest.raises(SystemExit) as ended:
        served(meanwhile, broken=lambda: broken[0])
    assert ended.value.code == 70 and manager.next() == "STOPPING=1"


def test_a_hangup_reads_again_what_may_have_changed(manager, monkeypatch):
    monkeypatch.setattr(serving.LOG, "propagate", False)
    monkeypatch.setattr(serving.LOG, "level", logging.INFO)
    told, before = list[str](), signal.getsignal(signal.SIGHUP)
    handler = logging.Handler()
    handler.emit = lambda record: told.append(record.getMessage())
    serving.LOG.addHandler(handler)
    results = iter([None, ValueError("keys holds no key"), None])

    def renew() -> None:
        if (error := next(results)) is not None:
            raise error

    def meanwhile(port: int) -> None:
        assert manager.next() == "READY=1"
        for count in range(1, 4):
            os.kill(os.getpid(), signal.SIGHUP)
            end = time.monotonic() + 20
            while len(told) < count and time.monotonic() < end:
                time.sleep(0.01)

    try:
        assert served(meanwhile, renew=renew) == [True]
    finally:
        serving.LOG.removeHandler(handler)
    again = "the keys were read again"
    assert told == [again, "nothing changes: keys holds no key", again]
    assert signal.getsignal(signal.SIGHUP) == before


def test_a_second_signal_ends_it_at_once():
    config = serving.uvicorn.Config(app)
    server = serving.Draining(config, lambda: None, lambda: True)
    ended = list[tuple[bool, bool]]()
    for _ in range(2):
        server.handle_exit(signal.SIGTERM, None)
        ended.append((server.should_exit, server.force_exit))
    assert ended == [(True, False), (True, True)]


def test_one_that_is_not_well_lets_the_watchdog_end_it(manager, monkeypatch):
    monkeypatch.setenv("WATCHDOG_USEC", "300000")
    well = [True]

    def meanwhile(port: int) -> None:
        assert [manager.next() for _ in range(2)] == ["READY=1", "WATCHDOG=1"]
        well[0] = False
        manager.silent(0.15)  # one may be under way
        assert manager.silent(0.5)  # longer than the watchdog waits

    served(meanwhile, lambda: well[0])
    assert manager.silent(0.2) and manager.told[-1] == "STOPPING=1"


def test_without_a_watchdog_it_is_not_fed(manager, monkeypatch):
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)

    def meanwhile(port: int) -> None:
        assert manager.next() == "READY=1" and manager.silent(0.5)

    served(meanwhile)


def test_names_without_a_file_and_managers_that_are_none(monkeypatch):
    name = f"smalti-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one:
        one.bind(f"\0{name}")
        one.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
        notify("READY=1")
        assert one.recv(100) == b"READY=1"
    notify("READY=1")  # nobody listens any more
    monkeypatch.delenv("NOTIFY_SOCKET")
    notify("READY=1")


def test_the_unit_says_what_the_server_does():
    unit = ConfigParser(interpolation=None, strict=False)
    unit.optionxform = str  # type: ignore[assignment]
    unit.read(UNIT)
    service = unit["Service"]
    assert service["Type"] == "notify" and int(service["WatchdogSec"]) <= STALLED
    assert int(service["TimeoutStopSec"]) >= Amounts().drain + 5
    command = service["ExecStart"].split()
    assert command[1] == "serve" and command[command.index("--port") + 1] == "%i"
    assert "--keys" in command and service["DynamicUser"] == "yes"
    assert service["ProtectSystem"] == "strict" and service["Restart"] == "on-failure"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd is installed")
def test_systemd_reads_the_unit(tmp_path):
    def said(text: str) -> str:
        unit = tmp_path / UNIT.name
        unit.write_text(text.replace("/opt/smalti/bin/smalti", sys.executable))
        command = ["systemd-analyze", "verify", str(unit)]
        return subprocess.run(command, capture_output=True, text=True).stderr

    text = UNIT.read_text()
    assert said(text) == ""
    assert "often" in said(text.replace("WatchdogSec=30", "WatchdogSec=often"))  # it does look
