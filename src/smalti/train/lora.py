"""LoRA: fine-tuning by a low-rank update beside each frozen weight.

Hu et al. 2021 (arXiv:2106.09685). A layer with weight W (O, I) computes W x + s * B A x with
A (rank, I) random and B (O, rank) zero, so that training begins at the model as it was; s is
alpha / rank. Unusual: no wrapper and no second file. An adapted layer keeps the name of its weight,
and `merge` leaves the ordinary module. Why not the library `peft`: docs/decisions/0005-lora.md.
I input width, O output width.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from smalti.config import check
from smalti.nn.linear import Linear, Seldom, linear

STACKS = ("layers.", "encoder.layers.", "decoder.layers.", "trunk.")
"""Where models keep their attention and feed-forward."""


@dataclass(frozen=True)
class LoraConfig:
    rank: int = 0
    """Rank of the updates; 0 trains every weight instead."""
    alpha: float = 16.0
    """The update is scaled by alpha / rank."""
    targets: tuple[str, ...] = ()
    """Names of the linear layers that get an update; () takes those of attention and feed-forward
    in every layer of the model."""

    def __post_init__(self) -> None:
        check(self, "lora.", counts=("rank",), above_zero=("alpha",))


class LoraLinear(Linear):
    """`base` with a frozen weight and a trained update of low rank beside it."""

    def __init__(self, base: Linear, rank: int, scale: float) -> None:
        bias = base.bias is not None
        super().__init__(base.in_features, base.out_features, bias, device="meta")
        self.weight, self.bias, self.scale = base.weight, base.bias, scale
        down = torch.randn(rank, base.in_features) / base.in_features**0.5
        self.down = nn.Parameter(down.to(base.weight))
        self.up = nn.Parameter(base.weight.new_zeros(base.out_features, rank))

    def forward(self, input: Tensor) -> Tensor:
        """Input (..., I) to (..., O)."""
        low = linear(input, self.down)  # (..., rank)
        return super().forward(input) + self.scale * linear(low, self.up)

    @torch.no_grad()
    def merged(self) -> Linear:
        """The plain layer that computes the same; it takes over the weight, in place."""
        plain = Linear(self.in_features, self.out_features, self.bias is not None, device="meta")
        plain.weight, plain.bias = self.weight, self.bias
        plain.weight += self.scale * (self.up.float() @ self.down.float()).to(self.weight)
        return plain.train(self.training)


def targets(model: nn.Module, config: LoraConfig) -> dict[str, Linear]:
    """The layers of a model that get an update, by their full names.

    Raises ValueError for a target that the model does not have, or a rank above a layer's widths.
    """
    layers = {n: m for n, m in model.named_modules() if isinstance(m, Linear)}
    known = dict.fromkeys(_last(name) for name in layers)
    unknown = [t for t in config.targets if t not in known]
    if unknown:
        raise ValueError(f"lora.targets must be among {', '.join(known)}, got {', '.join(unknown)}")
    inside = [n for n, m in layers.items() if n.startswith(STACKS) and not isinstance(m, Seldom)]
    named = [n for n in layers if _last(n) in config.targets]
    chosen = {n: layers[n] for n in (named if config.targets else inside)}
    for name, layer in chosen.items():
        if config.rank > (width := min(layer.in_features, layer.out_features)):
            raise ValueError(
                f"lora.rank must be at most {width}, the smaller width of {name}, got {config.rank}"
            )
    return chosen


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def adapt(model: nn.Module, config: LoraConfig, whole: Iterable[nn.Module] = ()) -> None:
    """Freeze a model but for the modules `whole`, and give its target layers a trained update."""
    chosen = targets(model, config)
    model.requires_grad_(False)
    for part in whole:
        part.requires_grad_(True)
    for name, layer in chosen.items():
        model.set_submodule(name, LoraLinear(layer, config.rank, config.alpha / config.rank))


def merge(model: nn.Module) -> None:
    """Add every update to its weight and leave plain layers; a model without any stays as it is."""
    for name, layer in list(model.named_modules()):
        if isinstance(layer, LoraLinear):
            model.set_submodule(name, layer.merged())
