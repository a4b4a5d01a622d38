"""Checkpoints of PyTorch Lightning as autoencoders after taming-transformers keep them.

Beside the weights they hold those of the losses, and the moving average as buffers of a module
`model_ema`, each under the name of its parameter without dots.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from smalti.interop.pickles import PARTS, Checkpoint, read_checkpoint
from smalti.progress import say

AVERAGE = "model_ema."
COUNTERS = ("decay", "num_updates")
"""What the average holds beside weights."""


def read_lightning(path: Path, weights: str = "model", part: str = PARTS[0]) -> Checkpoint:
    """A checkpoint without the weights of its losses, which is said.

    `weights` is "model", or "ema" for the moving average under the names of the parameters, or ""
    for the average if there is one. Raises ValueError as `read_checkpoint`, and for an average of
    other weights than the file's.
    """
    checkpoint = read_checkpoint(path, "model", part)
    state = {n: t for n, t in checkpoint.state.items() if not _of_loss(n)}
    if left := len(checkpoint.state) - len(state):
        say(f"{path}: {left} tensors of its training losses are left out")
    checkpoint = checkpoint._replace(state=state)
    if weights == "model":
        return checkpoint
    chosen = read_checkpoint(path, weights, part)
    if not chosen.averaged:
        return checkpoint
    held = {n.removeprefix(AVERAGE): t for n, t in chosen.state.items()}
    flat = {n: t for n, t in held.items() if n not in COUNTERS and not n.startswith("loss")}
    return checkpoint._replace(state=averaged(path, state, flat), averaged=True)


def averaged(path: Path, state: dict[str, Tensor], flat: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights by their names with those of `flat`, whose names have no dots, in their place.

    A module that the average knows nothing of keeps its own. Raises ValueError if the average has
    tensors of no name, or only some of a module's.
    """
    found = {name: key for name in state for key in _without_dots(name) if key in flat}
    strange = sorted(set(flat) - set(found.values()))
    modules = {name.partition(".")[0] for name in found}
    missing = [n for n in state if n not in found and n.partition(".")[0] in modules]
    if strange or missing or not found:
        raise ValueError(
            f"{path}: its moving average is of other weights: {len(strange)} of no name "
            f"{strange[:3]}, {len(missing)} missing {missing[:3]}"
        )
    return {name: flat[found[name]] if name in found else t for name, t in state.items()}


def _without_dots(name: str) -> tuple[str, ...]:
    """What an average may call a parameter: of the whole, or of the first module in it."""
    return name.partition(".")[2].replace(".", ""), name.replace(".", "")


def _of_loss(name: str) -> bool:
    return "loss" in name.split(".")[:2]
