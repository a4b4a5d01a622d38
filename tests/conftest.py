"""Makes tests/ importable (`from builders import ...`) and hypothesis repeatable.

Each process of tests computes on one thread and so do those that it starts: tests run side by side.
`OMP_NUM_THREADS=2 pytest` takes two.
"""

import functools
import gc
import os
import signal

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported, which reads it
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # whatever else the machine does

import pytest
from hypothesis import settings

from smalti.devices.threads import cpu_quota, usable_cores

settings.register_profile("smalti", deadline=None, derandomize=True)
settings.load_profile("smalti")

# in the background of a script Ctrl-C is ignored, also by all that is started from there
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config):
    """Of `-n auto`: one for each core that there is, or for two where each test starts two
    processes."""
    cores = min(usable_cores(), round(cpu_quota() or 16), 16)
    return max(1, cores // 2 if config.option.markexpr == "multi" else cores)


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Tests and what they import stay to the end: the collector of garbage, which would look at
    all of it again and again, leaves it alone."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture(scope="module")
def read_pipelines():
    """`load`, which reads each folder once in a module."""
    from smalti.loading import load

    return functools.cache(load)


@pytest.fixture
def loaded_once(read_pipelines, monkeypatch):
    """For commands that refuse their settings: all share one pipeline that was read."""
    monkeypatch.setattr("smalti.loading.load", read_pipelines)


@pytest.fixture(scope="module")
def few_resamples():
    """Intervals of a ladder's laws from 40 resamples in place of 1,000: they are made as they are
    from more."""
    from smalti.eval.scaling import study

    patch = pytest.MonkeyPatch()
    patch.setattr("smalti.eval.scaling.study", functools.partial(study, resamples=40))
    yield
    patch.undo()


@pytest.fixture(scope="module")
def float32():
    """One arithmetic on every machine."""
    patch = pytest.MonkeyPatch()
    patch.setattr("smalti.devices.named.fast_bf16", lambda device: False)
    yield
    patch.undo()


@pytest.fixture
def exact():
    """Products of float32 numbers as a CPU has them."""
    import torch

    before = torch.get_float32_matmul_precision()
    allowed = torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.set_float32_matmul_precision(before)
    torch.backends.cudnn.allow_tf32 = allowed
