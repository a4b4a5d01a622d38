"""A frozen ViT, whose features a tokenizer codes.

The ViT of Qwen2-VL (Wang, Bai, Tan et al. 2024, arXiv:2409.12191), or the tower that sees of a
SigLIP or a CLIP (`nn/vision.py`).

Unusual, of Qwen2-VL: it knows places by turning queries and keys alone, so it sees pictures of any
size, and features of 2 x 2 patches become one. It sees videos, two frames at a time; a picture is
two equal frames, so the weights of both are added up here.

B pictures, H, W pixels, h, w grid of features, D width of the ViT, F features.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

from torch import Tensor, nn
from torch.nn import functional as F

from smalti.config import check
from smalti.nn.linear import Linear
from smalti.nn.rope import rope_2d_halves
from smalti.nn.vision import Block, TowerConfig, VisionTower

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
SIZES = {(384, 512): (336, 448), (512, 384): (448, 336)}
"""Sizes of pictures that ILLUME+ makes others than the next that fit, as they have whole cells of
the same shape."""


@dataclass(frozen=True)
class FrozenViTConfig:
    """A ViT; the defaults are those of Qwen2-VL, of 600 M parameters."""

    kind: Literal["qwen", "siglip", "clip"] = "qwen"
    """Whose it is."""
    size: int = 0
    """Height and width in pixels of the pictures it sees; 0: of any size, of qwen alone."""
    patch: int = 14
    """Height and width of a patch in pixels."""
    merge: int = 2
    """Patches, along one side, that become one feature: by a small network in qwen, else by their
    mean."""
    features: int = 3584
    """F; of others than qwen it is the width of the tower."""
    mean: tuple[float, float, float] = CLIP_MEAN
    """What is taken from red, green and blue in [0, 1], before they are divided by `std`."""
    std: tuple[float, float, float] = CLIP_STD
    """What they are divided by."""
    vision: TowerConfig = field(default_factory=lambda: TowerConfig(32, 16, 1280, 5120, "sigmoid"))
    """Its blocks."""
    normed: bool = True
    """Whether what the blocks of a siglip give passes the norm behind them."""

    def __post_init__(self) -> None:
        check(self, positive=("patch", "merge", "features"), counts=("size",))
        if (self.kind == "qwen") == bool(self.size):
            raise ValueError(
                f"size must be 0 of a qwen, which sees any, and positive of others, got {self.size}"
            )
        if self.kind != "qwen" and self.features != self.vision.dim:
            raise ValueError(
                f"features of a {self.kind} must be {self.vision.dim}, as its tower is wide, "
                f"got {self.features}"
            )
        if self.size % self.cell and self.merge > 1 or self.size and self.size < self.patch:
            raise ValueError(f"size must be a multiple of {self.cell} pixels, got {self.size}")
        if min(self.std) <= 0:
            raise ValueError(f"std must be three positive numbers, got {self.std}")

    def of(self, towers: Any) -> Self:
        """The tower that sees of towers of this configuration; what becomes of its patches is as
        it is here."""
        names = ("kind", "size", "patch", "mean", "std", "vision")
        same = {name: getattr(towers, name) for name in names}
        return replace(self, features=towers.vision.dim, **same)

    @property
    def cell(self) -> int:
        """Height and width in pixels of what one feature is of."""
        return self.patch * self.merge

    @property
    def patches(self) -> int:
        """Patches of a picture of a fixed size."""
        return (self.size // self.patch) ** 2

    def seen(self, size: tuple[int, int]) -> tuple[int, int]:
        """The size in pixels at which pictures of a size are seen. Raises ValueError for pictures
        smaller than one feature."""
        if self.size:
            return (self.size, self.size)
        fits = (size[0] // self.cell * self.cell, size[1] // self.cell * self.cell)
        height, width = SIZES.get(size, fits) if self.cell == 28 else fits
        if not height or not width:
            raise ValueError(f"pictures must have at least {self.cell} pixels, got {size}")
        return height, width

    def grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """Height and width in features of pictures of a size. Raises ValueError as `seen`."""
        height, width = self.seen(size)
        return height // self.cell, width // self.cell


class QwenVision(nn.Module):
    """Pictures (B, 3, H, W), normalised, to features (B, F, h, w) of merge x merge patches."""

    def __init__(self, config: FrozenViTConfig) -> None:
        super().__init__()
        dim, self.heads, self.merge = config.vision.dim, config.vision.heads, config.merge
        self.patches = nn.Conv2d(3, dim, config.patch, config.patch, bias=False)
        self.layers = nn.ModuleList([Block(config.vision) for _ in range(config.vision.layers)])
        self.norm = nn.LayerNorm(dim, config.vision.norm_eps)
        wide = dim * self.merge**2
        self.merger = nn.Sequential(Linear(wide, wide), nn.GELU(), Linear(wide, config.features))

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.patches(pixels)  # (B, D, H / patch, W / patch)
        height, width = x.shape[-2:]
        x = x.flatten(2).transpose(1, 2)  # (B, N, D)
        turn = rope_2d_halves(height, width, x.shape[-1] // self.heads).to(x.device)
        for layer in self.layers:
            x = layer(x, turn=turn)
        x = self.norm(x).unflatten(1, (height // self.merge, self.merge, -1, self.merge))
        x = x.permute(0, 1, 3, 2, 4, 5).flatten(3)  # (B, h, w, merge * merge * D)
        return self.merger(x).permute(0, 3, 1, 2)


class FrozenViT(nn.Module):
    """Pictures (B, 3, H, W) in [-1, 1] to features (B, F, h, w). Its weights do not learn."""

    def __init__(self, config: FrozenViTConfig) -> None:
        super().__init__()
        self.config = config
        if config.kind == "qwen":
            self.sees: nn.Module = QwenVision(config)
        else:
            tower = VisionTower(config)
            tower.head = nn.Identity()  # features of whole pictures are not asked for
            if not config.normed:
                tower.norm = nn.Identity()
            self.sees = tower
        self.requires_grad_(False)

    def see_with(self, towers: nn.Module) -> None:
        """Take the weights of the tower that sees of towers, of the same settings."""
        mine, vision = self.sees.state_dict(), towers.get_submodule("vision").state_dict()
        self.sees.load_state_dict({name: vision[name] for name in mine})

    def prepared(self, images: Tensor) -> Tensor:
        """Images in [-1, 1] as they are seen: of the size for it, and normalised."""
        size = self.config.seen((images.shape[-2], images.shape[-1]))
        if size != images.shape[-2:]:
            resized = F.interpolate(images, size, mode="bicubic", antialias=True)
            images = resized.clamp(-1, 1)
        mean, std = images.new_tensor((self.config.mean, self.config.std))[:, :, None, None]
        return ((images + 1) / 2 - mean) / std

    def forward(self, images: Tensor) -> Tensor:
        x = self.sees(self.prepared(images))
        if self.config.kind == "qwen":
            return x
        side = self.config.size // self.config.patch
        x = x[:, -(side**2) :].transpose(1, 2).unflatten(2, (side, side))  # (B, D, h', w')
        return F.avg_pool2d(x, self.config.merge) if self.config.merge > 1 else x
