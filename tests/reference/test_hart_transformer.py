"""HART's transformer against outputs of the official code, with the tokenizer it was drawn with.

The golden run drew the most probable codes. Its steps are drawn again by the model's own `draw`,
which reads the official orders and the official noise of the diffusion.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from golden import Vectors, close, float32, folders, load
from greedy import most_probable
from safetensors.torch import load_file
from test_hart_vae import tokenizer_of
from torch import Tensor

from official_settings import hart_config
from smalti.codes import Cond, Draw
from smalti.engine.causal import spans
from smalti.interop.projects.hart import model_state
from smalti.models.hart import HART, numbers
from smalti.sampling.chance import Chance
from smalti.sampling.filters import Filters
from smalti.sampling.guidance import ClassifierFree
from smalti.sampling.noise import Noise, SlotNoise
from smalti.sampling.orders import inverse
from smalti.sampling.reveal import Reveal
from smalti.sampling.solvers import Solver, respaced

ROUNDING = 1e-4
"""Of a picture and its latent, behind eight steps of a diffusion of random weights."""


class Orders(Noise):
    """The official orders of the last scale, in place of those of an image's noise."""

    orders: Tensor

    def uniform(self, slots: Tensor, width: int = 0, step: int | Tensor = 0) -> Tensor:
        if len(slots) == self.orders.shape[1] and step:
            return inverse(self.orders) / len(slots)
        return super().uniform(slots, width, step)


class Replayed(SlotNoise):
    """The official noise of the diffusion, (B, n, draws * C)."""

    drawn: Tensor

    def normal(self, width: int) -> Tensor:
        assert self.drawn.shape[2] == width
        return self.drawn


@pytest.mark.parametrize("folder", folders("hart_transformer"))
@torch.no_grad()
def test_hart(folder: Path):
    config, weights, io = load(folder)
    stored = folder / config["vae_weights"]
    settings, _, _ = load(stored.parent)
    tokenizer = tokenizer_of(settings, load_file(stored))
    steps = config.get("infer", {}).get("iters", 1)
    model = HART(hart_config(config["constructor"], tokenizer.config, refine_steps=steps)).eval()
    model.load_state_dict(model_state(float32(weights), tokenizer.state_dict()))
    check(model, tokenizer, config, io)


def check(model: HART, tokenizer: Any, config: dict[str, Any], io: Vectors) -> None:
    """Compare a generator with every golden tensor."""
    text, mask = io["context"], io["context_mask"].bool()
    io.check("context_position_ids", numbers(mask))
    respacing = config["constructor"].get("num_sampling_steps", "8")
    if "timestep_map" in config:
        assert respaced(1000, respacing).timesteps == tuple(config["timestep_map"])
    finest, cond = len(model.sizes) - 1, Cond(text=text, text_mask=mask)
    branches = Cond.cat([cond, cond.null()])
    prepared, cache = model.prepare(branches), model.cache(branches.batch)
    vectors, noise = model.spec.empty(cond.batch), Orders.request(0, cond.batch)
    noise = Orders(noise.seeds, noise.index)
    noise.orders = io["orders"]
    for k, span in enumerate(spans(model.blocks())):
        guide = ClassifierFree(1 + config["infer"]["cfg"] * min(k, finest - 1) / finest)
        slots = Replayed(noise, span.slots)
        if k == finest:
            slots.drawn = noise_of(model, io)
        chance = Chance(guide, slots, Filters(top_k=1), Solver(steps=respacing))
        draw = model.draw(vectors, prepared, span, cache, chance)
        vectors[:, span.slots] = draw.codes
        logits = guide.merge(model.head.logits(draw.h))
        tokens = check_tokens(model, logits, k, io)
        if k < finest:
            assert torch.equal(model.quantize.codes(draw.codes), tokens)
        else:
            check_rest(model, draw, tokens, guide, io)
    io.check("final_fhat", tokenizer.quantize.decode(vectors), ROUNDING)
    io.clamped("image01", (tokenizer.decode(vectors) + 1) / 2, 0, 1, ROUNDING)
    io.done()


def parts(model: HART, io: Vectors) -> list[Tensor]:
    """The positions of each pass over the last scale, (B, m), ascending."""
    orders, steps = io["orders"], model.config.refine_steps
    left = Reveal(steps=steps).left(orders.shape[1], steps)
    limits = zip(left, [orders.shape[1], *left], strict=False)
    return [orders[:, after:before].sort(1).values for after, before in limits]


def rows(x: Tensor, where: Tensor) -> Tensor:
    """Rows (B, n, ...) at positions (B, m), of each branch alike."""
    where = where.repeat(len(x) // len(where), 1)
    return x[torch.arange(len(x))[:, None], where]


def noise_of(model: HART, io: Vectors) -> Tensor:
    """The noise of the passes over the last scale, position by position: (B, n, draws * C)."""
    where = parts(model, io)
    batch, drawn = len(where[0]), list[Tensor]()
    for i, part in enumerate(where):
        first, steps = io[f"diff_noise_init_{i}"], io[f"diff_noise_steps_{i}"]
        both = torch.cat((first[None], steps[:, : len(first)]))  # (draws, B * m, C)
        drawn.append(both.transpose(0, 1).reshape(batch, part.shape[1], -1))
    return rows(torch.cat(drawn, 1), torch.cat(where, 1).argsort(1))


def check_tokens(model: HART, logits: Tensor, k: int, io: Vectors) -> Tensor:
    """Check the logits (B, n, V) of a scale, and return its codes (B, n)."""
    finest, tokens = len(model.sizes) - 1, logits.argmax(-1)
    every = torch.arange(logits.shape[1]).expand(len(logits), -1)
    for i, where in enumerate([every] if k < finest else parts(model, io)):
        part, name = rows(logits, where), f"{k + i}"
        io.check(f"cfg_logits_{name}", part)
        assert most_probable(part, io[f"tokens_{name}"]).all()
        tokens.scatter_(1, where, io[f"tokens_{name}"])
    return tokens


def check_rest(model: HART, draw: Draw, tokens: Tensor, guide: Any, io: Vectors) -> None:
    """Check what the diffusion depended on, and what it drew, of both branches alike."""
    embedded = model.quantize.embed(tokens)
    z = model.head.condition(draw.h, guide.tile(embedded))
    for i, where in enumerate(parts(model, io)):
        io.check(f"diff_z_{i}", rows(z, where))
        assert guide.scale - 1 == pytest.approx(io[f"diff_cfg_{i}"].item())
        official = io[f"diff_out_{i}"]  # its second half, noise of the other branch, is not used
        rest = rows(draw.codes - embedded, where).flatten(0, 1)
        close(rest, official[: len(rest)], ROUNDING)
