"""Projects whose released files become pipelines: `smalti convert FAMILY ...`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from smalti.interop import llamagen_files


class Family(NamedTuple):
    options: type[Any]
    """A dataclass whose fields are the command's options."""
    convert: Callable[[Any, Path], None]
    """Write what the options say as a folder."""


FAMILIES = {"llamagen": Family(llamagen_files.LlamaGenFiles, llamagen_files.convert)}
