"""Threads follow a container's quota, and sleep while they wait where the cores are shared."""

import os
import subprocess
import sys

import pytest

from smalti import progress
from smalti.devices import threads

BUSY, QUIET = "1.20 0.90 0.50 2/150 999\n", "0.05 0.10 0.20 1/150 999\n"


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine of so many cores, on which torch is not loaded: its files are made from texts."""
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.setattr(threads, "_lines", [])

    def make(cores=2, usable=None, **files):
        monkeypatch.setattr(os, "cpu_count", lambda: cores)
        monkeypatch.setattr(threads, "usable_cores", lambda: usable or cores)
        for name, text in {"proc/loadavg": QUIET, **files}.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return make


def chosen(root, **environ):
    """What is in the environment afterwards, and the line that is said."""
    threads.choose(environ, root)
    return environ, threads.tell()


SLEEP = {"OMP_WAIT_POLICY": "passive", "KMP_BLOCKTIME": "0"}


def test_a_quiet_machine_is_left_alone(machine):
    assert chosen(machine()) == ({}, None)


@pytest.mark.parametrize(
    ("load", "cores"),
    [
        (BUSY, "1.2"),  # over the last minute
        ("0.10 0.10 0.20 3/150 999\n", "2.0"),  # right now, beside this process
    ],
)
def test_threads_sleep_beside_other_work(machine, load, cores):
    line = f"threads: waiting threads sleep, as other work keeps {cores} of 2 cores busy"
    assert chosen(machine(**{"proc/loadavg": load})) == (SLEEP, line)
    assert threads.tell() is None, "it is said once"


def test_work_that_has_ended_is_not_waited_for(machine):
    assert chosen(machine(**{"proc/loadavg": "1.20 0.90 0.50 1/150 999\n"})) == ({}, None)


def test_work_that_is_only_passing_is_not_waited_for(machine, monkeypatch):
    root = machine(**{"proc/loadavg": BUSY})
    file, looks = root / "proc/loadavg", threads.pauses

    def passing():
        for i, _ in enumerate(looks()):
            file.write_text(QUIET if i == 3 else BUSY)
            yield

    monkeypatch.setattr(threads, "pauses", passing)
    assert chosen(root) == ({}, None)


def test_other_work_matters_where_it_needs_our_cores(machine):
    assert chosen(machine(cores=64, usable=8, **{"proc/loadavg": BUSY})) == ({}, None)


@pytest.mark.parametrize("name", ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"])
def test_what_the_user_set_stays(machine, name):
    root = machine(**{"proc/loadavg": BUSY})
    assert chosen(root, **{name: "7"}) == ({name: "7"}, None)


CONTAINERS = {
    "v2": {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "150000 100000\n"},
    "v2, a group around it": {
        "proc/self/cgroup": "0::/a/b\n",
        "sys/fs/cgroup/a/cpu.max": "150000 100000\n",
        "sys/fs/cgroup/a/b/cpu.max": "max 100000\n",
    },
    "v1": {
        "proc/self/cgroup": "3:cpu,cpuacct:/docker/7\n0::/\n",
        "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "150000\n",
        "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
    },
    "v1, its own folder": {
        "proc/self/cgroup": "1:cpu:/job\n",
        "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
        "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        "sys/fs/cgroup/cpu/job/cpu.cfs_quota_us": "75000\n",
        "sys/fs/cgroup/cpu/job/cpu.cfs_period_us": "50000\n",
    },
}


@pytest.mark.parametrize("files", CONTAINERS.values(), ids=CONTAINERS)
def test_threads_follow_the_quota_of_a_container(machine, files):
    root = machine(cores=8, **files)
    assert threads.cpu_quota(root) == 1.5
    line = (
        "threads: 2 of 8 cores, the quota of this container; waiting threads sleep, as this "
        "container may use 1.5 cores"
    )
    assert chosen(root) == ({"OMP_NUM_THREADS": "2"} | SLEEP, line)
    assert chosen(root, OMP_NUM_THREADS="6", OMP_WAIT_POLICY="active")[1] is None


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"},
        {"proc/self/cgroup": "1:cpu:/\n", "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n"},
        {"proc/self/cgroup": "a line of another kind\n"},
        {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "900000 100000\n"},  # 9 cores
    ],
)
def test_no_quota_no_change(machine, files):
    assert chosen(machine(**files)) == ({}, None)


def test_nothing_is_set_once_torch_is_loaded(machine, monkeypatch):
    root = machine(**{"proc/loadavg": BUSY})
    monkeypatch.setitem(sys.modules, "torch", object())
    assert chosen(root) == ({}, None)


def test_it_is_said_once_where_work_takes_long(monkeypatch, capsys):
    monkeypatch.setattr(threads, "_lines", ["threads: waiting threads sleep"])
    clock = iter(range(0, 1000))  # an item takes a second
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    assert list(progress.track("ab", "short")) == ["a", "b"]
    assert capsys.readouterr().err == ""
    for _ in range(2):
        assert list(progress.track("abcdef", "long")) == list("abcdef")
    assert capsys.readouterr().err == "threads: waiting threads sleep\n"


def test_importing_smalti_chooses_before_torch_reads_it():
    script = (
        "import os; from unittest import mock\n"
        "with mock.patch('os.cpu_count', lambda: -9): import smalti\n"  # no core is free
        "print(os.environ['OMP_WAIT_POLICY'], smalti.threads.tell())"
    )
    environ = {k: v for k, v in os.environ.items() if k not in threads.WAITING}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, env=environ, timeout=60)
    assert done.stdout.startswith("passive threads: waiting threads sleep, as other work"), (
        done.stderr
    )
