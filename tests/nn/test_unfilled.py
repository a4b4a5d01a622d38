"""Modules without numbers."""

import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from builders import models, tokenizers
from smalti.nn.unfilled import unfilled

CASES = models() | tokenizers()


class Drawn(TorchDispatchMode):
    """The operations that draw from a normal distribution."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.found += ["normal"] if "normal" in str(func) else []
        return func(*args, **(kwargs or {}))


def fill(module: nn.Embedding) -> None:
    nn.init.normal_(module.weight, std=0.02)
    nn.init.normal_(tensor=module.weight)
    nn.init.xavier_normal_(module.weight)
    with torch.no_grad():
        assert module.weight.normal_(std=2.0) is module.weight


def test_nothing_is_drawn():
    with Drawn() as drawn:
        fill(nn.Embedding(3, 4))
    assert len(drawn.found) == 5, "it sees those of a module that is filled"
    with Drawn() as drawn, unfilled():
        fill(nn.Embedding(3, 4))
    assert drawn.found == []


def test_nothing_is_scaled_to_one_length():
    with unfilled():
        codes = torch.empty(3, 4)
        assert functional.normalize(codes, dim=-1) is codes
        assert functional.normalize(input=codes) is codes
    assert functional.normalize(torch.ones(1, 4)).tolist() == [[0.5] * 4]


@pytest.mark.parametrize("name", ["llamagen", "var", "mar", "rq_vae", "kl_vae", "vqgan"])
def test_names_shapes_and_types_are_those_of_the_module(name):
    module, config = CASES[name]
    with unfilled():
        made = module(config).state_dict()
    real = module(config).state_dict()
    assert [(k, v.shape, v.dtype) for k, v in made.items()] == [
        (k, v.shape, v.dtype) for k, v in real.items()
    ]
    assert all(tensor.is_meta for tensor in made.values())


ALL = """
import sys
from smalti import modules
from smalti.nn.unfilled import unfilled
for kind in ("MODELS", "TOKENIZERS", "TEXT", "UNIFIED", "TOWERS", "EYES"):
    entries = getattr(modules, kind)
    for name, entry in entries.items():
        with unfilled():
            modules.module_of(entry.tiny(), entries)
        assert "torch._dynamo" not in sys.modules, name
"""


@pytest.mark.slow
def test_no_module_that_is_made_so_imports_the_compiler():
    """Some operations on the meta device import all of `torch._dynamo`."""
    done = subprocess.run([sys.executable, "-c", ALL], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
