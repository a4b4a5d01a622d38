"""Weights of the networks that measure: downloaded once, read without running them, checked."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor

MARKS = {
    "AuxLogits.fc.weight": "torchvision's Inception",
    "layer1.0.conv1.weight": "a ResNet",
    "features.0.weight": "AlexNet or a VGG",
    "Conv2d_1a_3x3.conv.weight": "an Inception",
}
"""Networks by a tensor that only they have; the first one counts."""


class Released(NamedTuple):
    """A published file."""

    home: str
    """OWNER/NAME on the Hugging Face hub, or the address of the folder."""
    name: str
    sha256: str


def fetch(file: Released) -> Path:
    """The file, from the cache of the hub or of torch once it was downloaded.

    Raises OSError if it cannot be had, and ValueError if it is another one.
    """
    try:
        path = _download(file)
    except Exception as error:  # of the network, the hub, and a dozen kinds of its client
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise OSError(f"{file.home}/{file.name} cannot be had: {reason}") from None
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != file.sha256:
        raise ValueError(
            f"{path} of {file.home} has sha256 {digest}, expected {file.sha256}; "
            "delete it to download it again"
        )
    return path


def _download(file: Released) -> Path:
    if "://" not in file.home:
        from huggingface_hub import hf_hub_download

        return Path(hf_hub_download(file.home, file.name))
    path = Path(torch.hub.get_dir()) / "checkpoints" / file.name
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(f"{file.home}/{file.name}", str(path), progress=False)
    return path


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file, or of a pickle by torch's restricted reader.

    Raises OSError if there is no file, and ValueError if it holds anything else.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file fails in as many ways as there are bytes
        raise ValueError(
            f"{path} holds no weights that can be read ({type(error).__name__})"
        ) from None
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ValueError(f"{path} holds no weights but {type(state).__name__}")
    return dict(state)


def check(
    state: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], path: Path, what: str
) -> None:
    """Raises ValueError, saying in one line what differs, unless names and shapes are as given."""
    missing = [name for name in shapes if name not in state]
    extra = [name for name in state if name not in shapes]
    other = [
        f"{name} is {tuple(state[name].shape)} and not {shape}"
        for name, shape in shapes.items()
        if name in state and tuple(state[name].shape) != shape
    ]
    said = [
        *([f"it lacks {_some(missing)}"] if missing else []),
        *([f"it also has {_some(extra)}"] if extra else []),
        *([_some(other)] if other else []),
    ]
    if said:
        whose = next((v for k, v in MARKS.items() if k in state and k not in shapes), "")
        seems = f" (this seems to be {whose})" if whose else ""
        raise ValueError(f"{path} does not hold {what}{seems}: {'; '.join(said)}")


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def digest(state: Mapping[str, Tensor]) -> str:
    """A hash of names, shapes and values, of whatever file they came: 16 hexadecimal digits."""
    total = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        total.update(name.encode() + struct.pack(f"{tensor.dim()}q", *tensor.shape))
        total.update(tensor.float().contiguous().flatten().view(torch.uint8).numpy().data)
    return total.hexdigest()[:16]
