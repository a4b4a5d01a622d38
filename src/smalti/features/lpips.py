"""LPIPS: how different two pictures look (Zhang et al. 2018, arXiv:1801.03924), version 0.1.

Images go through AlexNet or VGG-16; activations of five layers get unit length along channels, and
their squared differences are weighted by learned factors. Layers and names are torchvision's.
B images, L layers, C channels of a layer.
"""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from smalti.features.weights import Released, check, digest, fetch, read

Net = Literal["alex", "vgg"]
FILES = {
    "alex": (
        Released(
            "https://download.pytorch.org/models",
            "alexnet-owt-7be5be79.pth",
            "7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
        ),
        Released(
            "https://raw.githubusercontent.com/richzhang/PerceptualSimilarity"
            "/master/lpips/weights/v0.1",
            "alex.pth",
            "df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0",
        ),
    ),
    "vgg": (
        Released(
            "timm/vgg16.tv_in1k",
            "model.safetensors",
            "57b026918159a6bf9faf8405c3a551903768e7138989d9c6224a14227203fad8",
        ),
        Released(
            "vivym/lpips",
            "vgg_lpips_linear.safetensors",
            "0c6387bf2e51e434dedbc0ca4c5894f605c415b8d128bfe720e13456eb4333ac",
        ),
    ),
}
"""The network, trained on ImageNet, and the factors."""
VGG = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
"""Widths of VGG-16's convolutions; a 2x2 max pool stands before every stage but the first."""


class LPIPS(nn.Module):
    """Two batches of images (B, 3, H, W) in [-1, 1] to distances (B,).

    The weights are frozen, and there is no dropout on the factors. Raises ValueError if `net` is
    neither "alex" nor "vgg".
    """

    hash = ""
    """Of network and factors; empty without `load_lpips`."""
    shift: Tensor
    scale: Tensor

    def __init__(self, net: Net) -> None:
        super().__init__()
        if net not in FILES:
            raise ValueError(f"the network of LPIPS must be alex or vgg, got {net!r}")
        stages = _alex() if net == "alex" else _vgg()
        self.features = nn.Sequential(*(layer for stage in stages for layer in stage))
        layers = list(self.features)
        self.taps = [layers.index(stage[-1]) for stage in stages]
        widths = [m.out_channels for s in stages if isinstance(m := s[-2], nn.Conv2d)]
        self.factors = nn.ParameterList([torch.ones(width) for width in widths])
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188]).view(3, 1, 1))
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450]).view(3, 1, 1))
        self.requires_grad_(False)

    def activations(self, x: Tensor) -> list[Tensor]:
        """What the L layers say, each (B, C, h, w)."""
        x, found = (x - self.shift) / self.scale, []
        for i, layer in enumerate(self.features):
            x = layer(x)
            if i in self.taps:
                found.append(x)
        return found

    def layers(self, x: Tensor, y: Tensor) -> Tensor:
        """What each layer adds to the distances: (L, B)."""
        pairs = zip(self.activations(x), self.activations(y), self.factors, strict=True)
        terms = [
            torch.einsum("bchw,c->bhw", (_unit(a) - _unit(b)).square(), factor)
            for a, b, factor in pairs
        ]
        return torch.stack([term.mean((1, 2)) for term in terms])

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.layers(x, y).sum(0)


def load_lpips(net: Net, folder: str | Path | None = None) -> LPIPS:
    """LPIPS with the two published files, downloaded once, or with those in a folder.

    A folder holds them under their published names (`FILES`). Raises OSError if a file is missing
    or cannot be had, and ValueError if it is another one.
    """
    model = LPIPS(net)
    trunk, linear = (fetch(f) if folder is None else Path(folder) / f.name for f in FILES[net])
    state = {k: v for k, v in read(trunk).items() if k.startswith("features.")}
    shapes = {f"features.{k}": tuple(v.shape) for k, v in model.features.state_dict().items()}
    check(state, shapes, trunk, {"alex": "AlexNet", "vgg": "VGG-16"}[net])
    factors = {re.sub(r"^lin(\d)\.model\.1\.", r"\1.", k): v for k, v in read(linear).items()}
    widths = {f"{i}.weight": (1, len(f), 1, 1) for i, f in enumerate(model.factors)}
    check(factors, widths, linear, f"the factors of LPIPS ({net})")
    state |= {f"factors.{i}": factors[name].flatten() for i, name in enumerate(widths)}
    model.load_state_dict(state, strict=False)  # shift and scale are in no file
    model.hash = digest(state)
    return model.eval()


def _unit(x: Tensor) -> Tensor:
    return x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10)


def _alex() -> list[list[nn.Module]]:
    """The layers up to each of those that count."""
    return [
        [nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU()],
        [nn.MaxPool2d(3, 2), nn.Conv2d(64, 192, 5, 1, 2), nn.ReLU()],
        [nn.MaxPool2d(3, 2), nn.Conv2d(192, 384, 3, 1, 1), nn.ReLU()],
        [nn.Conv2d(384, 256, 3, 1, 1), nn.ReLU()],
        [nn.Conv2d(256, 256, 3, 1, 1), nn.ReLU()],
    ]


def _vgg() -> list[list[nn.Module]]:
    stages, width = [], 3
    for widths in VGG:
        stage: list[nn.Module] = [nn.MaxPool2d(2)] if stages else []
        for dim, out in pairwise((width, *widths)):
            stage += [nn.Conv2d(dim, out, 3, 1, 1), nn.ReLU()]
        stages.append(stage)
        width = widths[-1]
    return stages
