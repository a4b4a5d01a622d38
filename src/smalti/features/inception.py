"""The Inception network of 2015-12-05, whose features FID, sFID and the Inception Score compare.

Szegedy et al. 2015 (arXiv:1512.00567), as TensorFlow published it; FID: Heusel et al. 2017
(arXiv:1706.08500). Unlike torchvision's Inception of the same paper it was trained on 1008 classes,
its average pools leave the padding out, and its last block pools by maximum. Unusual: images are
resized as TensorFlow 1 did, and batch norms are folded into the convolutions when weights are read.
B images, H and W their pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.features.weights import Released, check, digest, fetch, read

RELEASED = Released(
    "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights",
    "pt_inception-2015-12-05-6726825d.pth",
    "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
)
SIZE = 299
SPATIAL = 7
"""Channels of `mixed_6/conv` that sFID reads."""
EPS = 1e-3
PARTS = ("conv.weight", "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var")
"""What the published file holds of each convolution."""

Kernel = int | tuple[int, int]
Step = tuple[int, *tuple[Kernel, ...]]
"""Width, and kernel; two kernels stand for two convolutions of the same input."""


class Features(NamedTuple):
    pool: Tensor
    """(B, 2048), `pool_3`: FID, precision and recall, KID."""
    spatial: Tensor
    """(B, 2023), 17 x 17 x 7 of `mixed_6/conv` after batch norm and ReLU, row by row and channels
    last, as the statistics of published references: sFID."""
    logits: Tensor
    """(B, 1008) without the bias: Inception Score."""


def resize_tf1(images: Tensor, size: int = SIZE) -> Tensor:
    """Bilinear as in TensorFlow 1: (B, C, H, W) to (B, C, size, size), uint8 to float32.

    Pixel i of n reads at i * n / size, without half a pixel and without antialiasing. Width first,
    as there, which makes it equal bit for bit.
    """
    x = images if images.is_floating_point() else images.float()
    for dim, shape in ((3, (-1,)), (2, (-1, 1))):
        n = x.shape[dim]
        scale = torch.tensor(float(n), device=x.device) / size
        at = torch.arange(size, dtype=torch.float32, device=x.device) * scale
        low = at.long()
        high = (low + 1).clamp(max=n - 1)
        weight = (at - low).to(x.dtype).view(shape)
        start = x.index_select(dim, low)
        x = start + (x.index_select(dim, high) - start) * weight
    return x


@contextmanager
def exactly() -> Iterator[None]:
    """Convolutions in float32 as it is; CUDA rounds what goes into them to TF32 by default."""
    cudnn: Any = torch.backends.cudnn  # its parts are in no stub
    conv = cudnn.conv
    before, conv.fp32_precision = conv.fp32_precision, "ieee"
    try:
        yield
    finally:
        conv.fp32_precision = before


class Conv(nn.Conv2d):
    """A convolution with its batch norm in it, and ReLU."""

    def __init__(
        self,
        dim: int,
        out: int,
        kernel: Kernel,
        stride: int = 1,
        padding: str = "same",
    ) -> None:
        super().__init__(dim, out, kernel, stride, padding)

    def forward(self, input: Tensor) -> Tensor:
        return F.relu_(super().forward(input))


class Mixed(nn.Module):
    """Chains of convolutions beside a pool with `pooled` channels, joined along channels.

    With stride 2 the last convolution of each chain and the pool halve the grid, without padding,
    and no convolution follows the pool. Names are those of the published file.
    """

    def __init__(
        self, dim: int, pooled: int, stride: int = 1, average: bool = True, **chains: list[Step]
    ) -> None:
        super().__init__()
        self.stride, self.average = stride, average
        self.branch_pool = Conv(dim, pooled, 1) if pooled else nn.Identity()
        self.chains: list[list[list[str]]] = []
        for chain, steps in chains.items():
            names, width = [], dim
            for i, (out, *kernels) in enumerate(steps, 1):
                number = f"_{i}" if len(steps) > 1 else ""
                letters = ("a", "b") if len(kernels) > 1 else ("",)
                names.append([f"{chain}{number}{letter}" for letter in letters])
                halves = stride > 1 and i == len(steps)
                how = (stride, "valid") if halves else (1, "same")
                for name, kernel in zip(names[-1], kernels, strict=True):
                    self.add_module(name, Conv(width, out, kernel, *how))
                width = out
            self.chains.append(names)

    def forward(self, x: Tensor) -> Tensor:
        found = []
        for steps in self.chains:
            ends = [x]
            for names in steps:
                ends = [self.get_submodule(name)(ends[0]) for name in names]
            found += ends
        if self.average:
            pooled = F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
        else:
            pooled = F.max_pool2d(x, 3, self.stride, 1 if self.stride == 1 else 0)
        return torch.cat([*found, self.branch_pool(pooled)], 1)


def _mixed5(dim: int, pooled: int) -> Mixed:
    return Mixed(
        dim,
        pooled,
        branch1x1=[(64, 1)],
        branch5x5=[(48, 1), (64, 5)],
        branch3x3dbl=[(64, 1), (96, 3), (96, 3)],
    )


def _mixed6(c: int) -> Mixed:
    wide, tall = (1, 7), (7, 1)
    return Mixed(
        768,
        192,
        branch1x1=[(192, 1)],
        branch7x7=[(c, 1), (c, wide), (192, tall)],
        branch7x7dbl=[(c, 1), (c, tall), (c, wide), (c, tall), (192, wide)],
    )


def _mixed7(dim: int, average: bool) -> Mixed:
    return Mixed(
        dim,
        192,
        average=average,
        branch1x1=[(320, 1)],
        branch3x3=[(384, 1), (384, (1, 3), (3, 1))],
        branch3x3dbl=[(448, 1), (384, 3), (384, (1, 3), (3, 1))],
    )


class InceptionFID(nn.Module):
    """uint8 images (B, 3, H, W) to `Features`, float32 (float64 if the weights are)."""

    hash = ""
    """Of the weights; empty without `load_inception`."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = Conv(3, 32, 3, 2, "valid")
        self.Conv2d_2a_3x3 = Conv(32, 32, 3, 1, "valid")
        self.Conv2d_2b_3x3 = Conv(32, 64, 3)
        self.Conv2d_3b_1x1 = Conv(64, 80, 1)
        self.Conv2d_4a_3x3 = Conv(80, 192, 3, 1, "valid")
        self.Mixed_5b = _mixed5(192, 32)
        self.Mixed_5c = _mixed5(256, 64)
        self.Mixed_5d = _mixed5(288, 64)
        self.Mixed_6a = Mixed(
            288,
            0,
            2,
            average=False,
            branch3x3=[(384, 3)],
            branch3x3dbl=[(64, 1), (96, 3), (96, 3)],
        )
        self.Mixed_6b = _mixed6(128)
        self.Mixed_6c = _mixed6(160)
        self.Mixed_6d = _mixed6(160)
        self.Mixed_6e = _mixed6(192)
        self.Mixed_7a = Mixed(
            768,
            0,
            2,
            average=False,
            branch3x3=[(192, 1), (320, 3)],
            branch7x7x3=[(192, 1), (192, (1, 7)), (192, (7, 1)), (192, 3)],
        )
        self.Mixed_7b = _mixed7(1280, average=True)
        self.Mixed_7c = _mixed7(2048, average=False)
        self.fc = nn.Linear(2048, 1008, bias=False)
        self.requires_grad_(False)

    @exactly()
    def forward(self, images: Tensor) -> Features:
        """Images are moved to the device of the weights. Raises ValueError unless they are uint8
        (B, 3, H, W)."""
        if images.dtype != torch.uint8 or images.dim() != 4 or images.shape[1] != 3:
            raise ValueError(
                f"images must be uint8 (B, 3, H, W), got {images.dtype} {tuple(images.shape)}"
            )
        weight = self.fc.weight
        exact = torch.promote_types(weight.dtype, torch.float32)
        x = resize_tf1(images.to(weight.device).to(exact))  # (B, 3, 299, 299)
        x = ((x - 128) / 128).to(weight.dtype, memory_format=torch.channels_last)
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))  # (B, 64, 147, 147)
        x = F.max_pool2d(x, 3, 2)  # (B, 64, 73, 73)
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x))  # (B, 192, 71, 71)
        x = F.max_pool2d(x, 3, 2)  # (B, 192, 35, 35)
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(x)))  # (B, 288, 35, 35)
        x = self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x))))  # (B, 768, 17, 17)
        spatial = x[:, :SPATIAL].permute(0, 2, 3, 1).flatten(1)  # of branch1x1, which comes first
        x = self.Mixed_7a(self.Mixed_6e(x))  # (B, 1280, 8, 8)
        x = self.Mixed_7c(self.Mixed_7b(x))  # (B, 2048, 8, 8)
        pool = x.mean((2, 3))  # (B, 2048)
        return Features(pool.to(exact), spatial.to(exact), self.fc(pool).to(exact))


def load_inception(
    path: str | Path | None = None, dtype: torch.dtype = torch.float32
) -> InceptionFID:
    """The network with the weights of a file, or with the published ones, downloaded once.

    A file is what pytorch-fid and torch-fidelity publish, or the same tensors as .safetensors.
    Raises OSError if there is none, and ValueError if it holds another network.
    """
    path = fetch(RELEASED) if path is None else Path(path)
    state = {k: v for k, v in read(path).items() if not k.endswith(".num_batches_tracked")}
    with torch.device("meta"):
        net = InceptionFID()
    check(state, _published(net), path, "the Inception of 2015-12-05 that FID is defined on")
    net.load_state_dict(_folded(state), assign=True)
    net.hash = digest(state)
    return net.to(dtype).eval()


def _published(net: InceptionFID) -> dict[str, tuple[int, ...]]:
    """Names and shapes in the published file."""
    shapes = {"fc.weight": tuple(net.fc.weight.shape), "fc.bias": (net.fc.out_features,)}
    for name, module in net.named_modules():
        if isinstance(module, Conv):
            width = (module.out_channels,)
            shapes |= {f"{name}.{part}": width for part in PARTS}
            shapes[f"{name}.{PARTS[0]}"] = tuple(module.weight.shape)
    return shapes


def _folded(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Convolutions times the scale of their batch norms, whose shifts are biases: float64,
    channels last."""
    folded = {"fc.weight": state["fc.weight"].double()}
    for name in (k.removesuffix(".conv.weight") for k in state if k.endswith(".conv.weight")):
        weight, scale, shift, mean, variance = (state[f"{name}.{p}"].double() for p in PARTS)
        scale = scale / (variance + EPS).sqrt()
        weight = weight * scale.view(-1, 1, 1, 1)
        folded[f"{name}.weight"] = weight.contiguous(memory_format=torch.channels_last)
        folded[f"{name}.bias"] = shift - mean * scale
    return folded
