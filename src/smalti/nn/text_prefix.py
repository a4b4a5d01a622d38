"""Texts as LlamaGen reads them: the first positions of the sequence, of features of a text encoder.

Sun et al. 2024 (arXiv:2406.06525). Unusual: the null text is a constant that never learns.
B images, T prefix length, C width of the features, D width of the model.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.nn.linear import Linear


class TextPrefix(nn.Module):
    """Text features (B, T, C) to prefix embeddings (B, T, D); the null text is a constant."""

    uncond: Tensor

    def __init__(self, length: int, width: int, dim: int) -> None:
        super().__init__()
        self.fc1 = Linear(width, dim, bias=False)
        self.fc2 = Linear(dim, dim, bias=False)
        # upstream never trains it, but every checkpoint holds its own
        self.register_buffer("uncond", torch.empty(length, width))

    def forward(self, text: Tensor, drop: Tensor | None) -> Tensor:
        text = text.to(self.fc1.weight.dtype)
        if drop is not None:
            text = torch.where(drop[:, None, None], self.uncond.to(text.dtype), text)
        return self.fc2(F.gelu(self.fc1(text), approximate="tanh"))
