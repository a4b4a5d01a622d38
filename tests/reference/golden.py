"""Golden vectors: find the folders of a family, read them, and see that every tensor is checked.

The root is the folder named by SMALTI_GOLDEN, default ../shared/golden beside the repository.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch import Tensor

ROOT = Path(
    os.environ.get(
        "SMALTI_GOLDEN", Path(__file__).resolve().parents[2] / ".." / "shared" / "golden"
    )
)


def folders(family: str) -> list[Any]:
    """Parameters for `pytest.mark.parametrize("folder", folders("rar"))`, one for each folder.

    A single skipped one, with the reason, where the root does not exist.
    """
    if not ROOT.is_dir():
        reason = f"no golden vectors: {ROOT} does not exist (set SMALTI_GOLDEN)"
        return [pytest.param(None, id="none", marks=pytest.mark.skip(reason=reason))]
    found = [
        path.parent
        for path in sorted(ROOT.glob("*/config.json"))
        if json.loads(path.read_text(encoding="utf-8")).get("family") == family
    ]
    return [pytest.param(path, id=path.name) for path in found]


class Vectors(dict[str, Tensor]):
    """Tensors by name that remember which were read."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        super().__init__(tensors)
        self._read: set[str] = set()

    def __getitem__(self, name: str) -> Tensor:
        self._read.add(name)
        return super().__getitem__(name)

    def done(self) -> None:
        """Fail if a tensor was never read: the test does not know it, so it checked nothing."""
        unread = sorted(set(self) - self._read)
        assert not unread, f"golden tensors that no check has read: {', '.join(unread)}"


def load(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor], Vectors]:
    """(config, weights, io) of a folder; end a test with `io.done()`."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    weights = folder / "weights.safetensors"
    return (
        config,
        load_file(weights) if weights.exists() else {},
        Vectors(load_file(folder / "io.safetensors")),
    )
