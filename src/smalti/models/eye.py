"""Eyes: what makes of a picture the numbers that a model of text and pictures reads.

Models with an eye read pictures in another form than they draw them: an eye only sees, and what it
sees is never drawn. Liu et al. 2023, "Visual Instruction Tuning" (arXiv:2304.08485) have models
that only read so; Wu et al. 2024, "Janus: Decoupling Visual Encoding for Unified Multimodal
Understanding and Generation" (arXiv:2410.13848) one that also draws.

The eye that most of them have is the vision tower of a CLIP or a SigLIP, without what makes one
vector of a whole picture. It is trained before, by `smalti train shapes_siglip` for example, and
frozen.

B pictures, N positions, E numbers of each.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.codes import TokenSpec
from smalti.config import check
from smalti.models.towers import Kind, TowerConfig, Towers, TowersConfig, VisionTower, normalised
from smalti.nn.finite import require_finite
from smalti.nn.unfilled import unfilled
from smalti.tokenizers.base import check_images


@dataclass(frozen=True)
class Sight:
    """What an eye gives, and what a model reads."""

    spec: TokenSpec
    """Numbers on a grid; on several, where a model reads several levels."""
    unit: bool = False
    """Whether the numbers of each position, as a vector, have length 1."""

    @property
    def words(self) -> str:
        """What is seen, in words."""
        grids = " and ".join(f"{height} x {width}" for height, width in self.spec.grids)
        length = "of length 1" if self.unit else "of any length"
        return f"{grids} vectors of {self.spec.channels} numbers, {length}"

    def require(self, given: Sight) -> None:
        """Raise ValueError unless this is what an eye gives."""
        if given != self:
            raise ValueError(f"the model reads {self.words}; the eye gives {given.words}")


class Eye(nn.Module):
    """A module that sees pictures."""

    config: Any
    sight: Sight

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the pictures in pixels."""
        raise NotImplementedError

    @property
    def spec(self) -> TokenSpec:
        """The numbers of a picture."""
        return self.sight.spec

    def encode(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] to what is seen of them, (B, N, E) float32."""
        raise NotImplementedError


TAKEN = ("kind", "size", "patch", "mean", "std", "vision")
"""Settings of towers that their eye has too."""


@dataclass(frozen=True)
class TowerEyeConfig:
    """A vision tower, and how what it sees is taken from it."""

    kind: Kind = "siglip"
    """Whether the tower is a CLIP's or a SigLIP's."""
    size: int = 32
    """Height and width of pictures in pixels; what is more than a multiple of `patch`, at the right
    and below, is not seen."""
    patch: int = 4
    """Height and width of a patch in pixels."""
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """What is taken from red, green and blue in [0, 1], before they are divided by `std`."""
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """What they are divided by."""
    vision: TowerConfig = field(default_factory=TowerConfig)
    """The tower."""
    normed: bool = True
    """Whether the hidden states pass the tower's last norm."""
    grid: int = 0
    """Rows and columns of vectors that patches are resized to, bilinearly; 0: as they are."""
    unit: bool = False
    """Whether each vector is divided by its length."""

    def __post_init__(self) -> None:
        check(self, counts=("grid",))
        _ = self.towers

    @property
    def towers(self) -> TowersConfig:
        """The tower as one of two."""
        return TowersConfig(features=self.vision.dim, **{n: getattr(self, n) for n in TAKEN})

    @property
    def sight(self) -> Sight:
        """What is seen."""
        side = self.grid or self.size // self.patch
        return Sight(TokenSpec(((side, side),), channels=self.vision.dim), self.unit)

    @classmethod
    def of(cls, towers: TowersConfig, **how: Any) -> Self:
        """The eye of towers; `how` are the fields that say how what it sees is taken. By default
        vectors are those of the patches, of a SigLIP behind its last norm."""
        taken: dict[str, Any] = {name: getattr(towers, name) for name in TAKEN}
        usual: dict[str, Any] = {"normed": towers.kind == "siglip"}
        return cls(**taken | usual | how)


class TowerEye(Eye):
    """The vision tower of a CLIP or a SigLIP, without the token of a CLIP."""

    def __init__(self, config: TowerEyeConfig) -> None:
        super().__init__()
        self.config, self.sight = config, config.sight
        self.tower = VisionTower(config.towers)
        self.tower.head = nn.Identity()
        if not config.normed:
            self.tower.norm = nn.Identity()

    @property
    def size(self) -> tuple[int, int]:
        return self.config.size, self.config.size

    def encode(self, images: Tensor) -> Tensor:
        check_images(images, self.size)
        config = self.config
        hidden = self.tower(normalised(images, config.towers))  # (B, N, E)
        if config.kind == "clip":
            hidden = self.tower.norm(hidden[:, 1:])
        hidden = require_finite(hidden, "vectors of the eye").float()
        if config.grid:
            side = config.size // config.patch
            cells = hidden.transpose(1, 2).unflatten(2, (side, side))
            cells = F.interpolate(cells, (config.grid, config.grid), mode="bilinear")
            hidden = cells.flatten(2).transpose(1, 2)  # (B, grid^2, E)
        return F.normalize(hidden, dim=-1) if config.unit else hidden

    @torch.no_grad()
    def init_weights(self) -> None:
        """Draw new weights, for tests: an eye that is of use is trained as one of two towers."""
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)


def taken(towers: Towers, config: TowerEyeConfig) -> TowerEye:
    """The eye of towers, in evaluation mode, whose weights it shares with them."""
    with unfilled():
        eye = TowerEye(config)
    tensors = {f"tower.{name}": t for name, t in towers.vision.state_dict().items()}
    eye.load_state_dict({name: tensors[name] for name in eye.state_dict()}, assign=True)
    return eye.eval().requires_grad_(False)


def tiny() -> TowerEyeConfig:
    """An eye of some thousand parameters, for tests."""
    small = TowerConfig(layers=1, heads=2, dim=12, ffn_dim=24)
    return TowerEyeConfig(size=8, patch=4, vision=small)
