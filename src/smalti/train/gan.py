"""PatchGAN discriminator (Isola et al. 2016, arXiv:1611.07004) and adversarial losses."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

GanLoss = Literal["hinge", "vanilla", "non-saturating"]


class PatchGAN(nn.Module):
    """Images (B, 3, H, W), or maps of so many `planes`, to one logit per patch, (B, 1, h, w); high
    means real."""

    def __init__(self, channels: int = 64, layers: int = 3, planes: int = 3) -> None:
        super().__init__()
        parts: list[nn.Module] = [nn.Conv2d(planes, channels, 4, 2, 1), nn.LeakyReLU(0.2)]
        width = channels
        for i in range(1, layers + 1):
            before, width = width, channels * min(2**i, 8)
            stride = 2 if i < layers else 1
            parts += [
                nn.Conv2d(before, width, 4, stride, 1, bias=False),
                nn.BatchNorm2d(width),
                nn.LeakyReLU(0.2),
            ]
        parts.append(nn.Conv2d(width, 1, 4, 1, 1))
        self.main = nn.Sequential(*parts)
        self.smallest = 2**layers * 3
        """Smallest image side in pixels that leaves at least one patch."""
        self.init_weights()

    def init_weights(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0.0, 0.02)
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.weight, 1.0, 0.02)

    def forward(self, x: Tensor) -> Tensor:
        return self.main(x)


def discriminator_loss(kind: GanLoss, real: Tensor, fake: Tensor) -> Tensor:
    """What the discriminator minimises, from its logits of real and of generated images."""
    if kind == "hinge":
        return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())
    return 0.5 * (F.softplus(-real).mean() + F.softplus(fake).mean())


def generator_loss(kind: GanLoss, fake: Tensor) -> Tensor:
    """What the generator minimises, from the discriminator's logits of its images."""
    return F.softplus(-fake).mean() if kind == "non-saturating" else -fake.mean()


def adaptive_weight(reconstruction: Tensor, adversarial: Tensor, last_layer: Tensor) -> Tensor:
    """Weight that gives both losses gradients of equal norm at the last layer, in [0, 1e4].

    Esser et al. 2020 (arXiv:2012.09841).
    """
    grads = [
        torch.autograd.grad(loss, last_layer, retain_graph=True)[0].norm()
        for loss in (reconstruction, adversarial)
    ]
    return (grads[0] / (grads[1] + 1e-4)).clamp(0, 1e4).detach()
