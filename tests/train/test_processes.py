"""Two processes train as one does with the same global batch."""

import json
import os
import subprocess
import sys

import pytest
import torch

from small_systems import GENERATOR, TOKENIZER
from smalti import registry
from smalti.cli import main
from smalti.storage import load_module


@pytest.mark.multi
def test_two_processes_equal_one(tmp_path):
    main(["train", "emoji_vqgan", "--out", str(tmp_path / "t"), *TOKENIZER])
    tokenizer, codes = str(tmp_path / "t" / "tokenizer"), str(tmp_path / "codes.arrow")
    main(["encode", "shapes:64", "--tokenizer", tokenizer, "--out", codes])
    command = ["train", "emoji_llamagen", "--tokenizer", tokenizer, "--codes", codes, *GENERATOR]
    # dropout is drawn by every process for itself
    command += [
        "--model.dropout",
        "0",
        "--objective.cond-dropout",
        "0",
        "--train.optim.warmup",
        "2",
    ]
    main([*command, "--out", str(tmp_path / "one")])
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
    ]
    done = subprocess.run(
        [*launch, "-m", "smalti", *command, "--out", str(tmp_path / "two")],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    one, two = (json.loads((tmp_path / n / "report.json").read_text()) for n in ("one", "two"))
    assert one["held_out_bits_per_token"] < 4  # of 16 codes: it has learned
    assert two["held_out_bits_per_token"] == pytest.approx(one["held_out_bits_per_token"], abs=1e-5)
    weights = [
        load_module(tmp_path / n / "pipeline" / "model", registry.MODELS)[0].state_dict()
        for n in ("one", "two")
    ]
    for name, value in weights[0].items():
        assert torch.allclose(weights[1][name], value, atol=1e-4), name
    steps = [json.loads(x)["step"] for x in (tmp_path / "two" / "metrics.jsonl").open()]
    assert steps == sorted(steps) and steps[-1] == 6
