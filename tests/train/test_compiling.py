"""Compiled blocks train as plain ones do; only training runs them."""

from dataclasses import replace

import pytest
import torch
from test_trainer import CONFIG, Codes, assert_equal, fit, generator

from builders import build, models, random_codes
from smalti.codes import Cond
from smalti.devices.float32 import set_products
from smalti.engine import LOOPS
from smalti.engine.step import Request
from smalti.sampling.noise import Noise
from smalti.train import compiling
from smalti.train.compiling import compile_blocks, compiles

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(autouse=True)
def without_a_compiler(monkeypatch):
    """The whole of torch.compile but the making of kernels."""
    torch.compiler.reset()
    monkeypatch.setattr(compiling, "BACKEND", "aot_eager")


@pytest.mark.slow
def test_training_with_compiled_blocks_is_the_same(tmp_path):
    config, calls = replace(CONFIG, steps=3), []
    plain = fit(generator(), Codes(), tmp_path / "plain", config)
    torch._dynamo.callback_handler.register_start_callback(calls.append)
    fast = fit(generator(), Codes(), tmp_path / "fast", replace(config, compile="on"))
    assert {call.compile_id for call in calls} == {"0/0"}, "blocks are compiled, once for all"
    assert_equal(fast.objective.state_dict(), plain.objective.state_dict())


LABELS = Cond(labels=torch.arange(3))


def gradients(model) -> dict[str, torch.Tensor]:
    model.zero_grad()
    model.loss(random_codes(model.spec, 3), LABELS, noise=Noise.request(3, 3)).mean().backward()
    return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("rar", "var", "mar", "maskgit")]


@pytest.mark.parametrize("name", ["llamagen", *SLOW])
def test_gradients_of_compiled_blocks(name):
    model = build(*models()[name]).train()
    plain = gradients(model)
    assert compile_blocks(model)
    torch.testing.assert_close(gradients(model), plain)


def test_drawing_runs_plain_blocks(monkeypatch):
    model = build(*models()["llamagen"])
    compile_blocks(model)
    monkeypatch.setattr(torch._dynamo.config, "error_on_recompile", True)
    wish = Request(LABELS, Noise.request(3, 3))
    assert [step.done for step in LOOPS["causal"](model, wish)][-1] == model.spec.positions


def test_when_blocks_are_compiled(monkeypatch):
    assert compiles("on", CPU, False) and not compiles("off", CUDA, False)
    assert not compiles("auto", CPU, False) and not compiles("auto", CUDA, True)
    for there in (None, "triton"):
        monkeypatch.setattr(compiling, "find_spec", lambda name, there=there: there)
        assert compiles("auto", CUDA, False) == (there is not None)
    with pytest.raises(ValueError, match="train.compile is for train.parallel ddp, got on with"):
        compiles("on", CUDA, True)


def test_products_of_float32_on_a_gpu():
    before, cudnn = torch.get_float32_matmul_precision(), torch.backends.cudnn
    try:
        set_products(CPU, True)
        assert torch.get_float32_matmul_precision() == before and cudnn.allow_tf32
        for exact, name in ((True, "highest"), (False, "high")):
            set_products(CUDA, exact)
            assert torch.get_float32_matmul_precision() == name
            assert cudnn.allow_tf32 == (cudnn.conv.fp32_precision == "tf32") == (not exact)
    finally:
        torch.set_float32_matmul_precision(before)
        cudnn.allow_tf32 = True
