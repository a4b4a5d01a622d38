"""Checkpoints of other projects, read without running anything that is in them.

A .pt or .pth file is a pickle: a program. It is read by torch's restricted reader, which knows
tensors, plain values and, because training scripts store their options, `argparse.Namespace`. A
file that asks for anything else is refused before that is called.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from smalti.progress import track

WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
"""What DDP, compile, FSDP and activation checkpoints put into the names of tensors."""
HOLDERS = ("model", "module", "state_dict")
"""Where a file holds its weights: plain DDP scripts, DeepSpeed, Lightning."""
AVERAGES = ("ema", "model_ema")
"""Where a file holds their moving average: LlamaGen, MAR."""
PARTS = ("var_wo_ddp", "vae_local")
"""Where VAR's trainer holds its transformer and its tokenizer, under "trainer"."""


class Checkpoint(NamedTuple):
    path: Path
    state: dict[str, Tensor]
    """Names without wrappers. The tensors stay in the file until they are used, where they can."""
    args: dict[str, Any]
    """Options of the script that wrote the file; {} if it does not hold them."""
    averaged: bool = False
    """Whether the weights are the moving average that the file holds beside the trained ones."""


def read_checkpoint(path: Path, weights: str = "model", part: str = PARTS[0]) -> Checkpoint:
    """The state dict in a .safetensors file or in a pickle of any usual layout.

    `weights` is "model", or "ema" for the moving average that some files hold beside it, or "" for
    the average if there is one; `part` is one of `PARTS`, for files of VAR's trainer. Raises
    ValueError naming the file and the reason: missing, empty, damaged, not a state dict, unsafe.
    """
    if not path.is_file():
        raise ValueError(f"{path} is not a file")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty")
    loaded = _safetensors(path) if path.suffix == ".safetensors" else _pickle(path)
    if not isinstance(loaded, Mapping):
        raise ValueError(f"{path} is not a state dict but {type(loaded).__name__}")
    args = loaded.get("args")
    trainer = loaded.get("trainer")
    if isinstance(trainer, Mapping) and isinstance(trainer.get(part), Mapping):
        loaded = trainer[part]
    averages = [loaded[name] for name in AVERAGES if isinstance(loaded.get(name), Mapping)]
    average: Any = averages[0] if averages and weights != "model" else None
    if weights == "ema" and average is None:
        raise ValueError(f"{path} holds no moving average 'ema'; it has {_names(loaded)}")
    state = _state(path, loaded, average)
    options = vars(args) if isinstance(args, argparse.Namespace) else {}
    return Checkpoint(path, state, options, average is not None)


def sha256(path: Path) -> str:
    """The hash of a file, in hexadecimal."""
    digest, size = hashlib.sha256(), 1 << 22
    with path.open("rb") as file:
        blocks = iter(lambda: file.read(size), b"")
        total = -(-path.stat().st_size // size)
        for block in track(blocks, f"reading {path.name}", total):
            digest.update(block)
    return digest.hexdigest()


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None


def _pickle(path: Path) -> Any:
    with path.open("rb") as file:
        zipped = file.read(4) == b"PK\x03\x04"  # as torch has written since 1.6
    try:
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on pickles of another protocol, which end in an error
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except Exception as error:  # a damaged pickle fails in as many ways as there are bytes
        raise ValueError(f"{path} {_reason(error)}") from None


def _reason(error: Exception) -> str:
    if found := re.search(r"GLOBAL ([\w.]+)", str(error)):
        return f"is refused: its pickle asks for {found[1]}, which is no tensor; nothing was run"
    text = str(error).strip().partition("\n")[0].partition(". ")[0] or "it ends too early"
    return f"is damaged or no checkpoint of torch ({type(error).__name__}: {text})"


def _state(
    path: Path, loaded: Mapping[Any, Any], average: Mapping[Any, Any] | None
) -> dict[str, Tensor]:
    """The moving average, or else the weights as trained."""
    held = [loaded[name] for name in HOLDERS if isinstance(loaded.get(name), Mapping)]
    # FSDP's consolidated files are flat
    found = average if average is not None else held[0] if held else loaded
    if not found or not all(_plain(value) for value in found.values()):
        raise ValueError(f"{path} holds no state dict; it has {_names(loaded)}")
    state = {_unwrapped(str(name)): tensor.detach() for name, tensor in found.items()}
    if len(state) < len(found):
        raise ValueError(f"{path} holds some tensors twice, with wrapped and with plain names")
    return state


def _plain(value: Any) -> bool:
    return isinstance(value, Tensor) and value.layout == torch.strided and not value.is_meta


def _unwrapped(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def _names(loaded: Mapping[Any, Any]) -> str:
    names = [str(name) for name in loaded]
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "") if names else "nothing"
