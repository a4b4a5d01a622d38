"""Meissonic's schedules against outputs of the official scheduler: tokens are exact."""

from pathlib import Path

import pytest
import torch
from golden import folders, load

from smalti.codes import Draw
from smalti.engine.masked import Plan, Surest
from smalti.sampling.noise import Noise
from smalti.sampling.reveal import Reveal, least_sure

SCHEDULES = {"cosine": "meissonic", "linear": "meissonic-linear"}
LAST = 0.01
"""The temperature at the end where only the first is given."""


@pytest.mark.parametrize("folder", folders("meissonic_scheduler"))
def test_meissonic_scheduler(folder):
    config, _, io = load(folder)
    mask, steps = config["mask_token_id"], config["num_inference_steps"]
    span = config["temperature"]
    first, last = span if isinstance(span, list) else (span, LAST)
    # ours falls to nothing; what is left of the official one at the end is added
    reveal = Reveal(steps, SCHEDULES[config["masking_schedule"]], confidence=first - last)
    io.check("timesteps", torch.arange(steps).flip(0))
    weights = torch.tensor([last + reveal.weight(i, steps) for i in range(steps)])
    io.check("temperatures", weights, 1e-6)
    left = reveal.left(io["sample_in_0"][0].numel(), steps)
    for i in range(steps):
        codes, logits = io[f"sample_in_{i}"].flatten(1), io[f"logits_{i}"].flatten(2)
        known = codes != mask
        logp, drawn = logits.transpose(1, 2).log_softmax(-1).max(-1)  # (B, N)
        codes = torch.where(known, codes, drawn)
        io.check(f"pred_{i}", codes)
        if i + 1 < steps:
            confidence = logp + weights[i] * io[f"gumbel_{i}"]
            unknown = (~known).sum(1)  # of images that begin with known codes the shares are too
            count = (unknown - 1).clamp(max=left[i]).clamp(min=1)
            hidden = least_sure(confidence.masked_fill(known, torch.inf), count)
            codes = codes.masked_fill(hidden, mask)
        io.check(f"sample_out_{i}", codes)
    io.done()


@pytest.mark.parametrize("folder", folders("meissonic_scheduler"))
def test_the_loop_takes_what_the_scheduler_takes(folder: Path, monkeypatch):
    """Step after step, from what the loop itself made of the step before."""
    config, _, io = load(folder)
    mask, steps = config["mask_token_id"], config["num_inference_steps"]
    start = io["sample_in_0"].flatten(1)
    if (start != mask).any():
        pytest.skip("of pictures that begin with known codes the loop's shares are of the others")
    span = config["temperature"]
    first, last = span if isinstance(span, list) else (span, LAST)
    reveal = Reveal(steps, SCHEDULES[config["masking_schedule"]], confidence=first - last)
    noise = Noise.request(0, 1)
    codes, ready = torch.zeros_like(start), torch.zeros_like(start, dtype=torch.bool)
    plan = Plan.of(reveal, ready)
    taker = Surest(noise, reveal, steps, start.shape[1])
    assert plan.steps == steps
    for i in range(steps):
        doubt = io.get(f"gumbel_{i}", torch.zeros(start.shape))
        monkeypatch.setattr("smalti.engine.masked.gumbel", lambda _, doubt=doubt: doubt)
        logp, drawn = io[f"logits_{i}"].flatten(2).transpose(1, 2).log_softmax(-1).max(-1)
        asked = taker.ask(i, plan.hiding(i))
        asked = asked._replace(weight=asked.weight + last)
        codes, ready = taker.take(codes, ready, Draw(drawn, logp, logp), asked)
        io.check(f"sample_out_{i}", codes.masked_fill(~ready, mask))
