"""Infinity's multi-scale binary spherical quantizer against outputs of the official code.

Upstream's maps have an axis of time of length 1, and its bits are (B, 1, h, w, K) scale by scale.
"""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from golden import Vectors, folders, load
from torch.nn import functional as F

from smalti.tokenizers.quantize.bsq import Corrected, MultiScaleBSQ

FIXED = {"new_quant": True, "schedule_mode": None}
"""Options of upstream that change nothing here: its other rule of quantizing does not run, and
schedules are given."""


def quantizer_of(config: dict[str, Any], cells: int = 1, last: int | None = None) -> MultiScaleBSQ:
    made = dict(config["constructor"])
    bits = round(math.log2(made.pop("codebook_size")))
    assert made.pop("dim") == bits, "there is no projection of latents to bits"
    for name, value in made.items():
        assert FIXED[name] in (None, value), f"{name} {value}"
    grids = tuple((h, w) for _, h, w in config["scale_schedule"])
    if last is not None:
        grids = tuple(g for g in grids if g[0] <= last)
    return MultiScaleBSQ(grids, bits, cells)


@pytest.mark.parametrize("folder", folders("infinity_bsq"))
@torch.no_grad()
def test_infinity_bsq(folder: Path):
    config, _, io = load(folder)
    quantizer = quantizer_of(config)
    assert not quantizer.state_dict(), "there is nothing to load"
    io.check("lfq_mask", 2 ** torch.arange(quantizer.bits - 1, -1, -1))
    check_codes(quantizer, io)
    for run in sorted({name.split("_")[0] for name in io.runs(r"bsc_(.+)_x_BLC_wo_prefix")}):
        check_correction(quantizer, io, f"bsc_{run}_")
    if "patchify_features" in io:
        check_cells(config, io)
    io.done()


def check_codes(quantizer: MultiScaleBSQ, io: Vectors) -> None:
    features = io["features"]
    codes = quantizer.encode(features)
    parts = codes.split(quantizer.sizes, 1)
    for k, (part, grid) in enumerate(zip(parts, quantizer.grids, strict=True)):
        io.check(f"bits_{k}", part.unflatten(1, grid).unsqueeze(1))
    vectors = quantizer.embed(parts[-1]).transpose(1, 2).unflatten(2, quantizer.grids[-1])
    io.check("code_of_bits_last", vectors.unsqueeze(2))
    for latent in (quantizer.decode(codes), quantizer.decode(quantizer.embed(codes))):
        io.check("sum_codes_from_bits", latent.unsqueeze(2))
        io.check("quantized", latent)
    io.check("quantized", quantizer(features).latent)
    for k in range(1, len(quantizer.grids)):  # the encoder's own, which no transformer reads
        sofar = quantizer.decode(codes, k)
        io.check(f"encoder_var_input_area_{k}", quantizer.remains(sofar, k).unsqueeze(2))


def check_correction(quantizer: MultiScaleBSQ, io: Vectors, run: str) -> None:
    """The inputs and labels of a run, whose random numbers are stored if bits are flipped."""
    features, uniform = io["features"], io.series(f"{run}uniform_")
    strength = torch.stack(io.series(f"{run}strength_")) if uniform else torch.zeros(1)
    numbers = torch.ones(len(features), sum(quantizer.sizes), quantizer.bits)
    if uniform:
        drawn = torch.cat([u.flatten(1, 3) for u in uniform], 1)
        numbers[:, : drawn.shape[1]] = drawn
    found = quantizer.correct(features, numbers, strength)
    io.check(f"{run}x_BLC_wo_prefix", found.inputs)
    io.check(f"{run}x_BLC_wo_prefix", quantizer.inputs(found.shown))
    check_labels(found, quantizer.sizes, io, f"{run}gt_bits_")
    flips = any((u < s).any() for u, s in zip(uniform, strength, strict=False))
    assert torch.equal(found.shown, found.labels) == (not flips)
    if not uniform:
        assert torch.equal(found.labels, quantizer.encode(features))


def check_labels(found: Corrected, sizes: list[int], io: Vectors, name: str) -> None:
    for k, part in enumerate(found.labels.split(sizes, 1)):
        io.check(f"{name}{k}", part)


def check_cells(config: dict[str, Any], io: Vectors) -> None:
    """A position that holds the bits of several cells, without flips."""
    features, bits = io["patchify_features"], io["patchify_gt_bits"].shape[2]
    cells = math.isqrt(bits // features.shape[1])
    quantizer = quantizer_of(config, cells, features.shape[2] // cells)
    numbers = torch.ones(len(features), sum(quantizer.sizes), bits)
    found = quantizer.correct(features, numbers, torch.zeros(1))
    io.check("patchify_x_BLC_wo_prefix", found.inputs)
    io.check("patchify_gt_bits", found.labels)
    assert torch.equal(quantizer.encode(features), found.labels)
    plain = MultiScaleBSQ(tuple(quantizer.cell_grid(g) for g in quantizer.grids), features.shape[1])
    torch.testing.assert_close(
        quantizer.decode(found.labels), plain.decode(plain.encode(features)), rtol=0, atol=1e-6
    )


@torch.no_grad()
def test_the_inputs_of_encoder_and_transformer_are_different():
    """Upstream's quantizer gives inputs by area, which no transformer reads."""
    quantizer = MultiScaleBSQ(((1, 1), (2, 2), (3, 3), (8, 8)), 8)
    latent = torch.randn(2, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    by_area = quantizer.as_rows(quantizer.remains(latent, 2))
    assert (by_area - quantizer.shrink(latent, 2)).abs().max() > 0.1
    assert F.mse_loss(quantizer.as_rows(latent), quantizer.shrink(latent, 3)) == 0
