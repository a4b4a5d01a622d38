"""Perceptual distances for tokenizer training: a plug.

LPIPS-VGG (Zhang et al. 2018, arXiv:1801.03924): images go through VGG-16, features of five stages
are normalised along channels, and their squared differences are weighted by learned factors. The
network and the factors come from the Hugging Face hub, in safetensors files whose hashes are
checked; without them training goes on without the perceptual term, after a notice.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

Perceptual = Callable[[Tensor, Tensor], Tensor]
"""Two batches of images (B, 3, H, W) in [-1, 1] to distances (B,)."""

STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
"""Widths of VGG-16's convolutions; a 2x2 max pool stands before every stage but the first."""
TRUNK = (
    "timm/vgg16.tv_in1k",
    "model.safetensors",
    "57b026918159a6bf9faf8405c3a551903768e7138989d9c6224a14227203fad8",
)
FACTORS = (
    "vivym/lpips",
    "vgg_lpips_linear.safetensors",
    "0c6387bf2e51e434dedbc0ca4c5894f605c415b8d128bfe720e13456eb4333ac",
)


class LPIPS(nn.Module):
    """LPIPS with a frozen VGG-16; always in evaluation mode (no dropout on the factors)."""

    shift: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        widths = [3, *(w for stage in STAGES for w in stage)]
        self.convs = nn.ModuleList(
            [nn.Conv2d(a, b, 3, padding=1) for a, b in zip(widths, widths[1:], strict=False)]
        )
        self.factors = nn.ParameterList([torch.ones(stage[-1]) for stage in STAGES])
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188]).view(3, 1, 1))
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450]).view(3, 1, 1))
        self.requires_grad_(False)

    def features(self, x: Tensor) -> list[Tensor]:
        """Unit-length features of the five stages, each (B, C, h, w)."""
        x, found, convs = (x - self.shift) / self.scale, [], iter(self.convs)
        for i, stage in enumerate(STAGES):
            if i:
                x = F.max_pool2d(x, 2)
            for _ in stage:
                x = F.relu(next(convs)(x))
            found.append(x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10))
        return found

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        pairs = zip(self.features(x), self.features(y), self.factors, strict=True)
        terms = [torch.einsum("bchw,c->bhw", (a - b).square(), f) for a, b, f in pairs]
        return torch.stack([t.mean((1, 2)) for t in terms]).sum(0)

    @staticmethod
    def from_files(trunk: Path, factors: Path) -> LPIPS:
        """From torchvision's `features.N.weight`, `.bias`, and `i.weight` (1, C, 1, 1)."""
        net, weights, linear = LPIPS(), load_file(trunk), load_file(factors)
        names = sorted(
            {k.rsplit(".", 1)[0] for k in weights if k.startswith("features.")},
            key=lambda name: int(name.split(".")[1]),
        )
        if len(names) != len(net.convs):
            raise ValueError(f"{trunk} has {len(names)} convolutions, VGG-16 has {len(net.convs)}")
        for conv, name in zip(net.convs, names, strict=True):
            conv.load_state_dict({k: weights[f"{name}.{k}"] for k in ("weight", "bias")})
        for i, factor in enumerate(net.factors):
            factor.data.copy_(linear[f"{i}.weight"].flatten())
        return net


def _fetch(repo: str, filename: str, sha256: str) -> Path:
    from huggingface_hub import hf_hub_download

    path = Path(hf_hub_download(repo, filename))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != sha256:
        raise ValueError(f"{repo}/{filename} has sha256 {digest}, expected {sha256}")
    return path


def perceptual(name: str) -> LPIPS | None:
    """The perceptual network called `name`: "none", "lpips" (from the hub), or a folder.

    A folder holds the two files under the names that they have on the hub. If the hub cannot be
    reached, a warning says so and the result is None: training goes on without it.
    """
    if name == "none":
        return None
    if name != "lpips":
        folder = Path(name)
        if not folder.is_dir():
            raise ValueError(f"perceptual must be none, lpips or a folder, got {name!r}")
        return LPIPS.from_files(folder / TRUNK[1], folder / FACTORS[1])
    try:
        return LPIPS.from_files(_fetch(*TRUNK), _fetch(*FACTORS))
    except (OSError, RuntimeError) as error:
        warnings.warn(
            f"LPIPS weights could not be had from the hub ({type(error).__name__}): training goes "
            f"on without the perceptual loss. To have it, download {TRUNK[0]}/{TRUNK[1]} and "
            f"{FACTORS[0]}/{FACTORS[1]} into a folder and pass the folder.",
            stacklevel=2,
        )
        return None
