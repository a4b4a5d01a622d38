"""Killed at any moment and started again with the same command, a run ends with the same bytes."""

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from small_systems import GENERATOR, TOKENIZER

pytestmark = pytest.mark.slow

PARENT = """
import contextlib, functools, importlib, json, os, pathlib, pkgutil, sys
import pyarrow.compute, torch._dynamo, smalti
with contextlib.suppress(ImportError):
    from torch.utils.tensorboard import writer
for module in pkgutil.walk_packages(smalti.__path__, "smalti."):
    if not module.name.startswith(("smalti.__main__", "smalti.serve")):
        importlib.import_module(module.name)  # all that is slow, once
with contextlib.redirect_stdout(sys.stderr), contextlib.suppress(SystemExit):
    smalti.cli.main.main(["encode", "--help"])  # and what reads a command line
coding, training = smalti.cli.coding, smalti.runs.run
coding.open_tokenizer = functools.cache(coding.open_tokenizer)
training.generator_for = functools.cache(training.generator_for)

write, calls = smalti.files._write, 0
smalti.runs.encode.EVERY = 0.0  # a part after each batch

def fatal(file, data):
    global calls
    calls += 1
    if calls == last:
        file.write(memoryview(data)[: len(data) // 2])
        os.kill(os.getpid(), 9)
    write(file, data)

def watch(event, given):
    global calls
    made = event == "open" and given[2] & (os.O_WRONLY | os.O_RDWR)
    if made or event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir"):
        calls += os.path.basename(arguments[-1]) in str(given[0])
        if calls == change:
            os.kill(os.getpid(), 9)

for line in sys.stdin:
    last, change, arguments = json.loads(line)
    if arguments[0] == "encode":  # read once
        tokenizer = coding.open_tokenizer(pathlib.Path(arguments[3]), "auto")
        training.generator_for(tokenizer.config)
    child = os.fork()
    if not child:
        if last:
            smalti.files._write = fatal
        if change:
            sys.addaudithook(watch)
        smalti.cli.main.main(arguments)
        os._exit(0)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
"""Imports once, then runs each command in a child; `last` is the write of tensors to die in, or 0;
`change` is the file or folder to die before, or 0: to open for writing, rename or remove one whose
path has the name of the output, the last argument."""


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

    def __call__(
        self, command: list[str], last: int = 0, after: float = 0.0, change: int = 0
    ) -> int:
        """The exit code of a run, killed in a write, after some seconds or before a change of its
        output's files, if asked for."""
        assert self.parent.stdin and self.parent.stdout
        print(json.dumps([last, change, command]), file=self.parent.stdin, flush=True)
        child = int(self.parent.stdout.readline())
        if after:
            time.sleep(after)
            with suppress(ProcessLookupError):  # it may be done
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


@pytest.fixture(scope="module")
def tokenizer(run: Runs, tmp_path_factory) -> Path:
    """A run that was not killed."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert run([*TRAIN, "--out", str(folder)]) == 0
    return folder


def test_a_tokenizer(run, tokenizer, tmp_path):
    killed_again_and_again(run, [*TRAIN, "--out", str(tmp_path / "k")], random.Random(0))
    assert_same(tokenizer, tmp_path / "k", ("tokenizer", "checkpoints"))


def test_a_generator(run, tokenizer, tmp_path):
    command = ["train", "emoji_llamagen", "--tokenizer", str(tokenizer / "tokenizer")]
    command += [*GENERATOR, "--train.steps", "24", "--train.save-every", "3", "--train.ema", "0.9"]
    assert run([*command, "--out", str(tmp_path / "whole")]) == 0
    killed_again_and_again(run, [*command, "--out", str(tmp_path / "k")], random.Random(2))
    assert_same(tmp_path / "whole", tmp_path / "k", ("pipeline", "checkpoints"))


@pytest.fixture(scope="module")
def codes(run: Runs, tokenizer: Path, tmp_path_factory) -> tuple[list[str], bytes]:
    """A command that encodes, but for the name of its output, and what it then writes."""
    folder = tmp_path_factory.mktemp("codes")
    command = ["encode", "shapes:33", "--tokenizer", str(tokenizer / "tokenizer"), "--out"]
    assert run([*command, str(folder / "codes.arrow")]) == 0
    return command, (folder / "codes.arrow").read_bytes()


def test_codes_before_every_change_of_a_file(run, codes, tmp_path):
    """Of two parts, when they are joined and removed."""
    command, whole = codes
    for change in itertools.count(1):
        out = tmp_path / str(change) / "codes.arrow"
        code = run([*command, str(out)], change=change)
        if code == 0:
            break
        assert code == -signal.SIGKILL
        assert run([*command, str(out)]) == 0
        assert [p.name for p in out.parent.iterdir()] == [out.name], change
        assert out.read_bytes() == whole
    assert change > 25 and out.read_bytes() == whole


def test_codes_again_and_again(run, codes, tmp_path):
    command, whole = codes
    out, chance = tmp_path / "codes.arrow", random.Random(3)
    for _ in range(8):
        code = run([*command, str(out)], after=chance.uniform(0.02, 0.2))
        assert code in (0, -signal.SIGKILL)
    assert run([*command, str(out)]) == 0
    assert out.read_bytes() == whole and [p.name for p in tmp_path.iterdir()] == [out.name]
