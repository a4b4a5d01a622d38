"""Checkpoints of other projects, read without running anything that is in them.

A .pt, .pth, .bin or .ckpt file is a pickle: a program. It is read by torch's restricted reader,
which knows tensors and plain values and, because training scripts store their options and measures,
`argparse.Namespace` and the numbers of numpy. A file that asks for anything else is refused before
that is called. What a file is, its content says, not its name.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from smalti.config import read_json
from smalti.interop import formats
from smalti.progress import track

WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
"""What DDP, compile, FSDP and activation checkpoints put into the names of tensors."""
HOLDERS = (
    "model",
    "module",
    "state_dict",
    "model_state_dict",
    "net",
    "params",
    "checkpoint",
    "vae",
)
"""Where a file holds its weights: plain scripts, DeepSpeed, Lightning, and others; the first that
is there."""
AVERAGES = ("ema", "model_ema", "ema_model", "ema_state_dict", "state_dict_ema")
"""Where a file holds their moving average, or how the names of its tensors begin: LlamaGen, MAR,
Lightning."""
PARTS = ("var_wo_ddp", "vae_local")
"""Where VAR's trainer holds its transformer and its tokenizer, under "trainer"."""
SINGLE = (
    "ema_model.bin",
    "model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.safetensors",
    "diffusion_pytorch_model.safetensors",
    "model.pt",
)
"""Names of weights in a folder of the hub; the first that is there."""


CALLBACKS = (
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
    "pytorch_lightning.callbacks.early_stopping.EarlyStopping",
)
"""Classes by which early files of Lightning keep what their callbacks remember."""


class Checkpoint(NamedTuple):
    path: Path
    state: dict[str, Tensor]
    """Names without wrappers. The tensors stay in the file until they are used, where they can."""
    args: dict[str, Any]
    """Options of the script that wrote the file; {} if it does not hold them."""
    averaged: bool = False
    """Whether the weights are the moving average that the file holds beside the trained ones."""
    files: tuple[Path, ...] = ()
    """All files that were read, where they are several: an index and its shards."""
    prefix: str = ""
    """How all names began, where that was taken off them: "model."."""


def read_checkpoint(path: Path, weights: str = "model", part: str = PARTS[0]) -> Checkpoint:
    """The state dict in a safetensors file, a pickle of any usual layout, or shards with an index,
    given as the index or as their folder.

    `weights` is "model", or "ema" for the moving average that some files hold beside it, or "" for
    the average if there is one; `part` is one of `PARTS`, for files of VAR's trainer. Raises
    ValueError naming the file and the reason: missing, incomplete, not a state dict, unsafe, or
    what else it is.
    """
    files = files_of(path)
    loaded = _load(files[0]) if len(files) == 1 else _shards(files)
    if not isinstance(loaded, Mapping):
        raise ValueError(f"{path} is not a state dict but {type(loaded).__name__}")
    loaded = {name: held for name, held in loaded.items() if held is not None}
    args = loaded.get("args")
    trainer = loaded.get("trainer")
    if isinstance(trainer, Mapping) and isinstance(trainer.get(part), Mapping):
        loaded = trainer[part]
    trained, average = _held(loaded)
    if weights == "ema" and average is None:
        raise ValueError(f"{path} holds no moving average 'ema'; it has {_names(loaded)}")
    chosen = average if average is not None and (weights != "model" or not trained) else trained
    state, prefix = _state(path, loaded, chosen)
    options = vars(args) if isinstance(args, argparse.Namespace) else {}
    return Checkpoint(path, state, options, chosen is average, files, prefix)


def read_described(path: Path, weights: str = "model", part: str = PARTS[0]) -> Checkpoint:
    """A checkpoint with the settings of the config.json beside it, {} if there is none, as its
    `args`. Raises ValueError as `read_checkpoint` does, and naming a config.json that is none."""
    file = (path if path.is_dir() else path.parent) / "config.json"
    told = read_json(file) if file.is_file() else {}
    return read_checkpoint(path, weights, part)._replace(args=told)


def files_of(path: Path) -> tuple[Path, ...]:
    """The files of a checkpoint: a single one, an index and its shards, or several modules that
    were pickled whole (`interop.whole`).

    Raises ValueError if one is missing, naming it, or if a folder holds no weights.
    """
    if path.is_dir():
        indices = sorted(path.glob("*.index.json"))
        single = [path / name for name in SINGLE if (path / name).is_file()]
        if len(indices) > 1:
            names = ", ".join(p.name for p in indices)
            raise ValueError(f"{path} holds several checkpoints; give one of {names}")
        if (parts := sorted(path.glob("consolidated*.pth"))) and not (indices or single):
            return _consolidated(path, parts)
        if (pickled := sorted(path.glob("*.pkl"))) and not (indices or single):
            return tuple(pickled)
        if formats.is_ours(path) or not (indices or single):
            raise ValueError(f"{path} {formats.folder(path)}")
        path = (indices or single)[0]
    if not path.is_file():
        raise ValueError(f"{path} is not a file")
    if not path.name.endswith(".index.json"):
        return (path,)
    names = sorted(set(_weight_map(path).values()))
    shards = [path.parent / name for name in names]
    if missing := [shard.name for shard in shards if not shard.is_file()]:
        raise ValueError(
            f"{path}: {len(missing)} of {len(shards)} shards missing: {', '.join(missing)}"
        )
    return (path, *shards)


def _consolidated(folder: Path, found: list[Path]) -> tuple[Path, ...]:
    """The files of Meta's checkpoint: one, or one for each process that it was trained by."""
    numbered = [folder / f"consolidated.{i:02}.pth" for i in range(len(found))]
    if found != [folder / "consolidated.pth"] and found != numbered:
        names = ", ".join(file.name for file in found)
        raise ValueError(f"{folder} lacks files, or has too many: it has {names}")
    return tuple(found)


def sha256(path: Path) -> str:
    """The hash of a file, in hexadecimal."""
    digest, size = hashlib.sha256(), 1 << 22
    with path.open("rb") as file:
        blocks = iter(lambda: file.read(size), b"")
        total = -(-path.stat().st_size // size)
        for block in track(blocks, f"reading {path.name}", total):
            digest.update(block)
    return digest.hexdigest()


def _weight_map(index: Path) -> dict[str, str]:
    """Tensors by name to the shards that hold them."""
    try:
        found = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        plain = all(Path(shard).name == shard for shard in found.values())
    except (ValueError, KeyError, TypeError, AttributeError):
        what = formats.foreign(index)
        if "JSON" in what:
            what = "is not the index of a sharded checkpoint: it has no 'weight_map' of file names"
        raise ValueError(f"{index} {what or formats.text(index) or 'is damaged'}") from None
    if not plain or not found:
        raise ValueError(f"{index}: shards must be files beside it, got {_names(found.values())}")
    return found


def _shards(files: tuple[Path, ...]) -> dict[str, Tensor]:
    """The tensors of all shards of an index, as one state dict."""
    index, *shards = files
    loaded = {shard.name: _load(shard) for shard in shards}
    state: dict[str, Tensor] = {}
    for name, shard in _weight_map(index).items():
        held = loaded[shard]
        if not isinstance(held, Mapping) or name not in held:
            raise ValueError(f"{index.parent / shard} has no {name}, which {index.name} says")
        state[name] = held[name]
    return state


def _load(path: Path) -> Any:
    """What is in one file."""
    if formats.is_safetensors(path):
        return _safetensors(path)
    if what := formats.foreign(path):
        raise ValueError(f"{path} {what}")
    return _pickle(path)


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        what = formats.missing_bytes(path) or f"cannot be read: {error}"
        raise ValueError(f"{path} {what}") from None


def _pickle(path: Path) -> Any:
    try:
        with torch.serialization.safe_globals(_allowed()), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on pickles of another protocol, which end in an error
            if formats.is_zip(path) and path.suffix != ".safetensors":
                return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            with path.open("rb") as file:  # of a path torch reads the suffix
                return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle fails in as many ways as there are bytes
        raise ValueError(f"{path} {formats.text(path) or _reason(error)}") from None


class Named:
    """What stands for a class that a file names and does not use."""


def _allowed() -> list[Any]:
    """What a pickle may ask for beside what torch allows: none of it does anything but hold."""
    scalar: Any = np.float64(0).__reduce__()[0]
    rebuild: Any = np.zeros(0).__reduce__()[0]
    functions = [(f, f"numpy.{m}.multiarray.{f.__name__}") for f in (scalar, rebuild)
                 for m in ("core", "_core")]  # numpy 1 and 2  # fmt: skip
    numbers = [type(np.dtype(code)) for code in "?bBhHiIlLqQefdgFDGSUMm"]
    named: list[Any] = [(Named, name) for name in CALLBACKS]
    return [argparse.Namespace, *named, *functions, np.dtype, np.ndarray, *dict.fromkeys(numbers)]


def _reason(error: Exception) -> str:
    if found := re.search(r"GLOBAL ([\w.]+)", str(error)):
        return f"is refused: its pickle asks for {found[1]}, which is no tensor; nothing was run"
    text = str(error).strip().partition("\n")[0].partition(". ")[0] or "it ends too early"
    return f"is damaged or no checkpoint of torch ({type(error).__name__}: {text})"


def _held(loaded: Mapping[Any, Any]) -> tuple[Mapping[Any, Any], Mapping[Any, Any] | None]:
    """The weights as trained and their moving average, each if there is one, in what a file
    holds."""
    averages = [loaded[n] for n in AVERAGES if isinstance(loaded.get(n), Mapping) and loaded[n]]
    average = _innermost(averages[0]) if averages else None
    trained = _innermost(loaded)
    if average is None:  # of a flat file whose names say it
        begins = tuple(f"{name}." for name in AVERAGES)
        named = {k: t for k, t in trained.items() if _unwrapped(str(k)).startswith(begins)}
        if named:
            average, trained = named, {k: t for k, t in trained.items() if k not in named}
    return trained, average


def _innermost(loaded: Mapping[Any, Any]) -> Mapping[Any, Any]:
    """The mapping that holds the weights in mappings that hold mappings; FSDP's consolidated files
    are flat."""
    for name in HOLDERS:
        if isinstance(inner := loaded.get(name), Mapping):
            return _innermost(inner)
    return _flat(loaded) if _flat(loaded) and not all(map(_plain, loaded.values())) else loaded


def _flat(loaded: Mapping[Any, Any], begin: str = "", depth: int = 4) -> dict[str, Tensor]:
    """All state dicts that a mapping holds, in mappings under other names than the usual ones: as
    one whose names begin with those."""
    found: dict[str, Tensor] = {}
    for name, inner in loaded.items() if depth else ():
        if isinstance(inner, Mapping) and inner:
            named = all(isinstance(key, str) for key in inner)
            whole = named and all(map(_plain, inner.values()))
            found |= (
                {f"{begin}{name}.{key}": tensor for key, tensor in inner.items()}
                if whole
                else _flat(inner, f"{begin}{name}.", depth - 1)
            )
    return found


def _state(
    path: Path, loaded: Mapping[Any, Any], held: Mapping[Any, Any]
) -> tuple[dict[str, Tensor], str]:
    """The state dict without wrappers, and what they were where all names began with them."""
    if not held or not all(_plain(value) for value in held.values()):
        raise ValueError(f"{path} holds no state dict; it has {_names(loaded)}")
    state = {_unwrapped(str(name)): tensor.detach() for name, tensor in held.items()}
    if len(state) < len(held):
        raise ValueError(f"{path} holds some tensors twice, with wrapped and with plain names")
    begins = {re.match(rf"(?:(?:{'|'.join(WRAPPERS)})\.)*", str(name))[0] for name in held}  # type: ignore[index]
    return state, begins.pop() if len(begins) == 1 else ""


def _plain(value: Any) -> bool:
    return isinstance(value, Tensor) and value.layout == torch.strided and not value.is_meta


def _unwrapped(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def _names(loaded: Any) -> str:
    names = [str(name) for name in loaded]
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "") if names else "nothing"
