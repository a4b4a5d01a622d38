"""Filtered probabilities against LlamaGen's sampler."""

from pathlib import Path

import pytest
import torch
from golden import folders, load

from smalti.sampling.filters import Filters, draw


@pytest.mark.parametrize("folder", folders("llamagen_sampling"))
def test_llamagen_sampling(folder: Path):
    config, _, io = load(folder)
    logits = io["logits"][:, -1]  # (B, V)
    combos = config["constructor"]["combos"]
    assert combos
    for i, (temperature, top_k, top_p) in enumerate(combos):
        filtered = Filters(temperature, top_k, top_p)(logits)
        probs, golden = filtered.softmax(-1), io[f"probs_{i}"]
        assert torch.equal(probs > 0, golden > 0)
        torch.testing.assert_close(probs, golden, rtol=0, atol=1e-6)
        assert torch.equal(probs.argmax(-1, keepdim=True), io[f"argmax_{i}"])
        codes, logp = draw(filtered, torch.full((len(logits),), 0.5))
        expected = golden.gather(-1, codes[:, None]).squeeze(-1).log()
        assert (expected > -torch.inf).all()
        torch.testing.assert_close(logp, expected, rtol=0, atol=1e-5)
    io.done()
