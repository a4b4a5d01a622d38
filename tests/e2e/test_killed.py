"""Killed at any moment and started again with the same command, a run ends with the same bytes."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from small_systems import GENERATOR, TOKENIZER

PARENT = """
import contextlib, json, os, sys
import smalti.cli.main, smalti.runs.run, smalti.files
with contextlib.suppress(ImportError):
    from torch.utils.tensorboard import writer  # all that is slow is imported once

write, calls = smalti.files._write, 0

def fatal(file, data):
    global calls
    calls += 1
    if calls == last:
        file.write(memoryview(data)[: len(data) // 2])
        os.kill(os.getpid(), 9)
    write(file, data)

for line in sys.stdin:
    last, arguments = json.loads(line)
    child = os.fork()
    if not child:
        if last:
            smalti.files._write = fatal
        smalti.cli.main.main(arguments)
        os._exit(0)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
"""Imports once, then runs each command in a child; `last` is the write to die in, or 0."""


class Runs:
    """Commands in processes that can be killed, on one thread: the bytes depend on their number."""

    def __init__(self) -> None:
        self.parent = subprocess.Popen(
            [sys.executable, "-c", PARENT],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )

    def __call__(self, command: list[str], last: int = 0, after: float = 0.0) -> int:
        """The exit code of a run, killed in a write or after some seconds, if asked for."""
        assert self.parent.stdin and self.parent.stdout
        print(json.dumps([last, command]), file=self.parent.stdin, flush=True)
        child = int(self.parent.stdout.readline())
        if after:
            time.sleep(after)
            os.kill(child, signal.SIGKILL)
        return int(self.parent.stdout.readline())


@pytest.fixture(scope="module")
def run() -> Iterator[Runs]:
    runs = Runs()
    yield runs
    runs.parent.kill()
    runs.parent.communicate()


def killed_again_and_again(run: Runs, command: list[str], chance: random.Random) -> None:
    """Three kills by the clock and three in a write, then to the end."""
    kills = 0
    for attempt in range(6):
        in_write = attempt % 2 == 1
        last = chance.randrange(1, 40) if in_write else 0
        code = run(command, last, 0.0 if in_write else chance.uniform(0.05, 0.6))
        assert code in (0, -signal.SIGKILL)
        kills += code != 0
    assert kills > 2
    assert run(command) == 0


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*.*") if p.is_file()}


def assert_same(whole: Path, killed: Path, parts: tuple[str, ...]) -> None:
    for part in parts:
        assert contents(killed / part) == contents(whole / part)
    assert (killed / "report.json").read_text() == (whole / "report.json").read_text()
    lines = [(r / "metrics.jsonl").read_text().count("\n") for r in (whole, killed)]
    assert lines[0] == lines[1]


TRAIN = ["train", "emoji_vqgan", *TOKENIZER, "--train.steps", "24", "--train.save-every", "3"]


def test_a_tokenizer(run, tmp_path):
    assert run([*TRAIN, "--out", str(tmp_path / "whole")]) == 0
    killed_again_and_again(run, [*TRAIN, "--out", str(tmp_path / "k")], random.Random(0))
    assert_same(tmp_path / "whole", tmp_path / "k", ("tokenizer", "checkpoints"))


def test_a_generator(run, tmp_path):
    assert run([*TRAIN, "--out", str(tmp_path / "t")]) == 0
    command = ["train", "emoji_llamagen", "--tokenizer", str(tmp_path / "t" / "tokenizer")]
    command += [*GENERATOR, "--train.steps", "40", "--train.save-every", "3", "--train.ema", "0.9"]
    assert run([*command, "--out", str(tmp_path / "whole")]) == 0
    killed_again_and_again(run, [*command, "--out", str(tmp_path / "k")], random.Random(2))
    assert_same(tmp_path / "whole", tmp_path / "k", ("pipeline", "checkpoints"))
