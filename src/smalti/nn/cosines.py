"""Cosines of all pairs of unit features.

B and C features of E numbers.
"""

from __future__ import annotations

import torch
from torch import Tensor


def cosines(a: Tensor, b: Tensor) -> Tensor:
    """Unit features (B, E) and (C, E) to the cosine of each pair, (B, C) float32.

    They are multiplied in float32 within autocast too: what bfloat16 rounds away, a temperature
    makes a hundred times as large.
    """
    with torch.autocast(a.device.type, enabled=False):
        return a.float() @ b.float().T
