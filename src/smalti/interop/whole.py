"""Modules of torch that were pickled whole, with the names of their classes: their tensors alone.

Such a pickle asks for classes of the project that wrote it. Nothing of that is imported or run:
whatever a pickle asks for that torch's restricted reader does not know, a holder stands in its
place, which keeps what it is given. The state dict is then read out of the holders.
"""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from smalti.interop.pickles import Checkpoint, files_of, read_checkpoint

MOST = 64
"""Names that a pickle may ask for."""
ASKED = re.compile(r"GLOBAL ([\w.]+)")
"""What torch's reader says of a name that it does not know."""


class Held:
    """What stands in the place of any class or function: it keeps attributes and does nothing."""

    def __new__(cls, *_: Any) -> Held:
        return super().__new__(cls)

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.__dict__.update(state)


def read_modules(path: Path, weights: str = "model", part: str = "") -> Checkpoint:
    """The state dicts of modules pickled whole: of a folder of .pkl files, under the name of each,
    or of one file. A file that holds a state dict is read as any other.

    Raises ValueError naming the file and the reason, as `read_checkpoint` does.
    """
    files = files_of(path)
    if not all(file.suffix == ".pkl" for file in files):
        return read_checkpoint(path, weights, part)
    state = dict[str, Tensor]()
    for file in files:
        begin = f"{file.stem}." if path.is_dir() else ""
        state |= {begin + name: tensor for name, tensor in state_of(file).items()}
    return Checkpoint(path, state, {}, files=files)


def state_of(file: Path) -> dict[str, Tensor]:
    """The state dict of the module in one file. Raises ValueError naming the file if it holds
    none."""
    loaded = load(file)
    if not is_module(loaded):
        raise ValueError(f"{file} holds no module of torch, but {type(loaded).__name__}")
    if not (state := tensors_of(loaded)):
        raise ValueError(f"{file} holds a module of torch without tensors")
    return state


def load(file: Path) -> Any:
    """What is in a file, with holders in place of all classes that torch's reader does not know."""
    stands = list[Any]()
    while True:
        try:
            with torch.serialization.safe_globals(stands), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # on pickles of another protocol
                return torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # a damaged pickle fails in as many ways as there are bytes
            found = ASKED.search(str(error))
            name = found[1] if found is not None else ""
            stand = Held, name if "." in name else f"builtins.{name}"
            if not name or len(stands) >= MOST or stand in stands:
                raise ValueError(reason(file, error)) from None
            stands.append(stand)


def reason(file: Path, error: Exception) -> str:
    """Why a file cannot be read, as of any checkpoint."""
    if "persistent_load" in str(error):
        return f"{file} is a module as torch wrote it before 1.6; save it again with a later one"
    try:
        read_checkpoint(file)
    except ValueError as usual:
        return str(usual)
    return f"{file} cannot be read: {error}"


def is_module(held: Any) -> bool:
    """Whether this is, or stands for, a module of torch."""
    return isinstance(getattr(held, "_parameters", None), dict)


def tensors_of(module: Any, begin: str = "") -> dict[str, Tensor]:
    """Parameters and buffers of what stands for a module, and of all modules in it, by name."""
    own = module._parameters | module._buffers
    found = {begin + name: t.detach() for name, t in own.items() if isinstance(t, Tensor)}
    for name, inner in module._modules.items():
        if is_module(inner):
            found |= tensors_of(inner, f"{begin}{name}.")
    return found
