"""Two processes train as one does with the same global batch, replicated or sharded."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed as dist
from torch.multiprocessing.spawn import spawn

from builders import build, models, random_codes
from processes import launch
from small_systems import GENERATOR, TOKENIZER, TRAIN
from smalti import modules
from smalti.cli.main import main
from smalti.models.transfusion import Transfusion
from smalti.models.transfusion import tiny as transfusion_tiny
from smalti.modules import load_module
from smalti.text.sequence import Part, packed
from smalti.train import checkpoint
from smalti.train.base import Objective
from smalti.train.joint import JointConfig, batch_of
from smalti.train.objectives import Likelihood, LikelihoodConfig
from smalti.train.optim import OptimConfig
from smalti.train.parallel import World
from smalti.train.settings import TrainConfig
from smalti.train.trainer import Trainer

pytestmark = pytest.mark.multi

SHARDED = ["--train.parallel", "fsdp", "--train.recompute"]


@pytest.fixture(scope="module")
def command(tmp_path_factory) -> list[str]:
    """A generator's run, without dropout: that is drawn by every process for itself."""
    work = tmp_path_factory.mktemp("work")
    main(["train", "emoji_vqgan", "--out", str(work / "t"), *TOKENIZER])
    tokenizer, codes = str(work / "t" / "tokenizer"), str(work / "codes.arrow")
    main(["encode", "shapes:64", "--tokenizer", tokenizer, "--out", codes])
    options = "--model.dropout 0 --train.optim.warmup 2 --train.log-every 1 --train.ema 0.9"
    return [
        *["train", "emoji_llamagen", "--tokenizer", tokenizer, "--codes", codes, *GENERATOR],
        *options.split(),
    ]


@pytest.fixture(scope="module")
def one(command, tmp_path_factory):
    run = tmp_path_factory.mktemp("one") / "run"
    main([*command, "--out", str(run)])
    return run


@pytest.fixture(scope="module", params=["ddp", "fsdp"])
def two(request, command, tmp_path_factory):
    run = tmp_path_factory.mktemp(request.param) / "run"
    options = SHARDED if request.param == "fsdp" else []
    launch(2, *command, *options, "--out", str(run))
    return run, options


def test_ctrl_c_stops_both_at_one_step_with_a_checkpoint(command, tmp_path):
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    long = ["--train.steps", "1000000", "--train.save-every", "1000000"]
    started = subprocess.Popen(
        [*run, "-m", "smalti", *command, *long, "--out", str(tmp_path / "run")],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    metrics = tmp_path / "run" / "metrics.jsonl"
    while started.poll() is None and not (
        metrics.is_file() and metrics.read_text().count("\n") > 5
    ):
        time.sleep(0.1)
    started.send_signal(signal.SIGINT)
    started.wait(timeout=60)
    (saved,) = checkpoint.found(tmp_path / "run" / "checkpoints")
    step = checkpoint.load(saved)["step"]
    assert saved.name == f"step-{step:08d}" and 5 < step < 1000000
    assert len(losses(tmp_path / "run")) == step


def test_a_text_encoder_learns_with_a_sharded_generator(command, tmp_path):
    """Captions, LoRA's frozen weights and a second module of blocks, in shards and in one piece."""
    begun = ["train", "shapes_t2i", *command[2:6], *GENERATOR]
    begun += "--text.length 12 --text.dim 16 --text.layers 1 --text.heads 2".split()
    begun += "--train.optim.warmup 2 --train.log-every 1".split()
    main([*begun, "--out", str(tmp_path / "one")])
    launch(2, *begun, *SHARDED, "--out", str(tmp_path / "two"))
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=1e-5)
    lora = ["--init", str(tmp_path / "one" / "pipeline"), "--lora.rank", "2"]
    main([*begun, *lora, "--out", str(tmp_path / "one-lora")])
    launch(2, *begun, *lora, *SHARDED, "--out", str(tmp_path / "two-lora"))
    assert_alike(tmp_path / "two-lora", tmp_path / "one-lora")


def test_a_tokenizer_of_several_scales(tmp_path):
    """Warm-up, k-means over the latents of both processes, restarts, and meters of every scale."""
    sizes = "--model.channels 8 --model.vocab 16 --model.dim 4 --model.size 16 16".split()
    care = "--objective.codebook.warmup 2 --objective.codebook.patience 3".split()
    begun = ["train", "emoji_msvqvae", "--data.source", "shapes:64", *sizes, *care, *TRAIN]
    begun += "--model.scales 1 1 2 2 4 4 --train.steps 16 --train.log-every 1".split()
    main([*begun, "--out", str(tmp_path / "one")])
    launch(2, *begun, "--out", str(tmp_path / "two"))
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert two[:2] == pytest.approx(one[:2], abs=1e-5)  # k-means sees its rows in another order
    assert two[2:] == pytest.approx(one[2:], rel=0.2)
    report = json.loads((tmp_path / "two" / "report.json").read_text())
    assert report["held_out_usage_4x4"] > 0.3 and report["held_out_usage"] > 0.5


@pytest.mark.parametrize("shared", ["--model.shared", "--model.no-shared"])
def test_a_tokenizer_of_several_depths(shared, tmp_path):
    """Averages over the latents of both processes; without restarts the order of rows is all that
    is another."""
    sizes = "--model.channels 8 --model.vocab 16 --model.dim 4 --model.size 16 16".split()
    care = "--objective.codebook.no-kmeans --objective.codebook.patience 0".split()
    begun = ["train", "emoji_rq", "--data.source", "shapes:64", *sizes, *care, shared, *TRAIN]
    begun += "--train.steps 12 --train.log-every 1".split()
    main([*begun, "--out", str(tmp_path / "one")])
    launch(2, *begun, "--out", str(tmp_path / "two"))
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert two == pytest.approx(one, rel=1e-3)
    tables = [
        load_module(tmp_path / run / "tokenizer", modules.TOKENIZERS)[0].quantize.embedding.weight
        for run in ("one", "two")
    ]
    torch.testing.assert_close(tables[1], tables[0], rtol=0, atol=1e-2)


def test_orders_and_scales_in_shards(command, tmp_path):
    """RAR's orders belong to the items; VAR's quantizer is frozen and stays whole."""
    small = "--model.layers 1 --model.heads 2 --model.dim 16 --model.dropout 0".split()
    steps = "--train.steps 6 --train.log-every 1 --train.optim.warmup 2".split()
    rar = ["train", "emoji_rar", *command[2:6], *small, "--model.ffn-dim", "16", *steps, *TRAIN]
    rar += "--objective.random-until 2 --objective.random-end 5".split()
    scales = "--model.channels 8 --model.vocab 16 --model.dim 4 --model.size 16 16".split()
    scales += "--model.scales 1 1 2 2 4 4 --objective.codebook.warmup 2".split()
    source = ["--data.source", "shapes:64", *steps, *TRAIN]
    main(["train", "emoji_msvqvae", *source, *scales, "--out", str(tmp_path / "t")])
    var = ["train", "emoji_var", "--tokenizer", str(tmp_path / "t" / "tokenizer"), *small, *source]
    var += "--model.scales 1 1 2 2 4 4 --model.drop-path 0".split()
    for name, run in (("rar", rar), ("var", var)):
        main([*run, "--out", str(tmp_path / name / "one")])
        launch(2, *run, *SHARDED, "--out", str(tmp_path / name / "two"))
        one, two = (losses(tmp_path / name / part) for part in ("one", "two"))
        assert two == pytest.approx(one, abs=1e-5)
        models = (tmp_path / name / part / "pipeline" / "model" for part in ("one", "two"))
        a, b = (load_module(folder, modules.MODELS)[0].state_dict() for folder in models)
        for key, value in a.items():
            assert torch.allclose(b[key], value, atol=1e-4), key


class Share:
    """A batch of eight items at every step, or a process's share of it."""

    def __init__(self, batch: dict[str, torch.Tensor], rank: int = 0, size: int = 1) -> None:
        here = slice(rank * 8 // size, (rank + 1) * 8 // size)
        self.here = {name: values[here] for name, values in batch.items()}

    def batch(self, step: int) -> dict[str, torch.Tensor]:
        return self.here

    def names(self, step: int) -> list[str]:
        return []


def coded(name: str) -> tuple[Objective, dict[str, torch.Tensor]]:
    model = build(*models()[name])
    batch = {"codes": random_codes(model.spec, 8), "chance": torch.ones(8)}
    return Likelihood(model, LikelihoodConfig(0.0)), batch | {"labels": torch.arange(8) % 5}


def joined() -> tuple[Objective, dict[str, torch.Tensor]]:
    """Rows with more text and fewer pictures in the second half."""
    torch.manual_seed(0)
    model = Transfusion(transfusion_tiny())
    for parameter in model.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    rows = list[list[list[Part]]]()
    for i in range(8):
        drawn = Part(torch.randn(model.spec.empty(1)[0].shape), model.spec)
        rows.append([[Part(torch.arange(i + 2)), *([drawn] if i % 3 == 0 else [])]])
    made = batch_of(packed(rows, model.wrapping))
    return JointConfig(over="kinds").objective(model), made | {"shuffle": torch.arange(8)}


TOLD = {
    "ibq": lambda: coded("ibq"),
    "ibq-shared": lambda: coded("ibq-shared"),
    "transfusion": joined,
}


def learn(name: str, parallel: Any, run: str, rank: int = 0, size: int = 1) -> None:
    objective, batch = TOLD[name]()
    optim = OptimConfig(lr=1e-2, eps=1e-3)  # so that small gradients count as they are
    config = TrainConfig(
        3, 8, optim=optim, precision="fp32", log="none", log_every=1, parallel=parallel
    )
    world = World(rank, size, torch.device("cpu"))
    Trainer(objective.train(), Share(batch, rank, size), config, Path(run), world).fit()


def process(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    for name in TOLD:
        for parallel in ("ddp", "fsdp"):
            learn(name, parallel, f"{folder}/{name}-{parallel}", rank, 2)
    dist.destroy_process_group()


def test_what_blocks_do_beside_their_forward_and_unequal_shares(tmp_path):
    """IBQ's classes modulate layers before these run; Transfusion's layers mix what others gave,
    and processes have other numbers of words and pictures."""
    spawn(process, (str(tmp_path),), nprocs=2)
    for name in TOLD:
        learn(name, "ddp", str(tmp_path / name))
        for parallel in ("ddp", "fsdp"):
            found = [numbers(tmp_path / run) for run in (f"{name}-{parallel}", name)]
            assert len(found[0]) == 6 and found[0] == pytest.approx(found[1], rel=1e-4), parallel


def numbers(run) -> list[float]:
    """Losses and norms of gradients."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").open()]
    return [row[name] for row in rows for name in ("loss", "grad_norm_model")]


def losses(run) -> list[float]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").open()]
    assert [r["step"] for r in rows] == sorted(r["step"] for r in rows)
    return [r["loss"] for r in rows if "loss" in r]


def assert_alike(run, one) -> None:
    assert losses(run) == pytest.approx(losses(one), abs=1e-5)
    a, b = (json.loads((r / "report.json").read_text()) for r in (run, one))
    assert b["held_out_bits_per_token"] < 4  # of 16 codes: it has learned
    assert a["held_out_bits_per_token"] == pytest.approx(b["held_out_bits_per_token"], abs=1e-5)
    a, b = (
        load_module(r / "pipeline" / "model", modules.MODELS)[0].state_dict() for r in (run, one)
    )
    for name, value in b.items():
        assert torch.allclose(a[name], value, atol=1e-4), name


def cut(run, folder):
    """The run as it was after its checkpoint of step 4 of 6."""
    shutil.copytree(run, folder)
    shutil.rmtree(folder / "pipeline")
    shutil.rmtree(folder / "checkpoints" / "step-00000006")
    (folder / "report.json").unlink()
    assert (folder / "checkpoints" / "step-00000004").is_dir()
    return folder


def test_two_processes_equal_one(two, one):
    run, options = two
    assert_alike(run, one)
    shards = list((run / "checkpoints" / "step-00000006").glob("shard-*.safetensors"))
    assert len(shards) == (2 if options else 0)


def test_one_process_goes_on_where_two_were(two, one, command, tmp_path):
    run, options = two
    resumed = cut(run, tmp_path / "run")
    main([*command, *options, "--out", str(resumed)])
    assert_alike(resumed, one)


def test_two_processes_go_on_where_one_was(one, command, tmp_path):
    resumed = cut(one, tmp_path / "run")
    launch(2, *command, "--out", str(resumed))
    assert_alike(resumed, one)
