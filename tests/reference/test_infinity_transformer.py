"""Infinity's transformer against outputs of the official code.

Upstream's texts are one after another, without padding; its head has two logits for each bit.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from golden import Vectors, close, float32, folders, load
from torch import Tensor
from torch.nn import functional as F

from builders import generate
from official_settings import infinity_gpt_config
from smalti.codes import Cond, Span
from smalti.engine.causal import spans
from smalti.interop.projects.infinity import model_state
from smalti.models.infinity import Infinity
from smalti.sampling.chance import Chance
from smalti.sampling.filters import Filters
from smalti.sampling.guidance import Guidance
from smalti.sampling.noise import Noise, SlotNoise
from smalti.tokenizers.quantize.bsq import MultiScaleBSQ

Head = dict[str, Tensor]
"""The official head."""


def text_of(features: Tensor, lengths: Tensor, most: int) -> Cond:
    """Texts (sum of lengths, E) as a condition, padded on the left."""
    rows = [F.pad(row, (0, 0, most - len(row), 0)) for row in features.split(lengths.tolist())]
    mask = torch.arange(most) >= most - lengths[:, None]
    return Cond(text=torch.stack(rows), text_mask=mask)


def model_of(config: dict[str, Any], weights: dict[str, Tensor]) -> Infinity:
    """The model of a folder, whose training differs from evaluation in weights alone."""
    settings = infinity_gpt_config(config["constructor"], config["scale_schedule"], flip=0.0)
    settings = replace(settings, dropout=0.0, drop_path=0.0)
    model = Infinity(settings)
    model.load_state_dict(model_state(float32(weights), settings))
    return model.eval()


def head_of(weights: dict[str, Tensor]) -> Head:
    return {name: weights[f"head.{name}"].float() for name in ("weight", "bias")}


@pytest.mark.parametrize("folder", folders("infinity_transformer"))
def test_infinity(folder: Path):
    config, weights, io = load(folder)
    check(model_of(config, weights), head_of(weights), config, io)


def check(model: Infinity, head: Head, config: dict[str, Any], io: Vectors) -> None:
    """Compare a model with every golden tensor."""
    most = model.config.text_length
    cond = text_of(io["text_features"], io["text_lens"], most)
    negative = None
    if "neg_lens" in io:
        negative = text_of(io["neg_text_features"], io["neg_lens"], most)
    with torch.no_grad():
        check_forward(model, head, cond, config["token_stride"], io)
        for name in io.runs("gen_(.+)_bits_0"):
            check_run(model, head, cond, config, name, io, negative)
    io.done()


def check_forward(model: Infinity, head: Head, cond: Cond, stride: int, io: Vectors) -> None:
    """What is prepared, teacher forcing, and both losses."""
    quantizer = model.quantizer(model.config.scales)
    codes, prepared = quantizer.encode(io["features"]), model.prepare(cond)
    io.check("tf_gt_bits", codes[:, ::stride])
    io.check("tf_input", quantizer.inputs(codes)[:, ::stride])
    io.check("sos", prepared.cond)
    assert prepared.context.mask is not None
    io.check("ca_kv", prepared.context.words[prepared.context.mask.flatten(1)])
    io.check("cond_gss", prepared.cond if prepared.shared is None else prepared.shared)
    turn = torch.view_as_real(prepared.rotation[0]).movedim(-1, 0)
    io.check("rope_cos_sin", turn[:, ::stride])
    h = model.hidden(codes, prepared, Span.whole(model.spec.positions))
    both = F.linear(h, **head)
    io.check("tf_logits", both[:, ::stride])
    io.check("tf_first_level_logits", both[:, : model.blocks()[0]])
    folded(model.head.logits(h)[:, ::stride], io["tf_logits"])
    bits = model.spec.channels
    io.check("train_loss_uniform", model.loss(codes, cond).mean() / bits)
    io.check("train_loss_reweighted", model.train().loss(codes, cond).mean() / bits)
    model.eval()


def folded(ours: Tensor, golden: Tensor) -> None:
    """One logit is the difference of two, golden (..., C, 2) or (..., 2C)."""
    zeros, ones = golden.reshape(*ours.shape, 2).unbind(-1)
    close(ours, ones - zeros, size=golden.abs().max().item())


def rows_of(bits: list[Tensor], quantizer: MultiScaleBSQ) -> Tensor:
    """The bits (B, N, C) of maps or rows of positions, or of cells, scale by scale."""
    parts = []
    for part, grid in zip(bits, quantizer.grids, strict=True):
        part = part.flatten(1, -2)  # (B, n, C), or (B, c c n, K)
        if part.shape[1] != grid[0] * grid[1]:
            cells = part.transpose(1, 2).unflatten(2, quantizer.cell_grid(grid)).float()
            part = quantizer.as_rows(cells)
        parts.append(part.long())
    return torch.cat(parts, 1)


def check_run(
    model: Infinity,
    head: Head,
    cond: Cond,
    config: dict[str, Any],
    name: str,
    io: Vectors,
    negative: Cond | None,
) -> None:
    """A greedy run: its logits given the official bits, and the bits that the engine draws."""
    insertion = config.get(f"gen_{name}_insertion_layer", [0])
    layers = model.config.layers
    at = tuple(item and layers + item + 1 for item in insertion)
    model.config = replace(model.config, guide_at=at)
    plain = name == "nocfg"  # a run without temperature as well
    guidance, tau = Guidance(1.0 if plain else config["cfg"]), 1.0 if plain else config["tau"]
    negative = negative if name == "negative" else None
    quantizer = model.quantizer(model.config.scales)
    codes = rows_of(io.series(f"gen_{name}_bits_"), quantizer)
    filters, noise = Filters(tau, top_k=1), Noise.request(0, cond.batch)
    branches = guidance.branches(cond, negative)
    prepared, cache = model.prepare(branches), model.cache(branches.batch)
    steps, sure = spans(model.blocks()), [torch.ones(cond.batch, dtype=torch.bool)]
    for k, span in enumerate(steps):
        guide = guidance.at(k, len(steps))
        chance = Chance(guide, SlotNoise(noise, span.slots), filters)
        h = model.draw(codes, prepared, span, cache, chance).h
        both = guide.merge(F.linear(h, **head)) / tau
        io.check(f"gen_{name}_logits_{k}", both)
        logits = guide.merge(model.head.logits(h)) / tau
        if f"gen_{name}_logits_{k}" in io:
            folded(logits, io[f"gen_{name}_logits_{k}"])
        doubt = 2e-5 * both.abs().max()
        wrong = (logits > 0) != (codes[:, span.slots] > 0)
        assert (logits[wrong].abs() <= doubt).all()
        sure.append(sure[-1] & (logits.abs() > 2 * doubt).flatten(1).all(1))
    compared = sum(
        len(span.slots) * int(rows.sum()) for span, rows in zip(steps, sure[1:], strict=True)
    )
    assert compared >= codes.shape[1]  # codes of a whole picture, or more
    drawn = generate(model, cond, noise, guidance, filters, negative=negative)
    for span, rows in zip(steps, sure[1:], strict=True):  # to the first bit that is in doubt
        assert torch.equal(drawn[rows][:, span.slots], codes[rows][:, span.slots])
    io.check(f"gen_{name}_summed_codes", quantizer.decode(codes))
    model.config = replace(model.config, guide_at=(0,))


@pytest.mark.parametrize("folder", folders("infinity_transformer"))
def test_mixing_hidden_states_is_something_else(folder: Path):
    config, weights, io = load(folder)
    model = model_of(config, weights)
    if model.config.layers == 1:
        pytest.skip("before its last layer nothing is computed")
    cond = text_of(io["text_features"], io["text_lens"], model.config.text_length)
    noise, drawn = Noise.request(0, cond.batch), []
    for at in ((0,), (model.config.layers - 1,)):
        model.config = replace(model.config, guide_at=at)
        drawn.append(generate(model, cond, noise, Guidance(3.0)))
    assert not torch.equal(*drawn)
