"""Folders of one module: `config.json` and `model.safetensors`. Nothing is pickled."""

from __future__ import annotations

import hashlib
import shutil
import struct
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from smalti import registry
from smalti.config import from_dict, read_json, replace_folder, to_dict, write_json
from smalti.tensorfile import write_tensors


def fingerprint(module: nn.Module) -> str:
    """A hash of a module's type, configuration and weights: 16 hexadecimal digits."""
    digest = hashlib.sha256(registry.name_of(module).encode())
    digest.update(repr(sorted(to_dict(module.config).items())).encode())
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode() + str(tensor.dtype).encode())
        digest.update(struct.pack(f"{tensor.dim()}q", *tensor.shape))
        raw = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
        digest.update(memoryview(raw.numpy()))
    return digest.hexdigest()[:16]


def identity(module: nn.Module) -> dict[str, Any]:
    """What a module is, for files that depend on it: type, config and fingerprint."""
    return {
        "type": registry.name_of(module),
        "config": to_dict(module.config),
        "fingerprint": fingerprint(module),
    }


def save_module(module: nn.Module, folder: Path, **extra: Any) -> str:
    """Write a module and return its fingerprint; `extra` goes into config.json.

    The folder is complete or not there: it is made under another name and renamed.
    """
    temporary = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    write_tensors(temporary / "model.safetensors", module.state_dict())
    known = identity(module)
    write_json(temporary / "config.json", known | extra)
    replace_folder(temporary, folder)
    return known["fingerprint"]


def tokenizer_folder(folder: Path) -> Path:
    """Where the tokenizer is: in a folder of its own, or in a pipeline's."""
    inside = folder / "tokenizer"
    return inside if (inside / "config.json").is_file() else folder


def load_module(
    folder: Path,
    among: dict[str, registry.Entry],
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> tuple[Any, dict[str, Any]]:
    """A module in evaluation mode and its config.json.

    `dtype` converts the floating-point weights; None keeps the stored one. Raises ValueError naming
    the file if something is missing, damaged or of another shape.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise ValueError(f"{folder} is not a folder with a config.json")
    info = read_json(path)
    item = registry.entry(info.get("type", ""), among, str(path))
    if "config" not in info:
        raise ValueError(f"{path} has no 'config'")
    config = from_dict(item.config, info["config"], str(path))
    with torch.device("meta"):
        module = item.module(config)
    weights = folder / "model.safetensors"
    try:
        tensors = load_file(weights, device=str(device))
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{weights} cannot be read: {error}") from None
    _check(weights, module.state_dict(), tensors)
    if dtype is not None:
        tensors = {k: v.to(dtype) if v.is_floating_point() else v for k, v in tensors.items()}
    module.load_state_dict(tensors, assign=True)
    return module.eval().requires_grad_(False), info


def _check(path: Path, wanted: dict[str, Tensor], given: dict[str, Tensor]) -> None:
    missing, extra = sorted(wanted.keys() - given.keys()), sorted(given.keys() - wanted.keys())
    if missing or extra:
        raise ValueError(
            f"{path} does not fit its config.json: {len(missing)} tensors missing "
            f"{missing[:3]}, {len(extra)} unknown {extra[:3]}"
        )
    for name, tensor in wanted.items():
        if tensor.shape != given[name].shape:
            raise ValueError(
                f"{path}: {name} has shape {tuple(given[name].shape)}, "
                f"config.json asks for {tuple(tensor.shape)}"
            )
