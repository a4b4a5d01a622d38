"""What a tokenizer of maps sees of a picture, and shows of what it gives back.

A map is a picture that says something of each place of another: how far it is (depth), what kind of
thing is there (segmentation), or whether an edge is (edges). It travels as any picture does,
(B, 3, H, W) in [-1, 1]: a depth is a grey, a kind the grey of its number out of 256, and edges are
those of the picture itself, which are computed here. B images, K kinds of a segmentation.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.nn import functional as F

from smalti.nn.edges import edges

Map = Literal["", "depth", "segmentation", "edges"]
"""Which map of a picture; '' is the picture itself."""


def planes_of(images: Tensor, map: Map, kinds: int = 0) -> Tensor:
    """What convolutions see of images (B, 3, H, W): the same; of a depth or of edges one plane in
    [-1, 1]; of a segmentation (B, K, H, W), 1 in the plane of the kind and 0 in others.

    Raises ValueError if a segmentation has a kind that is none of K.
    """
    if map == "depth":
        return images[:, :1]
    if map == "edges":
        return edges(images).to(images.dtype) * 2 - 1
    if map == "segmentation":
        numbers = ((images[:, 0].float() + 1) * 127.5).round().long()  # (B, H, W)
        if numbers.numel() and int(numbers.max()) >= kinds:
            raise ValueError(
                f"kinds of a segmentation must be in [0, {kinds}), got {int(numbers.max())}"
            )
        return F.one_hot(numbers, kinds).permute(0, 3, 1, 2).to(images.dtype)
    return images


def picture_of(planes: Tensor, map: Map) -> Tensor:
    """Images (B, 3, H, W) of such planes; of a segmentation, of how likely each kind is."""
    if map == "segmentation":
        numbers = planes.argmax(1, keepdim=True)
        planes = (numbers / 127.5 - 1).to(planes.dtype)
    return planes.expand(-1, 3, -1, -1) if map else planes
