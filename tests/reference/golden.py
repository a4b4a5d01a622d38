"""Golden vectors: find the folders of a family, read them, compare, and see that every tensor is
checked.

The root is the folder named by SMALTI_GOLDEN, default ../shared/golden beside the repository. A
folder is config.json, io.safetensors and mostly weights.safetensors. Its sizes, settings and runs
are read from config.json. Outputs that a folder lacks are left out; tensors that no check knows,
and folders of which nothing is compared, fail.
"""

from __future__ import annotations

import functools
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

ROOT = Path(
    os.environ.get(
        "SMALTI_GOLDEN", Path(__file__).resolve().parents[2] / ".." / "shared" / "golden"
    )
)

SHARES = {torch.float64: 1e-10, torch.float32: 2e-5, torch.float16: 2e-3}
"""By the dtype in which a golden value was computed: the rounding of a whole network, as a share of
its largest value."""


def folders(family: str = "") -> list[Any]:
    """Parameters for `pytest.mark.parametrize("folder", folders("rar"))`, one for each folder of a
    family, or of all.

    A single skipped one, with the reason, where the root does not exist.
    """
    if not ROOT.is_dir():
        reason = f"no golden vectors: {ROOT} does not exist (set SMALTI_GOLDEN)"
        return [pytest.param(None, id="none", marks=pytest.mark.skip(reason=reason))]
    paths = [path for path, its in families(ROOT).items() if family in ("", its)]
    return [pytest.param(path, id=path.name) for path in paths]


@functools.cache
def families(root: Path) -> dict[Path, str | None]:
    """All folders of a root, in order, and of which family each is."""
    return {
        path.parent: json.loads(path.read_text(encoding="utf-8")).get("family")
        for path in sorted(root.glob("*/config.json"))
    }


def close(
    ours: Tensor, golden: Tensor, share: float | None = None, size: float | None = None
) -> None:
    """Each value is the golden one within `share` of the largest golden value.

    The default share is that of the golden dtype. `size` stands for the largest value where the
    values are differences of larger ones, or clamped.
    """
    ours = ours.detach().reshape(golden.shape)
    if not golden.is_floating_point():
        assert torch.equal(ours.to(golden.dtype), golden)
        return
    if size is None:
        finite = golden[golden.isfinite()].abs()
        size = finite.max().item() if finite.numel() else 0.0
    share = SHARES[golden.dtype] if share is None else share
    torch.testing.assert_close(ours.to(golden.dtype), golden, rtol=0, atol=share * size)


class Vectors(dict[str, Tensor]):
    """Tensors by name that remember which were read, and whether one was compared."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        super().__init__(tensors)
        self._read: set[str] = set()
        self._compared = False

    def __getitem__(self, name: str) -> Tensor:
        self._read.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        """A tensor, or the default if the folder has no such one."""
        return self[name] if name in self else default

    def runs(self, pattern: str) -> list[str]:
        """What the one group of a pattern is in the names that fit it: `gen_(.+)_tokens`."""
        fits = (re.fullmatch(pattern, name) for name in self)
        return [fit[1] for fit in fits if fit]

    def series(self, prefix: str) -> list[Tensor]:
        """The tensors prefix + 0, prefix + 1, and so on."""
        count = len(self.runs(rf"{re.escape(prefix)}(\d+)"))
        return [self[f"{prefix}{i}"] for i in range(count)]

    def check(
        self, name: str, ours: Tensor, share: float | None = None, size: float | None = None
    ) -> None:
        """`close` to the golden tensor, if the folder has it."""
        if name in self:
            self._compared = True
            try:
                close(ours, self[name], share, size)
            except AssertionError as error:
                raise AssertionError(f"{name}: {error}") from None

    def clamped(
        self, name: str, ours: Tensor, low: float, high: float, share: float | None = None
    ) -> None:
        """The same of values that are clamped behind their computation."""
        self.check(name, ours.clamp(low, high), share, ours.abs().max().item())

    def numbers(
        self,
        name: str,
        ours: float | Sequence[float],
        share: float | None = None,
        size: float | None = None,
    ) -> None:
        """The same of one or more numbers."""
        self.check(name, torch.tensor(ours, dtype=torch.float64), share, size)

    def done(self) -> None:
        """Fail if a tensor was never read, for then the test does not know it, or none compared."""
        unread = sorted(set(self) - self._read)
        assert not unread, f"golden tensors that no check has read: {', '.join(unread)}"
        assert self._compared, "the folder has no outputs, nothing was compared"


def load(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor], Vectors]:
    """(config, weights, io) of a folder; end a test with `io.done()`."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    weights = folder / "weights.safetensors"
    return (
        config,
        load_file(weights) if weights.exists() else {},
        Vectors(load_file(folder / "io.safetensors")),
    )


def float32(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights as upstream computes with them; some are stored in half precision."""
    return {k: t.float() if t.is_floating_point() else t for k, t in weights.items()}


def size_of(images: Tensor) -> tuple[int, int]:
    """Height and width of images (B, 3, H, W)."""
    return images.shape[2], images.shape[3]


def grid_of(count: int) -> tuple[int, int]:
    """A grid of so many codes where upstream has none: a square, or as near to one as it can be."""
    height = next(h for h in range(math.isqrt(count), 0, -1) if count % h == 0)
    return height, count // height
