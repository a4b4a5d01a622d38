"""Features of what a tower sees, as codes of pictures: on fewer cells, and in a form.

MetaMorph (Tong et al. 2024, arXiv:2412.14164) brings hidden states of patches to a smaller grid and
gives each the length one, so that a language model has to say its direction only.

B pictures, N positions, C features.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.codes import Form
from smalti.nn.linear import Linear

TEMPERATURE = 0.07
"""Of the softmax of features."""


def reduced(hidden: Tensor, grid: tuple[int, int]) -> Tensor:
    """Hidden states (B, P, C) of a square of patches on a grid of N cells, (B, N, C): bilinear
    between the centres of cells, in float32."""
    side = math.isqrt(hidden.shape[1])
    if (side, side) == grid:
        return hidden
    cells = hidden.transpose(1, 2).unflatten(2, (side, side))  # (B, C, side, side)
    fewer = F.interpolate(cells.float(), grid, mode="bilinear", align_corners=False)
    return fewer.to(hidden.dtype).flatten(2).transpose(1, 2)


def formed(features: Tensor, form: Form) -> Tensor:
    """Features (..., C) in a form."""
    if form.startswith("unit"):
        features = F.normalize(features, dim=-1)
    return (features / TEMPERATURE).softmax(-1) if form.endswith("softmax") else features


class Projector(nn.Module):
    """Features (..., sizes[0]) to (..., sizes[-1]) by a linear layer from each size to the next,
    with the exact GELU, or a softmax, between them; a single size leaves them as they are."""

    def __init__(self, *sizes: int, softmax: bool = False) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Linear(a, b) for a, b in pairwise(sizes)])
        self.softmax = softmax

    def forward(self, x: Tensor) -> Tensor:
        for i, layer in enumerate(self.layers):
            if i:
                x = x.softmax(-1) if self.softmax else F.gelu(x)
            x = layer(x)
        return x


def apart(wanted: Tensor, found: Tensor, form: Form) -> Tensor:
    """What a prediction of features loses, both (..., C) in a form, (...): the mean absolute error
    of plain ones, the negative cosine of unit ones, the cross-entropy in nats of softmaxes."""
    if form.endswith("softmax"):
        return -(wanted * torch.log(found + 1e-10)).sum(-1)
    if form == "unit":
        return -F.cosine_similarity(wanted, found, dim=-1)
    return (wanted - found).abs().mean(-1)
