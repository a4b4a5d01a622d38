"""Files and folders that smalti writes, and the one rule for all of them:

**smalti never deletes, replaces or moves what it did not write.**

- A file appears under its name when it is whole: it is written beside it, under a name that nobody
  else has, and renamed.
- A file that exists is replaced only if it is recognisably smalti's: a PNG by its text chunk, codes
  by their metadata, an .npz file and a report by what is in their JSON. Any other is refused, by
  name. What recognises a format stands beside what writes it (`pictures.is_own`, ...).
- A folder is written to if it is new, empty, or of the kind that is written: a pipeline over a
  pipeline, a run in its own folder. Only files that smalti writes are replaced in it; whatever else
  it holds stays as it is.
- What a killed process left behind has a name that only smalti gives, and nobody holds its lock:
  then it is removed.
- One process at a time writes to a run, a search or a file that takes long (`lock`).
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import secrets
import shutil
import socket
from collections.abc import Callable, Generator, Iterable, Mapping
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the command line checks its outputs before torch is loaded
    from torch import Tensor

LOCK = ".smalti-lock"
"""The file in a folder that says which process writes there."""
SETTINGS = "settings.json"
"""The file in a folder of parts that says what they are of."""
LEFT = re.compile(r"\..+\.[0-9a-f]{8}\.smalti-tmp")
"""Names of what is being written, or was when a process was killed."""
NAMED = 3
"""So many files are named in a complaint."""
OTHER_KINDS = (
    *(".png", ".jpg", ".jpeg", ".jfif", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif"),
    *(".npz", ".npy", ".json", ".jsonl", ".arrow", ".parquet", ".csv", ".txt", ".pdf", ".svg"),
    *(".safetensors", ".pt", ".pth", ".ckpt", ".zip"),
)
"""Endings of files, which no folder gets."""


def expand(path: str | Path) -> Path:
    """A path as a user writes it: `~` at its beginning is the home folder."""
    return Path(os.path.expanduser(path))


def _target(path: Path) -> Path:
    """The file or folder that a path names, through symbolic links; absolute."""
    return Path(os.path.realpath(path))


# -- what may be written


def check_output(path: Path, folder: bool = False) -> None:
    """Raise ValueError unless `path` can be written, as a file or as a `folder`; makes nothing.

    Asked before the work, so that the work is not lost.
    """
    if not folder and path.is_dir():
        raise ValueError(f"{path} cannot be written: it is a folder, name a file")
    target = _target(path)
    places = [target, *target.parents][0 if folder else 1 :]
    place = next(p for p in places if p.exists())
    if not place.is_dir():
        raise ValueError(f"{path} cannot be written: {place} is a file, not a folder")
    if not os.access(place, os.W_OK | os.X_OK):
        raise ValueError(f"{path} cannot be written: no permission to write in {place}")
    if folder and path.suffix.lower() in OTHER_KINDS and not path.exists():
        raise ValueError(f"{path} is to be a folder, but ends in {path.suffix}: give another name")


def check_file(path: Path, suffix: str, is_own: Callable[[Path], bool]) -> None:
    """Raise ValueError unless the file `path` ends in `suffix`, can be written, and is new or
    smalti's own."""
    check_output(path)
    if path.suffix.lower() != suffix:
        raise ValueError(f"{path} must end in {suffix}, which is what is written there")
    check_own(path, is_own)
    sweep(_target(path).parent)


def check_own(path: Path, is_own: Callable[[Path], bool]) -> None:
    """Raise ValueError if there is a file `path` that is not smalti's."""
    if os.path.lexists(path) and not is_own(path):
        raise ValueError(f"{path} exists and is not of smalti: give another name, or move it away")


def check_folder(folder: Path, mark: str, keys: Iterable[str], kind: str) -> None:
    """Raise ValueError, naming what is there, unless the folder is new, empty, or a `kind` by its
    JSON file `mark`, which has these keys."""
    check_output(folder, folder=True)
    names = contents(folder)
    if names and not is_json_of(folder / mark, keys):
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        raise ValueError(
            f"{folder} exists and is not {kind}: it holds {', '.join(names[:NAMED])}{more}. "
            "Give another folder"
        )


def contents(folder: Path) -> list[str]:
    """Names of what is in a folder, [] if there is none, without what smalti keeps for a while."""
    if not folder.is_dir():
        return []
    return sorted(n for n in os.listdir(folder) if n != LOCK and not LEFT.fullmatch(n))


def is_json_of(path: Path, keys: Iterable[str]) -> bool:
    """Whether a file holds a JSON object with all of the keys."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(values, dict) and set(keys) <= values.keys()


# -- writing


@contextlib.contextmanager
def _beside(path: Path, folder: bool) -> Generator[Path]:
    """A new file or folder beside `path`, locked, and removed in the end if it is still there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name[:50]}.{secrets.token_hex(4)}.smalti-tmp")
    temporary.mkdir() if folder else temporary.touch(exist_ok=False)
    handle = os.open(temporary, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            _try_lock(handle)
        yield temporary
    finally:
        os.close(handle)
        _remove(temporary)


def _remove(temporary: Path) -> None:
    """Remove what was written under a temporary name."""
    if temporary.is_dir():
        shutil.rmtree(temporary, ignore_errors=True)
    with contextlib.suppress(OSError):
        temporary.unlink()


@contextlib.contextmanager
def replacing(path: Path) -> Generator[Path]:
    """A name beside `path` to write to: it takes the place of `path` if all goes well, else it is
    removed. Raises OSError naming `path`, on a full disk for example.

    A symbolic link stays, and the file that it names is replaced. For files that are new or
    smalti's own; see `check_own`.
    """
    target = _target(path)
    try:
        with _beside(target, folder=False) as temporary:
            yield temporary
            os.replace(temporary, target)
    except OSError as error:
        if error.filename is not None and not LEFT.fullmatch(os.path.basename(error.filename)):
            raise  # it is about something else
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


@contextlib.contextmanager
def filling(folder: Path) -> Generator[Path]:
    """A new folder to write to. If all goes well it becomes `folder` or, where that holds
    something, its files take their places there one by one, weights before the JSON that names
    them, and what else is there stays.

    For folders that are new or smalti's own; see `check_folder`.
    """
    folder = _target(folder)
    sweep(folder.parent)
    with _beside(folder, folder=True) as temporary:
        try:
            yield temporary
        except OSError as error:
            where = str(error.filename or folder).replace(str(temporary), str(folder))
            raise OSError(error.errno, error.strerror or str(error), where) from error
        settle(temporary, folder)


def settle(temporary: Path, folder: Path) -> None:
    """Give a finished folder its name or, where that is taken, put its files there one by one."""
    if not folder.exists() or not (folder.is_symlink() or any(folder.iterdir())):
        os.replace(temporary, folder)
        return
    files = [p.relative_to(temporary) for p in temporary.rglob("*") if p.is_file()]
    for file in sorted(files, key=lambda p: (-len(p.parts), p.suffix == ".json", p)):
        (folder / file).parent.mkdir(exist_ok=True)
        os.replace(temporary / file, folder / file)
    _remove(temporary)


def write_json(path: Path, values: Any) -> None:
    """Write readable JSON in place of `path` or not at all."""
    text = json.dumps(values, indent=2, ensure_ascii=False) + "\n"
    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def sweep(folder: Path) -> None:
    """Remove what killed processes were writing in a folder; not what one is writing now."""
    names = os.listdir(folder) if folder.is_dir() else []
    for path in (folder / name for name in names if LEFT.fullmatch(name)):
        with contextlib.suppress(OSError):
            handle = os.open(path, os.O_RDONLY)
            try:
                if _try_lock(handle):
                    _remove(path)
            finally:
                os.close(handle)


def remove_files(folder: Path, *names: str) -> None:
    """Remove files whose whole names match one of the patterns, and the folder if it is then
    empty: those are smalti's, all else stays."""
    sweep(folder)
    for name in os.listdir(folder) if folder.is_dir() else []:
        if any(re.fullmatch(pattern, name) for pattern in names):
            (folder / name).unlink()
    with contextlib.suppress(OSError):
        folder.rmdir()


def begin_parts(folder: Path, settings: dict[str, Any], part: str, kind: str) -> None:
    """Make the folder of a result's parts, or keep what is in it. It says what the result is of in
    settings.json; one that holds parts and nothing else is one half removed, and they go.

    Raises ValueError, naming what is there, for a folder of something else.
    """
    if not (folder / SETTINGS).is_file():
        if all(re.fullmatch(part, name) for name in contents(folder)):
            remove_files(folder, part)
        check_folder(folder, SETTINGS, settings, kind)
        write_json(folder / SETTINGS, settings)
    sweep(folder)


# -- one process at a time


@contextlib.contextmanager
def lock(file: Path, what: Path) -> Generator[None]:
    """Be the only process that writes `what`, until the context ends or the process does.

    Raises ValueError naming the process that holds the lock `file`. Where the file system knows no
    locks there is none.
    """
    missing = [p for p in file.absolute().parents if not p.exists()]
    file.parent.mkdir(parents=True, exist_ok=True)
    handle = _hold(file, what)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            file.unlink()
        os.close(handle)
        for folder in missing:  # nothing came of them
            with contextlib.suppress(OSError):
                folder.rmdir()


def _hold(file: Path, what: Path) -> int:
    """The open file whose lock this process has from now on; it says who holds it."""
    while True:
        handle, free = os.open(file, os.O_RDWR | os.O_CREAT, 0o666), True
        with contextlib.suppress(OSError):
            free = _try_lock(handle)
        if not free:
            with open(handle) as held:
                holder = held.read().strip() or "another process"
            raise ValueError(f"{what}: {holder} is writing there; wait for it, or stop it")
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), os.stat(file)):  # else its holder removed it
                os.ftruncate(handle, 0)
                os.write(handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
                return handle
        os.close(handle)


def _try_lock(handle: int) -> bool:
    """Lock an open file unless another one holds it; the system unlocks it when it is closed.

    Raises OSError where the file system knows no locks.
    """
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


# -- safetensors

SAFETENSORS = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}
"""The format's names of the dtypes that smalti stores."""


def write_tensors(path: Path, tensors: Mapping[str, Tensor], flush: bool = True) -> None:
    """Write tensors of any device under their names; with `flush` they are on the disk after.

    The library's own writer first copies every tensor to bytes and then the file through a memory
    map; on 1.8 GB that took two to five times as long as the disk. Files are read by the library.
    Format: https://huggingface.co/docs/safetensors (an 8-byte length, a JSON header, the raw data).
    Raises OSError if the disk is full: the file is then incomplete.
    """
    import torch

    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))  # aligned
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in names:
        tensor = tensors[name]
        start, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": SAFETENSORS[str(tensor.dtype).removeprefix("torch.")],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb", buffering=0) as file:
        _write(file, len(text).to_bytes(8, "little") + text)
        for name in names:
            raw = tensors[name].detach().cpu().contiguous().flatten().view(torch.uint8)
            _write(file, raw.numpy().data)
        if flush:
            os.fsync(file.fileno())


def _write(file: FileIO, data: bytes | memoryview) -> None:
    """All of it: one call of the system writes 2 GiB at most."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]
