"""The published sizes of VAR's tokenizer."""

import torch
from torch import nn

from smalti.tokenizers.multiscale_vqvae import MultiScaleVQVAE, var256, var512


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_the_published_tokenizer_has_its_parameters():
    with torch.device("meta"):
        model = MultiScaleVQVAE(var256())
    parts = (model.encoder, model.decoder, model.quantize, model)
    assert [round(count(part) / 1e6, 2) for part in parts] == [44.11, 64.65, 0.17, 108.95]


def test_the_published_schedules():
    sides = [grid[0] for grid in var256().scales]
    assert sides == [1, 2, 3, 4, 5, 6, 8, 10, 13, 16] and var256().spec.positions == 680
    sides = [grid[0] for grid in var512().scales]
    assert sides == [1, 2, 3, 4, 6, 9, 13, 18, 24, 32] and var512().spec.positions == 2240
