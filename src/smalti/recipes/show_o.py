"""A small model as Show-o (Xie et al. 2024, arXiv:2408.12528) for two CPU cores.

As published: text weighs 0.1 where nothing but text is in a row and 1 behind pictures, each a mean
of its own; a tenth of the pictures is learned without its text. Here all text weighs the same.
"""

from __future__ import annotations

from dataclasses import replace

from smalti.models.language import LanguageConfig
from smalti.models.show_o import PHI, ShowOConfig
from smalti.pipeline.sampling import Sampling
from smalti.recipes.base import UnifiedRecipe
from smalti.recipes.chameleon import shapes_chameleon
from smalti.train.joint import JointConfig


def small(dim: int = 192, layers: int = 6) -> LanguageConfig:
    """A decoder as Show-o's, of some million parameters. How many ids it knows its tokenizers
    decide."""
    return replace(PHI, vocab=1 << 16, layers=layers, heads=dim // 64, dim=dim, ffn_dim=4 * dim)


def shapes_show_o() -> UnifiedRecipe:
    """A small model that writes text word by word and draws shapes by revealing codes.

    smalti train shapes_vqgan --out runs/shapes-tokenizer
    smalti train shapes_show_o --tokenizer runs/shapes-tokenizer/tokenizer --out runs/show-o
    """
    return replace(
        shapes_chameleon(),
        model=ShowOConfig(small(), length=512),
        objective=JointConfig(over="kinds", cond_dropout=0.1),
        sampling=Sampling.of(guidance=2.0, steps=16, reveal="show-o"),
    )
