"""DnD-Transformer against outputs of its official code."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from golden import Vectors, folders, load
from greedy import draws, most_probable
from test_llamagen import condition, fitting, guidance_of

from official_settings import dnd_config
from smalti.codes import Cond, Known, Span
from smalti.engine.causal import spans
from smalti.interop.projects.dnd import gpt_state
from smalti.models.dnd import DnD
from smalti.sampling.chance import Chance
from smalti.sampling.guidance import Guidance
from smalti.sampling.noise import Noise, SlotNoise


@pytest.mark.parametrize("folder", folders("dnd_gpt"))
def test_dnd_gpt(folder: Path):
    config, weights, io = load(folder)
    model = DnD(dnd_config(config["constructor"])).eval()
    model.load_state_dict(gpt_state(fitting(weights, config["constructor"]), model.config))
    check_gpt(model, io)


def check_gpt(model: DnD, io: Vectors) -> None:
    """Compare a generator with every golden tensor."""
    cond = condition(io)
    if "token_ids" in io:
        codes = io["token_ids"]
        with torch.no_grad():
            logits = model.logits(codes, model.prepare(cond), Span.whole(codes.shape[1]))
        io.check("tf_logits", torch.stack(logits, 1))
        for training in (False, True):  # which may take different paths through attention
            with torch.set_grad_enabled(training):
                loss = model.loss(codes, cond).detach()
            io.check("tf_loss", loss.mean() / model.config.depth)
    check_runs(model, cond, io)
    io.done()


@torch.no_grad()
def check_runs(model: DnD, cond: Cond, io: Vectors) -> None:
    """Greedy runs with the guidance of the folder (cfg), in which its interval counts for nothing,
    and without (nocfg)."""
    settings = {"cfg": float(io.get("cfg_scale", 1)), "nocfg": 1.0}
    io.get("cfg_interval")
    for name in io.runs("gen_(.+)_tokens"):
        codes = io[f"gen_{name}_tokens"]
        guidance = guidance_of(settings[name], -1, len(model.blocks()))
        logits = replayed(model, cond, guidance, codes)  # (B, N, G, V)
        for count in io.runs(rf"gen_{name}_logits_first(\d+)"):
            io.check(f"gen_{name}_logits_first{count}", logits[:, : int(count)])
        sure = torch.ones(cond.batch, dtype=torch.bool)
        for found, ids in zip(logits.unbind(2), codes.unbind(2), strict=True):
            sure &= most_probable(found, ids)
        assert sure.any()
        draws(model, cond, guidance, codes, sure)


def replayed(model: DnD, cond: Cond, guidance: Guidance, codes: torch.Tensor) -> torch.Tensor:
    """The guided logits (B, N, G, V) of a run that drew `codes` (B, N, G)."""
    steps, branches, found = spans(model.blocks()), guidance.branches(cond), list[torch.Tensor]()
    prepared, cache = model.prepare(branches), model.cache(branches.batch)
    noise = Noise.request(0, cond.batch)
    for i, span in enumerate(steps):
        seen = Watched()
        given = codes[:, span.slots]
        known = Known(given, torch.ones(given.shape[:2], dtype=torch.bool))
        numbers = SlotNoise(noise, span.slots)
        chance = Chance(guidance.at(i, len(steps)), numbers, known=known)
        model.draw(codes, prepared, span, cache, chance._replace(filters=seen))
        found.append(torch.stack(seen.logits, 2))
    return torch.cat(found, 1)


class Watched:
    """Filters that leave logits as they are, and keep them."""

    def __init__(self) -> None:
        self.logits = list[torch.Tensor]()

    def at(self, depth: int, depths: int) -> "Watched":
        return self

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        self.logits.append(logits)
        return logits


SMALL = {
    "dim": 64, "n_layer": 6, "n_head": 4, "multiple_of": 32, "vocab_size": 64,
    "num_classes": 10, "block_size": 16,
}  # fmt: skip


def test_upstreams_defaults_and_layers_that_nothing_reads():
    assert dnd_config({"n_layer": 48, "n_head": 24, "dim": 1536}).at == (39, 47)
    told = {"num_pred_heads": 2, "pred_head_positions": [1, 3], "share_prediction_heads": 1}
    config = dnd_config(SMALL | told)
    assert (config.layers, config.at, config.shared_heads) == (4, (1, 3), True)
    ours = DnD(config).state_dict()
    own = replace(config, shared_heads=False)
    assert len(DnD(own).state_dict()) == len(ours) + 1
