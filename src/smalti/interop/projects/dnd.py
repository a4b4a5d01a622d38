"""DnD-Transformer (chenllliang/DnD-Transformer, commit 4a8b982).

Its tokenizer is an RQ-VAE of kakaobrain's code with a table for each depth: a checkpoint with the
key `state_dict`, and a `config.yaml` beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from smalti.interop.project import Project
from smalti.interop.projects.rq import TOKENIZER
from smalti.interop.saved import Dtype


@dataclass(frozen=True)
class DnDFiles:
    """The tokenizer of DnD-Transformer, an RQ-VAE.

    smalti convert dnd --tokenizer rqvae/model.pt --out dnd-tokenizer
    """

    tokenizer: Path
    """Checkpoint of the tokenizer with its config.yaml beside it, their folder, or a tar of it."""
    weights: Literal["ema", "model"] = "model"
    """The moving average, or the weights as trained."""
    dtype: Dtype = "stored"
    """Of the generator's weights in the pipeline."""


PROJECT = Project(
    options=DnDFiles,
    tokenizer=TOKENIZER,
    alone=lambda codes, checkpoint, options: codes,
)
