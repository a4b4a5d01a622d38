"""LPIPS with VGG-16 for tokenizer training: a plug.

The network is `features/lpips.py`, its weights come from the Hugging Face hub, in safetensors files
whose hashes are checked; without them training goes on without the perceptual term, after a notice.
"""

from __future__ import annotations

import warnings

from smalti.features.lpips import FILES, LPIPS, load_lpips
from smalti.files import expand


def perceptual(name: str) -> LPIPS | None:
    """The perceptual network called `name`: "none", "lpips" (from the hub), or a folder.

    A folder holds the two files under the names that they have on the hub. If the hub cannot be
    reached, a warning says so and the result is None: training goes on without it.
    """
    if name == "none":
        return None
    if name != "lpips":
        if not (folder := expand(name)).is_dir():
            raise ValueError(f"perceptual must be none, lpips or a folder, got {name!r}")
        return load_lpips("vgg", folder)
    try:
        return load_lpips("vgg")
    except OSError as error:
        files = " and ".join(f"{file.home}/{file.name}" for file in FILES["vgg"])
        warnings.warn(
            f"LPIPS weights could not be had from the hub ({error}): training goes on without the "
            f"perceptual loss. To have it, download {files} into a folder and pass the folder.",
            stacklevel=2,
        )
        return None
