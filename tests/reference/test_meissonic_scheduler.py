"""Meissonic's schedule against outputs of the official scheduler: tokens are exact."""

import pytest
import torch
from golden import folders, load

from smalti.sampling.reveal import Reveal, least_sure


@pytest.mark.parametrize("folder", folders("meissonic_scheduler"))
def test_meissonic_scheduler(folder):
    config, _, io = load(folder)
    mask, steps = config["mask_token_id"], config["num_inference_steps"]
    first, last = config["temperature"]
    assert last == 0 and config["masking_schedule"] == "cosine"
    reveal = Reveal(steps, "meissonic", confidence=first)
    assert torch.equal(io["timesteps"], torch.arange(steps).flip(0))
    weights = torch.tensor([reveal.weight(i, steps) for i in range(steps)])
    torch.testing.assert_close(weights, io["temperatures"])
    left = reveal.left(io["sample_in_0"][0].numel(), steps)
    for i in range(steps):
        codes, logits = io[f"sample_in_{i}"].flatten(1), io[f"logits_{i}"].flatten(2)
        known = codes != mask
        logp, drawn = logits.transpose(1, 2).log_softmax(-1).max(-1)  # (B, N)
        codes = torch.where(known, codes, drawn)
        assert torch.equal(codes, io[f"pred_{i}"].flatten(1))
        if i + 1 < steps:
            confidence = logp + reveal.weight(i, steps) * io[f"gumbel_{i}"]
            count = torch.full((len(codes),), left[i])
            hidden = least_sure(confidence.masked_fill(known, torch.inf), count)
            codes = codes.masked_fill(hidden, mask)
        assert torch.equal(codes, io[f"sample_out_{i}"].flatten(1))
    io.done()
