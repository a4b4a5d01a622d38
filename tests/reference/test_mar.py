"""MAR against outputs of the official code: trunk, training and sampling.

Each step of a run reads the official codes of the steps before, so that runs of random weights,
which may diverge, are compared step by step.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from golden import Vectors, close, float32, folders, load
from mar_head import check_head, solved
from torch import Tensor

from builders import generate
from official_settings import MAR_DEFAULTS as DEFAULTS
from official_settings import mar_config
from smalti.codes import Cond, Draw, Guide, Turn
from smalti.interop.projects.mar import mar_state
from smalti.models.mar import MAR
from smalti.sampling.chance import Chance
from smalti.sampling.filters import Filters
from smalti.sampling.guidance import Guidance
from smalti.sampling.noise import Noise
from smalti.sampling.reveal import Reveal
from smalti.sampling.solvers import Solver


def patchify(latents: Tensor, size: int) -> Tensor:
    """Latents (B, Z, h, w) as codes (B, N, Z * size * size)."""
    return torch.nn.functional.pixel_unshuffle(latents, size).flatten(2).transpose(1, 2)


def unpatchify(codes: Tensor, grid: tuple[int, int], size: int) -> Tensor:
    folded = codes.transpose(1, 2).unflatten(2, grid)
    return torch.nn.functional.pixel_shuffle(folded, size)


def epsilon(config: dict[str, Any]) -> dict[str, float]:
    """Our field of the norms, of which the golden folder speaks in words: LayerNorm(eps=1e-06)."""
    words = re.search(r"eps=([-+.\de]+)", config.get("norm_layer", ""))
    return {"norm_eps": float(words[1])} if words else {}


@pytest.mark.parametrize("folder", folders("mar"))
def test_mar(folder: Path):
    config, weights, io = load(folder)
    model = MAR(mar_config(config["constructor"], **epsilon(config))).eval()
    model.load_state_dict(mar_state(float32(weights)))
    check_mar(model, config, io)


def check_mar(model: MAR, config: dict[str, Any], io: Vectors) -> None:
    """Compare a model with every golden tensor."""
    made = DEFAULTS | config["constructor"]
    size, grid = made["patch_size"], model.config.grid
    codes = patchify(io["latents"], size)
    io.check("patchified", codes, 0)
    io.check("unpatchified", unpatchify(codes, grid, size), 0)
    check_trunk(model, codes, config, io)
    check_head(model.head, config, io)
    if "train_t" in io:
        check_training(model, codes, made["diffusion_batch_mul"], io)
    for name, run in config.get("runs", {}).items():
        if f"{name}_orders" not in io:
            continue
        drawn = check_run(model, name, run, io)
        io.check(f"{name}_out", unpatchify(drawn, grid, size), 0)
    io.done()


def golden_turn(io: Vectors) -> Turn:
    known = io["mask"] == 0
    return Turn(known, None, int(known.sum(1).max()))


@torch.no_grad()
def check_trunk(model: MAR, codes: Tensor, config: dict[str, Any], io: Vectors) -> None:
    cond, turn, n = Cond(labels=io["labels"]), golden_turn(io), model.spec.positions
    hidden = math.ceil(n * config["mask_rate"])
    assert torch.equal(
        io["mask"].gather(1, io["orders"])[:, :hidden], torch.ones(len(codes), hidden)
    )
    assert int(io["mask"].sum()) == len(codes) * hidden
    io.check("class_embedding", model.cls_embedding(cond.labels), 0)
    for name, condition in (("", cond), ("_uncond", cond.null())):
        prepared, read = model.prepare(condition), model.read(codes, turn)
        rows = torch.cat((prepared.buffer, read.x), 1)
        io.check(f"encoder_out{name}", model.encoder(rows))
        io.check(f"decoder_z{name}", model.hidden(codes, prepared, turn))


def check_training(model: MAR, codes: Tensor, repeat: int, io: Vectors) -> None:
    """The loss and gradients with the stored times and noise, over all positions with weights as
    upstream, and over unknown ones only as we do."""
    mask, turn, cond = io["mask"], golden_turn(io), Cond(labels=io["labels"])
    unknown = mask.argsort(descending=True, stable=True)[:, : int(mask[0].sum())]
    for wanted in (None, unknown):
        index = torch.arange(mask.shape[1]).expand(mask.shape) if wanted is None else wanted

        def chosen(values: Tensor, index: Tensor = index) -> Tensor:
            """Rows of (repeat * B * N, ...) at the index of each repeat: (repeat, B, m, ...)."""
            values = values.unflatten(0, (repeat, *mask.shape))
            return torch.stack([values[:, b, i] for b, i in enumerate(index)], 1)

        model.zero_grad()
        h = model.hidden(codes, model.prepare(cond), turn._replace(wanted=wanted))
        target = torch.stack([c[i] for c, i in zip(codes, index, strict=True)])
        parts = model.head.errors(h, target, chosen(io["train_t"]), chosen(io["train_noise"]))
        weight = mask.gather(1, index).expand(repeat, -1, -1)
        loss = ((parts["mse"] + parts["vb"]) * weight).sum() / weight.sum()
        loss.backward()
        io.check("train_loss", loss)
        gradients = {
            "z_proj_weight": model.z_proj.weight,
            "mask_token": model.mask_token,
            "head_final_weight": model.head.out.weight,
        }
        for name, weight in gradients.items():
            assert weight.grad is not None
            io.check(f"grad_{name}", weight.grad, 1e-4)
        model.cls_embedding.zero_grad()  # its output was a constant there
        norms = [p.grad.norm() for p in model.parameters() if p.grad is not None]
        io.check("total_grad_norm", torch.stack(norms).norm(), 1e-4)


class Stored(Noise):
    """The stored noise of a run, one step after another, in place of addressed numbers."""

    def __init__(self, steps: list[Tensor], batch: int) -> None:
        numbers = Noise.request(0, batch)
        super().__init__(numbers.seeds, numbers.index)
        self.steps = iter(steps)

    def normal(self, slots: Tensor, width: int = 0, step: int = 0) -> Tensor:
        return next(self.steps)


def stored_noise(name: str, steps: int, batch: int, positions: list[Tensor], io: Vectors) -> Stored:
    """Upstream draws for the positions of a step in ascending order; we in that of `positions`."""
    noises = list[Tensor]()
    for i in range(steps):
        start = io[f"{name}_noise_init_{i}"]
        all_draws = torch.cat((start[None], io[f"{name}_noise_steps_{i}"][:, : len(start)]))
        per_row = all_draws.unflatten(1, (batch, -1)).permute(1, 2, 0, 3)  # (B, m, draws, C)
        rank = positions[i].argsort(1).argsort(1)
        rows = [row[r] for row, r in zip(per_row, rank, strict=True)]
        noises.append(torch.stack(rows).flatten(2))
    return Stored(noises, batch)


def watching(
    sample: Callable[..., Draw], wanted: list[Tensor], drawn: list[tuple[Guide, Draw]]
) -> Callable[..., Draw]:
    """A head's `sample` that adds the guide and the draw of each call to `drawn`, and gives the
    codes that are `wanted` of it."""

    def watched(h: Tensor, chance: Chance) -> Draw:
        draw = sample(h, chance)
        drawn.append((chance.guide, draw))
        return draw._replace(codes=wanted[len(drawn) - 1])

    return watched


@torch.inference_mode()
def check_run(model: MAR, name: str, run: dict[str, Any], io: Vectors) -> Tensor:
    """Replay a run through the loop of the engine; what each step draws must agree."""
    orders = io[f"{name}_orders"].flip(1)  # upstream reveals from the end
    batch, steps, scale = len(orders), run["num_iter"], run["cfg"]
    reveal = Reveal(steps)
    left = [orders.shape[1], *reveal.left(orders.shape[1], steps)]
    ends = [orders.shape[1] - n for n in left]
    positions = [orders[:, a:b] for a, b in zip(ends, ends[1:], strict=False)]
    noise = stored_noise(name, steps, batch, positions, io)
    guidance = Guidance(scale, run["cfg_schedule"])
    filters, solver = Filters(run["temperature"]), Solver(steps=run["num_sampling_steps"])
    ranks = [p.argsort(1) for p in positions]
    golden = [io[f"{name}_sampled_{i}"] for i in range(steps)]
    golden = [
        g[: rank.numel()].unflatten(0, rank.shape) for g, rank in zip(golden, ranks, strict=True)
    ]
    wanted = [taken(g, rank.argsort(1)) for g, rank in zip(golden, ranks, strict=True)]
    drawn = list[tuple[Guide, Draw]]()
    with patch.object(model.head, "sample", watching(model.head.sample, wanted, drawn)):
        request = (model, Cond(labels=io["labels"]), noise, guidance, filters)
        codes = generate(*request, orders=orders, reveal=reveal, solver=solver)
    assert len(drawn) == steps
    for i, (guide, draw) in enumerate(drawn):
        branches = len(draw.h) // batch
        io.check(f"{name}_z_{i}", taken(draw.h, ranks[i].repeat(branches, 1)))
        io.check(f"{name}_cfg_{i}", torch.tensor([getattr(guide, "scale", 1.0)]))
        _, rounding = solved(model.head, name, i, run, io)
        close(taken(draw.codes, ranks[i]), golden[i], 1, rounding)
    return codes


def taken(rows: Tensor, index: Tensor) -> Tensor:
    """Rows (B, m, C) of each image at the index (B, m)."""
    return rows.gather(1, index[..., None].expand(-1, -1, rows.shape[-1]))
