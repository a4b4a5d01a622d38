"""Checkpoints whose sizes are in a `config.yaml` beside them: a folder of both, or a tar of it.

A tar may hold several such folders, "stage1" of a tokenizer and "stage2" of a generator. Of a tar
only these files are unpacked, into a temporary folder, under names of ours. YAML is read by its
safe reader, which makes plain values alone.
"""

from __future__ import annotations

import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any

import yaml

from smalti.interop.pickles import SINGLE, Checkpoint, read_checkpoint
from smalti.progress import waiting

CONFIG = "config.yaml"
TARS = (".tar", ".tar.gz", ".tgz")


def read_bundle(path: Path, weights: str = "model", part: str = "") -> Checkpoint:
    """The checkpoint of a file, of a folder or of a tar. Its `args` are what its config.yaml says,
    {} if there is none, which `told` refuses.

    `part` is how the folder is called that is wanted where a tar has several. Raises ValueError
    naming the file as `read_checkpoint` does, or if its config.yaml cannot be read.
    """
    if not path.name.endswith(TARS):
        folder = path if path.is_dir() else path.parent
        checkpoint = read_checkpoint(path, weights)
        return checkpoint._replace(args=read_config(folder / CONFIG, path))
    with unpacked(path, part) as folder:
        checkpoint = read_checkpoint(folder / SINGLE[-1], weights)
        config = read_config(folder / CONFIG, path)
    # the weights are mapped into memory, and stay there when their file is gone
    return checkpoint._replace(path=path, args=config, files=(path,))


def told(checkpoint: Checkpoint) -> dict[str, Any]:
    """What the config.yaml of a checkpoint says. Raises ValueError if there is none."""
    if not checkpoint.args:
        raise ValueError(
            f"{checkpoint.path} has no {CONFIG} beside it, which would say what its sizes are"
        )
    return checkpoint.args


def read_config(file: Path, of: Path) -> dict[str, Any]:
    """What a config.yaml says, {} if there is none. Raises ValueError, naming the checkpoint `of`,
    if it is no mapping."""
    if not file.is_file():
        return {}
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeError, yaml.YAMLError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"the {CONFIG} of {of} cannot be read: {reason}") from None
    if not isinstance(found, dict):
        raise ValueError(f"the {CONFIG} of {of} must be a mapping, got {found!r}")
    return found


@contextmanager
def unpacked(path: Path, part: str) -> Iterator[Path]:
    """A temporary folder with the checkpoint of a tar and its config.yaml, if it has one.

    Raises ValueError, naming the tar, if it has none or several of them.
    """
    with tempfile.TemporaryDirectory() as name, waiting(f"unpacking {path}"):
        try:
            with tarfile.open(path) as tar:
                _unpack(tar, path, part, Path(name))
        except (tarfile.TarError, OSError, EOFError) as error:
            raise ValueError(f"{path} cannot be unpacked: {error}") from None
        yield Path(name)


def _unpack(tar: tarfile.TarFile, path: Path, part: str, out: Path) -> None:
    """Write the checkpoint and the config.yaml of the folder that is wanted into `out`."""
    files = {PurePosixPath(m.name): m for m in tar.getmembers() if m.isfile()}
    models = [p for p in files if p.name == SINGLE[-1]]
    found = [p for p in models if part in p.parts] if len(models) > 1 else models
    if len(found) != 1:
        names = ", ".join(map(str, models)) or "none"
        raise ValueError(f"{path} must hold one {SINGLE[-1]}, or one in {part}/, got {names}")
    for name in (CONFIG, SINGLE[-1]):
        member = files.get(found[0].with_name(name))
        source: IO[bytes] | None = tar.extractfile(member) if member is not None else None
        if source is not None:
            with source, (out / name).open("wb") as target:
                shutil.copyfileobj(source, target, 1 << 22)
