"""Killed at any moment and started again with the same command, a run ends with the same bytes."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from small_systems import GENERATOR, TOKENIZER
from smalti.cli import main

PARENT = """
import os, sys
import smalti.cli, smalti.recipes.run, smalti.tensorfile
from torch.utils.tensorboard import writer  # all that is slow is imported once

write, calls = smalti.tensorfile._write, 0

def fatal(file, data):
    global calls
    calls += 1
    if calls == last:
        file.write(memoryview(data)[: len(data) // 2])
        os.kill(os.getpid(), 9)
    write(file, data)

for line in sys.stdin:
    last = int(line)
    child = os.fork()
    if not child:
        if last:
            smalti.tensorfile._write = fatal
        smalti.cli.main(sys.argv[1:])
        os._exit(0)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
"""Imports once, then runs the command in a child for each line: the write to die in, or 0."""


def run_killed(command: list[str], chance: random.Random) -> tuple[int, int]:
    """Run until the command ends by itself; kills by the clock and kills in a write."""
    source = PARENT if _has_tensorboard() else PARENT.replace("from torch.utils", "# from")
    parent = subprocess.Popen(
        [sys.executable, "-c", source, *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert parent.stdin and parent.stdout
    killed = [0, 0]
    for attempt in range(40):
        in_write = attempt % 2 == 1
        last = chance.randrange(1, 40) if in_write and attempt < 6 else 0
        print(last, file=parent.stdin, flush=True)
        child = int(parent.stdout.readline())
        if not last and attempt < 6:
            time.sleep(chance.uniform(0.05, 0.6))
            os.kill(child, signal.SIGKILL)
        code = int(parent.stdout.readline())
        if code == 0:
            parent.stdin.close()
            parent.wait()
            return killed[0], killed[1]
        assert code == -signal.SIGKILL
        killed[in_write] += 1
    raise AssertionError("the run never ended")


def _has_tensorboard() -> bool:
    from importlib.util import find_spec

    return find_spec("tensorboard") is not None


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*.*") if p.is_file()}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> list[str]:
    return ["train", "emoji_vqgan", *TOKENIZER, "--train.steps", "24", "--train.save-every", "3"]


def test_a_tokenizer(tmp_path, tokenizer):
    main([*tokenizer, "--out", str(tmp_path / "whole")])
    by_clock, in_write = run_killed([*tokenizer, "--out", str(tmp_path / "k")], random.Random(0))
    assert by_clock + in_write > 2
    for part in ("tokenizer", "checkpoints"):
        assert contents(tmp_path / "k" / part) == contents(tmp_path / "whole" / part)
    whole, killed = (tmp_path / n / "report.json" for n in ("whole", "k"))
    assert killed.read_text() == whole.read_text()


def test_a_generator(tmp_path, tokenizer):
    main([*tokenizer, "--out", str(tmp_path / "t")])
    command = ["train", "emoji_llamagen", "--tokenizer", str(tmp_path / "t" / "tokenizer")]
    command += [*GENERATOR, "--train.steps", "40", "--train.save-every", "3", "--train.ema", "0.9"]
    main([*command, "--out", str(tmp_path / "whole")])
    by_clock, in_write = run_killed([*command, "--out", str(tmp_path / "k")], random.Random(2))
    assert by_clock + in_write > 2
    for part in ("pipeline", "checkpoints"):
        assert contents(tmp_path / "k" / part) == contents(tmp_path / "whole" / part)
    whole, killed = (tmp_path / n / "report.json" for n in ("whole", "k"))
    assert killed.read_text() == whole.read_text()
    lines = [(tmp_path / n / "metrics.jsonl").read_text().count("\n") for n in ("whole", "k")]
    assert lines[0] == lines[1]
