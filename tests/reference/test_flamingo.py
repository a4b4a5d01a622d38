"""Flamingo's resampler and gated layers against outputs of open_flamingo."""

from pathlib import Path
from typing import Any

import pytest
import torch
from golden import folders, load

from smalti.interop.projects.flamingo import renamed
from smalti.nn.cross import Context
from smalti.nn.perceiver import GatedLayer, Resampler, ResamplerConfig, Sees, gaze

PARTS = ("perceiver", "gated_cross_attn_layer")


def resampler(told: dict[str, Any], weights: dict[str, torch.Tensor]) -> Resampler:
    """The resampler of a folder, whose constructor leaves out what has its default."""
    config = ResamplerConfig(
        dim=told["dim"],
        layers=told.get("depth", 6),
        heads=told.get("heads", 8),
        head_dim=told.get("dim_head", 64),
        latents=told.get("num_latents", 64),
        multiplier=told.get("ff_mult", 4),
        pictures=told.get("max_num_media", told.get("num_media_embeds")) or 0,
        frames=told.get("max_num_frames") or 0,
    )
    found = Resampler(config)
    found.load_state_dict(renamed(weights))
    return found


def gated(told: dict[str, Any], seen: int, weights: dict[str, torch.Tensor]) -> GatedLayer:
    found = GatedLayer(
        told["dim"],
        told.get("dim_visual", seen),
        told.get("heads", 8),
        told.get("dim_head", 64),
        told.get("ff_mult", 4),
    )
    found.load_state_dict(renamed(weights))
    return found


@pytest.mark.parametrize("folder", folders("flamingo"))
@torch.no_grad()
def test_flamingo(folder: Path):
    config, weights, io = load(folder)
    mine = [
        {n.removeprefix(f"{part}."): t for n, t in weights.items() if n.startswith(f"{part}.")}
        for part in PARTS
    ]
    told = config["constructor"]
    look = resampler(told["perceiver"], mine[0])
    features = io["vision_features"]
    latents = look(features)
    io.check("resampled", latents)

    layer, x = gated(told["gated"], features.shape[-1], mine[1]), io["text"]
    last = io["media_locations"].bool().cumsum(1)
    io.check("text_time", last)
    count, m = latents.shape[1:3]
    sees: Sees = "last" if told["gated"].get("only_attend_immediate_media", True) else "all"
    own = torch.ones(*last.shape, count, dtype=torch.bool)
    context = Context(latents.flatten(1, 2), None, keep=False)
    what = gaze(last, own, m, sees)
    io.check("cross_attn", layer.look(x, context, what))
    io.check("out", layer(x, context, what))
    kept = Context(latents.flatten(1, 2), None, keep=True)
    for _ in range(2):  # the second time with keys and values that were kept
        part = gaze(last[:, -1:], own[:, -1:], m, sees)
        io.check("out_cached", layer(x[:, -1:], kept, part))
    layer.attention_gate.zero_()
    layer.ffn_gate.zero_()
    assert torch.equal(layer(x, context, what), x)
    io.check("out_gates_zero", layer(x, context, what))
    io.done()
