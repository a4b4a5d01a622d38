"""Projects whose released files become pipelines: `smalti convert FAMILY ...`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from smalti.interop import llamagen_files, mar_files, maskgit_vqgan, rar_files, var_files
from smalti.interop.files import Repository


class Family(NamedTuple):
    options: type[Any]
    """A dataclass whose fields are the command's options."""
    convert: Callable[[Any, Path, str], None]
    """Write what the options say as a folder, given where the files are from."""
    repositories: dict[str, Repository]
    """What is published, by hub id."""


FAMILIES = {
    "llamagen": Family(
        llamagen_files.LlamaGenFiles, llamagen_files.convert, llamagen_files.REPOSITORIES
    ),
    "mar": Family(mar_files.MARFiles, mar_files.convert, {}),
    "maskgit-vqgan": Family(maskgit_vqgan.MaskGITFiles, maskgit_vqgan.convert, {}),
    "rar": Family(rar_files.RARFiles, rar_files.convert, rar_files.REPOSITORIES),
    "var": Family(var_files.VARFiles, var_files.convert, var_files.REPOSITORIES),
}
