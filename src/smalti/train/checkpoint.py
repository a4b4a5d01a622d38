"""Training checkpoints: one folder per step, complete or absent.

A checkpoint is written under a temporary name, flushed to the disk and renamed, so a crash at any
moment leaves the last complete one. Tensors are in safetensors files, everything else in
`state.json`: nothing is ever unpickled. A replicated run copies its state and writes it in a thread
(`Writer`). A sharded run writes one file per process with torch.distributed.checkpoint, which any
number of processes reads again.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import warnings
from collections import defaultdict
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch import distributed as dist

from smalti.files import remove_files, settle, write_tensors

_NAME = re.compile(r"step-(\d{8})")
_LEFT = re.compile(r"\.step-\d{8}\.smalti-tmp")
"""Names of what is being written, or was when a run was killed: the same on all processes."""
_FILES = (r"state\.json", r"state\.safetensors", r"shard-\d+-model-\d+-of-\d+\.safetensors")
"""What a checkpoint holds; anything else in its folder stays."""


def _split(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """Put tensors into `tensors`; the rest, as JSON, refers to them by path."""
    if isinstance(value, Tensor):
        tensors[path] = value.detach()
        return {"tensor": path}
    if isinstance(value, dict):
        return {"dict": [[k, _split(v, f"{path}/{k}", tensors)] for k, v in value.items()]}
    if isinstance(value, list | tuple):
        return {"list": [_split(v, f"{path}/{i}", tensors) for i, v in enumerate(value)]}
    return {"value": value}


def _join(node: dict[str, Any], tensors: Mapping[str, Any]) -> Any:
    ((kind, content),) = node.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {k: _join(v, tensors) for k, v in content}
    if kind == "list":
        return [_join(v, tensors) for v in content]
    return content


class Writer:
    """Writes the checkpoints of a run into `folder` and keeps the newest `keep`.

    Training waits while the state is copied; a thread writes the copy. One is written at a time.
    What fails there is raised by the next call of any method.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder, self.keep = folder, keep
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[Path] | None = None
        self._copies: dict[str, Tensor] = {}  # used again: fresh memory costs more than the copy

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Copy the state (dicts, lists, tensors and JSON values) and have it written."""
        self.wait()
        tensors: dict[str, Tensor] = {}
        skeleton = _split(state, "", tensors)
        copies = {name: self._copy(name, tensor) for name, tensor in tensors.items()}
        self._copies = copies
        self._pending = self._pool.submit(
            _write, self.folder, step, skeleton, copies, keep=self.keep
        )

    def _copy(self, name: str, tensor: Tensor) -> Tensor:
        copy = self._copies.get(name)
        if copy is None or copy.shape != tensor.shape or copy.dtype != tensor.dtype:
            copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
        return copy.copy_(tensor)

    def check(self) -> None:
        """Raise what has failed since the last call, if anything has."""
        if self._pending is not None and self._pending.done():
            self.wait()

    def wait(self) -> None:
        """Return when everything is on the disk. Raises OSError if it could not be written."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def close(self) -> None:
        """Wait, and end the thread; errors are raised by `wait` alone."""
        self._pool.shutdown(wait=True)


def save(folder: Path, step: int, state: dict[str, Any], keep: int) -> Path:
    """Write the state of `step` and remove all but the newest `keep` checkpoints."""
    tensors: dict[str, Tensor] = {}
    return _write(folder, step, _split(state, "", tensors), tensors, keep)


def _write(folder: Path, step: int, skeleton: Any, tensors: dict[str, Tensor], keep: int) -> Path:
    temporary = _begin(folder, step)
    try:
        write_tensors(temporary / "state.safetensors", tensors)
        return _finish(folder, step, skeleton, keep)
    except OSError as error:
        raise _failed(folder, step, error) from None


def save_sharded(folder: Path, step: int, state: dict[str, Any], keep: int) -> None:
    """Write the state of `step`, each process its own shards; called by all processes."""
    tensors: dict[str, Tensor] = {}
    skeleton = _split(state, "", tensors)
    from torch.distributed.checkpoint import state_dict_saver  # slow to import
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter

    main = not dist.is_initialized() or dist.get_rank() == 0
    temporary = _temporary(folder, step)
    try:
        if main:
            _begin(folder, step)
        _barrier()
        with warnings.catch_warnings(action="ignore"):
            writer = HuggingFaceStorageWriter(str(temporary), save_distributed=True)
            alone = not dist.is_initialized()
            state_dict_saver.save(tensors, storage_writer=writer, no_dist=alone)
        if main:
            _finish(folder, step, skeleton, keep)
    except (OSError, CheckpointException) as error:
        raise _failed(folder, step, error, main) from None
    _barrier()


def _barrier() -> None:
    if dist.is_initialized():
        dist.barrier()


def _begin(folder: Path, step: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.iterdir():
        if _LEFT.fullmatch(left.name):
            shutil.rmtree(left, ignore_errors=True)
    temporary = _temporary(folder, step)
    temporary.mkdir()
    return temporary


def _temporary(folder: Path, step: int) -> Path:
    return folder / f".step-{step:08d}.smalti-tmp"


def _finish(folder: Path, step: int, skeleton: Any, keep: int) -> Path:
    """Give a written checkpoint its name and remove the oldest of those up to it."""
    target = folder / f"step-{step:08d}"
    temporary = _temporary(folder, step)
    (temporary / "state.json").write_text(json.dumps(skeleton))
    for path in temporary.iterdir():
        _flush(path)
    _flush(temporary)
    remove_files(target, *_FILES)
    settle(temporary, target)
    _flush(folder)
    done = [path for path in found(folder) if path <= target]  # later ones were not readable
    for old in done[:-keep] if keep else []:
        remove_files(old, *_FILES)
    return target


def _flush(path: Path) -> None:
    """Onto the disk: a file, or the entries of a folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _failed(folder: Path, step: int, error: BaseException, main: bool = True) -> OSError:
    """The error for the user; what was written so far gives its space back."""
    if main:
        shutil.rmtree(_temporary(folder, step), ignore_errors=True)
    whole = found(folder)
    last = f"the last complete one is {whole[-1].name}" if whole else "there is none before it"
    return OSError(
        f"the checkpoint of step {step} cannot be written to {folder}: {_cause(error)}; {last}. "
        "Make room and give the same command again"
    )


def found(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if _NAME.fullmatch(p.name))


def load(checkpoint: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read a replicated run's checkpoint. Raises ValueError naming it if it is damaged."""
    try:
        tensors = load_file(checkpoint / "state.safetensors", device=str(device))
        return _join(json.loads((checkpoint / "state.json").read_text()), tensors)
    except Exception as error:
        raise _damaged(checkpoint, error) from None


def load_sharded(
    checkpoint: Path, places: Callable[[dict[str, Any]], dict[str, Any]]
) -> dict[str, Any]:
    """Read a sharded run's checkpoint into the tensors of the state that `places` gives for one
    with its values and None for each tensor; called by all processes.

    Returns the state with the checkpoint's other values. Raises ValueError if it is damaged.
    """
    from torch.distributed.checkpoint import state_dict_loader
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader

    tensors: dict[str, Tensor] = {}
    try:
        skeleton = json.loads((checkpoint / "state.json").read_text())
        _split(places(_join(skeleton, defaultdict(lambda: None))), "", tensors)
        with warnings.catch_warnings(action="ignore"):
            reader = HuggingFaceStorageReader(str(checkpoint))
            alone = not dist.is_initialized()
            state_dict_loader.load(tensors, storage_reader=reader, no_dist=alone)
        return _join(skeleton, tensors)
    except (Exception, CheckpointException) as error:
        raise _damaged(checkpoint, error) from None


def _cause(error: BaseException) -> BaseException:
    """What went wrong on the first process where something did."""
    failures = getattr(error, "failures", {})
    return next((cause for cause, _ in failures.values()), error)


def _damaged(checkpoint: Path, error: BaseException) -> ValueError:
    return ValueError(
        f"checkpoint {checkpoint} cannot be read ({_cause(error)}); remove it to go on from the "
        "one before"
    )
