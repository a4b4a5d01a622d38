"""Writing safetensors files straight from the tensors' memory, and onto the disk.

The library's own writer first copies every tensor to bytes and then the file through a memory map;
on 1.8 GB that took two to five times as long as the disk. Files are read by the library.
Format: https://huggingface.co/docs/safetensors (an 8-byte length, a JSON header, the raw data).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""The format's names of what smalti stores."""


def write_tensors(path: Path, tensors: Mapping[str, Tensor], flush: bool = True) -> None:
    """Write tensors of any device under their names; with `flush` they are on the disk after.

    Raises OSError if the disk is full: the file is then incomplete.
    """
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))  # aligned
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in names:
        tensor = tensors[name]
        start, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": DTYPES[tensor.dtype],
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


def _write(file, data: bytes | memoryview) -> None:
    """All of it: one call of the system writes 2 GiB at most."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]
