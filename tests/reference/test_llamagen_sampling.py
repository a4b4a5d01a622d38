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
        io.check(f"probs_{i}", probs)
        io.check(f"argmax_{i}", probs.argmax(-1))
        codes, logp = draw(filtered, torch.full((len(logits),), 0.5))
        expected = golden.gather(-1, codes[:, None]).squeeze(-1).log()
        assert (expected > -torch.inf).all()
        largest = filtered[filtered.isfinite()].abs().max().item()
        torch.testing.assert_close(logp, expected, rtol=0, atol=1e-5 + 1e-6 * largest)
    io.done()
