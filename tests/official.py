"""Files as LlamaGen's repository publishes them, made of small models of ours."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from smalti.interop.llamagen import GPT_NAMES

OFFICIAL = {ours: theirs for theirs, ours in GPT_NAMES.items()}


def official(module: nn.Module) -> dict[str, Tensor]:
    """The state dict of one of our modules under official names."""
    return {OFFICIAL.get(name, name): tensor for name, tensor in module.state_dict().items()}


def views_of_one_storage(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors as slices of one flat tensor, as FSDP keeps them."""
    flat = torch.cat([tensor.flatten() for tensor in state.values()])
    parts = flat.split([tensor.numel() for tensor in state.values()])
    return {k: part.view_as(v) for (k, v), part in zip(state.items(), parts, strict=True)}


def wrapped(state: dict[str, Tensor], *prefixes: str) -> dict[str, Tensor]:
    return {".".join([*prefixes, name]): tensor for name, tensor in state.items()}


def other(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of the same shapes that are wrong."""
    return {name: tensor + 1 for name, tensor in state.items()}


def layouts(state: dict[str, Tensor], args: dict[str, Any]) -> dict[str, tuple[Any, list[str]]]:
    """Every layout of a file, and the options with which its weights are `state`."""
    optimizer = {"state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.ones(2)}}}
    script = {"optimizer": optimizer, "steps": 7, "args": argparse.Namespace(**args)}
    return {
        "ddp": ({"model": state, **script}, []),
        "ema": ({"model": other(state), "ema": state, **script}, ["--weights", "ema"]),
        "beside-ema": ({"model": state, "ema": other(state), **script}, []),
        "flat": (state, []),
        "flat-views": (views_of_one_storage(state), []),
        "deepspeed": ({"module": state, "global_steps": 3}, []),
        "lightning": ({"state_dict": state, "epoch": 1}, []),
        "compiled": ({"model": wrapped(state, "module", "_orig_mod")}, []),
        "wrapped": (wrapped(state, "_fsdp_wrapped_module"), []),
    }


class Runs:
    """A pickle of this makes the folder `path` when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def write(content: Any, path: Path, old: bool = False) -> Path:
    """Write a file, in the form of torch before 1.6 if `old`."""
    if path.suffix == ".safetensors":
        save_file(content, path)
    else:
        torch.save(content, path, _use_new_zipfile_serialization=not old)
    return path
