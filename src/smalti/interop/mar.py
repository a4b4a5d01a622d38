"""MAR's official files: names and settings (LTH14/mar).

Files are state dicts of the model and of its moving average.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from smalti.heads.diffusion import DiffusionConfig
from smalti.models.mar import MARConfig
