"""Training checkpoints: one folder per step, complete or absent.

A checkpoint is written under a temporary name, flushed to the disk and renamed, so a crash at any
moment leaves the last complete one. Tensors are in `state.safetensors`, everything else in
`state.json`: nothing is ever unpickled.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

_NAME = re.compile(r"step-(\d{8})")


def _split(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """Move tensors into `tensors`; the rest, as JSON, refers to them by path."""
    if isinstance(value, Tensor):
        # own storage: the safetensors format refuses tensors that share theirs
        tensors[path] = value.detach().cpu().contiguous().clone()
        return {"tensor": path}
    if isinstance(value, dict):
        return {"dict": [[k, _split(v, f"{path}/{k}", tensors)] for k, v in value.items()]}
    if isinstance(value, list | tuple):
        return {"list": [_split(v, f"{path}/{i}", tensors) for i, v in enumerate(value)]}
    return {"value": value}


def _join(node: dict[str, Any], tensors: dict[str, Tensor]) -> Any:
    ((kind, content),) = node.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {k: _join(v, tensors) for k, v in content}
    if kind == "list":
        return [_join(v, tensors) for v in content]
    return content


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def save(folder: Path, step: int, state: dict[str, Any], keep: int) -> Path:
    """Write the state of `step` and remove all but the newest `keep` checkpoints.

    `state` is made of dicts, lists, tensors and JSON values.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"step-{step:08d}"
    temporary = folder / f"{target.name}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    tensors: dict[str, Tensor] = {}
    skeleton = _split(state, "", tensors)
    save_file(tensors, temporary / "state.safetensors")
    (temporary / "state.json").write_text(json.dumps(skeleton))
    for path in temporary.iterdir():
        with open(path, "rb") as file:
            os.fsync(file.fileno())
    sync_folder(temporary)
    shutil.rmtree(target, ignore_errors=True)
    os.replace(temporary, target)
    sync_folder(folder)
    for old in found(folder)[:-keep] if keep else []:
        shutil.rmtree(old)
    return target


def found(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if _NAME.fullmatch(p.name))


def load(checkpoint: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read a checkpoint back. Raises ValueError naming it if it is damaged."""
    try:
        tensors = load_file(checkpoint / "state.safetensors", device=str(device))
        return _join(json.loads((checkpoint / "state.json").read_text()), tensors)
    except Exception as error:
        raise ValueError(
            f"checkpoint {checkpoint} cannot be read ({error}); remove it to go on from the one "
            "before"
        ) from None
