"""Published recipes of models that read by a frozen language model: what they have and train."""

import pytest
import torch

from smalti import modules
from smalti.recipes import RECIPES

LLAMA_7B = 6_738_415_616
LLAMA_3_8B = 8_030_261_248
LOOK = 64 * 1024 + 2 * 1024 + 6 * (6 * 1024 + 1024 * (512 + 1024 + 512) + 8 * 1024**2)
"""A resampler: latents, a last norm, and of each layer three norms, attention and feed-forward."""


def gated(dim: int) -> int:
    """A gated layer: two norms, attention of 8 heads of 64 on 1024 numbers, feed-forward, gates."""
    return 4 * dim + 512 * dim + 1024 * 1024 + 512 * dim + 8 * dim**2 + 2


@pytest.mark.parametrize(
    ("name", "frozen", "trained"),
    [
        ("flamingo_9b", LLAMA_7B, LOOK + 8 * gated(4096) + 3 * 4096),
        ("flamingo_3b", None, LOOK + 24 * gated(2048) + 3 * 2048),
        ("llm2clip", LLAMA_3_8B, None),
    ],
)
def test_sizes(name: str, frozen: int | None, trained: int | None):
    recipe = RECIPES[name]()
    among = modules.UNIFIED if trained else modules.TOWERS
    with torch.device("meta"):
        model = modules.module_of(recipe.model, among)
    sizes = {n: p.numel() for n, p in model.named_parameters()}
    kept = sum(size for n, size in sizes.items() if n.startswith(model.FROZEN))
    moved = sum(sizes.values()) - kept
    assert frozen in (None, kept) and trained in (None, moved)
    told = " ".join((RECIPES[name].__doc__ or "").split())
    assert f"{sum(sizes.values()) / 1e9:.1f} B parameters" in told
    assert f"{moved / 1e9:.1f} B are trained" in told


def test_the_language_model_of_sentences_is_llama_3():
    with torch.device("meta"):
        model = modules.module_of(RECIPES["llm2clip_sentences"]().model, modules.LANGUAGES)
    assert sum(p.numel() for p in model.parameters()) == LLAMA_3_8B
