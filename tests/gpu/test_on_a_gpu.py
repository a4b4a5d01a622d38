"""What only a GPU does, there: `pytest -m gpu`. Where there is none, the same runs on the CPU, with
its stand-ins: draws on tape, and gloo in place of NCCL."""

from contextlib import contextmanager, nullcontext
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.parallel import DistributedDataParallel

from builders import build, models, random_codes, random_cond, tokenizers
from smalti import modules
from smalti.engine import LOOPS
from smalti.engine.captured import captured, recordings
from smalti.engine.step import Request, Watch
from smalti.models import llamagen
from smalti.nn.attention import attend
from smalti.pipeline.coded import decoded
from smalti.sampling.filters import Filters
from smalti.sampling.guidance import Guidance
from smalti.sampling.noise import Noise, philox
from smalti.sampling.parallel import Parallel
from smalti.sampling.solvers import Solver
from smalti.train import compiling
from smalti.train.objectives import LikelihoodConfig
from smalti.train.optim import OptimConfig, adamw
from smalti.train.parallel import World
from smalti.train.settings import TrainConfig
from smalti.train.trainer import Trainer
from tape import taped

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("exact")]
THERE = torch.cuda.is_available()
DEVICE = torch.device("cuda" if THERE else "cpu")
RECORD = None if THERE else lambda: taped
"""What records: the device's own."""
B = 3


@pytest.fixture(autouse=True)
def as_there(monkeypatch):
    """What a CPU does otherwise in a step, as it need not be waited for: it looks whether a mask
    hides anything, checks, and takes NumPy's sort and words."""
    if not THERE:
        monkeypatch.setattr("smalti.models.mar.everywhere", lambda mask: False)
        monkeypatch.setattr("smalti.sampling.noise.random_words", philox)
        monkeypatch.setattr(Watch, "see", lambda self, draw: None)
        sorted_there = lambda logits: logits.sort(descending=True).values  # noqa: E731
        monkeypatch.setattr("smalti.sampling.filters.descending", sorted_there)


@contextmanager
def no_waiting():
    """Raises RuntimeError where the GPU is waited for."""
    if not THERE:
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def request(model, seed: int) -> Request:
    return Request(
        random_cond(model, B, seed).to(DEVICE),
        Noise.request(seed, B, 0, DEVICE),
        Guidance(2.5, "linear"),
        Filters(1.1, 12, 0.9),
        Solver(steps="3"),
    )


def drawn(model, wish: Request, record=RECORD) -> Tensor:
    with captured(model, record) as drawer:
        *_, last = (step for step in LOOPS[model.loop](drawer, wish))
    return last.drawn.clone()


@pytest.mark.parametrize("name", modules.MODELS)
def test_drawing(name, monkeypatch):
    """Recorded draws are those of the model, and no step is waited for."""
    model = build(*models()[name]).to(DEVICE)
    for seed in (1, 2):
        wish = request(model, seed)
        found = drawn(model, wish)
        assert recordings(model) > 1
        with monkeypatch.context() as patch:
            patch.setenv("SMALTI_GRAPHS", "0")
            expected = drawn(model, wish)
        if model.spec.discrete and not model.solved:
            assert torch.equal(found, expected)
        else:
            size = expected.abs().max().item()
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-3 * size)
    steps = LOOPS[model.loop](model, request(model, 3))
    first = next(steps)
    with no_waiting():
        for _ in range(first.total - 2):  # before the last one, all are checked
            next(steps)


@pytest.mark.parametrize("name", ["llamagen", "rar"])
def test_codes_that_are_drawn_ahead(name):
    """They are those that are drawn in turn; passes are recorded too."""
    model = build(*models()[name]).to(DEVICE)
    for seed in (1, 2):
        wish = request(model, seed)
        ahead = replace(wish, parallel=Parallel("exact", 4))
        assert torch.equal(drawn(model, ahead), drawn(model, wish))


@pytest.mark.parametrize("name", modules.MODELS)
def test_a_step_of_training(name):
    """Losses and gradients are those of the CPU."""
    grads = []
    for device in (DEVICE, torch.device("cpu")):
        model = build(*models()[name]).to(device)
        noise, cond = Noise.request(0, B, 0, device), random_cond(model, B).to(device)
        loss = model.loss(random_codes(model.spec, B).to(device), cond, noise=noise).mean()
        loss.backward()
        found = {n: p.grad.cpu() for n, p in model.named_parameters() if p.grad is not None}
        grads.append(found | {"loss": loss.detach().cpu()})
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", modules.TOKENIZERS)
def test_pictures(name):
    tokenizer = build(*tokenizers()[name])
    images = torch.rand(2, 3, *tokenizer.size) * 2 - 1
    with torch.inference_mode():
        codes = tokenizer.encode(images)
        exact = decoded(tokenizer, codes).float()
        found = decoded(tokenizer.to(DEVICE), codes).float().cpu()
    assert (found - exact).square().mean().sqrt() < 4  # of 255: bfloat16


class Codes:
    def batch(self, step):
        codes = random_codes(llamagen.tiny().spec, 8, seed=step % 2)
        labels, chance = torch.arange(8) % 5, (torch.arange(8) * 3 + step) % 8 / 8
        return {"codes": codes, "labels": labels, "chance": chance}

    def names(self, step):
        return [f"{step}-{i}" for i in range(8)]


def trained(run, device: torch.device, **more) -> dict[str, Tensor]:
    torch.manual_seed(0)
    model = llamagen.LlamaGen(llamagen.tiny())
    config = TrainConfig(
        steps=6, batch=8, optim=OptimConfig(lr=1e-2), eval_every=0, preview_every=0, log_every=1
    )
    objective = LikelihoodConfig(cond_dropout=0.3).objective(model, None, 0)
    Trainer(objective, Codes(), replace(config, **more), run, World(0, 1, device)).fit()
    return {n: p.detach().cpu() for n, p in model.named_parameters()}


@pytest.mark.parametrize("precision", ["fp32", "tf32", "auto"])
def test_a_run_with_compiled_blocks(tmp_path, precision, monkeypatch):
    if not THERE:
        monkeypatch.setattr(compiling, "BACKEND", "aot_eager")
    found = trained(tmp_path / "a", DEVICE, precision=precision, compile="on")
    exact = trained(tmp_path / "b", torch.device("cpu"), precision="fp32")
    apart = sum((found[n] - exact[n]).square().sum() for n in exact)
    moved = sum((exact[n] - p).square().sum() for n, p in start().items())
    assert apart < (1e-3 if precision == "fp32" else 0.3) * moved


def start() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return dict(llamagen.LlamaGen(llamagen.tiny()).named_parameters())


def test_distributed_training(tmp_path):
    """One process of NCCL: gradients are those of training alone."""
    file = f"file://{tmp_path}/rendezvous"
    dist.init_process_group("nccl" if THERE else "gloo", init_method=file, rank=0, world_size=1)
    try:
        grads = []
        for wrap in (False, True):
            torch.manual_seed(0)
            model: nn.Module = llamagen.LlamaGen(llamagen.tiny()).to(DEVICE)
            objective = LikelihoodConfig(cond_dropout=0.3).objective(model, None, 0).to(DEVICE)
            module = DistributedDataParallel(objective) if wrap else objective
            batch = {k: v.to(DEVICE) for k, v in Codes().batch(0).items()}
            module(batch, 0).totals["model"].backward()
            adamw(model, OptimConfig()).step()
            grads.append({n: p.detach() for n, p in model.named_parameters()})
        torch.testing.assert_close(*grads)
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("length", [64, 65, 129])
def test_attention_with_a_mask_is_fused(dtype, length):
    """One row of each of two heads, as a recorded step has it."""
    q, k, v = (torch.randn(4, 2, n, 64, device=DEVICE, dtype=dtype) for n in (1, length, length))
    mask = (torch.arange(length, device=DEVICE) < 40).view(1, 1, 1, -1)
    kernels = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]
    with sdpa_kernel(kernels) if THERE else nullcontext():
        found = attend(q, k, v, mask)
    exact = attend(*(t.float().cpu() for t in (q, k[:, :, :40], v[:, :, :40])))
    torch.testing.assert_close(found.float().cpu(), exact, rtol=0.02, atol=0.02)
