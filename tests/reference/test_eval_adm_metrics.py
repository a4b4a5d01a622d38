"""FID, sFID, Inception Score, precision/recall, KID from features against ADM's evaluator
(TensorFlow), torch-fidelity, and float64 values.

Distances are differences of traces, KID of means of a kernel: 1e-9 of these in float64, 1e-6 where
upstream has float32, and 1e-5 of the value.
"""

from typing import Any

import pytest
import torch
from golden import Vectors, folders, load
from torch import Tensor

from smalti.eval.frechet import Gaussian, Moments, distance
from smalti.eval.scores import (
    inception_score,
    inception_score_fidelity,
    kid,
    kth_nearest,
    precision_recall,
    radii,
    split_scores,
    squared_distances,
    subset_rows,
    within,
)


@pytest.mark.parametrize("folder", folders("eval_adm_metrics"))
def test_adm_metrics(folder):
    config, _, io = load(folder)
    options = config["parameters"]
    for name, rows, metric in (("pool", "act", "fid"), ("spatial", "sp", "sfid")):
        if f"{rows}_ref" in io:
            frechet(io, name, rows, metric)
    if "is_pool" in io:
        inception(io, options)
    if "act_ref" in io:
        precision_and_recall(io, options["k"])
        half_precision(io, options["k"])
        kernel(io, options)
    io.done()


def frechet(io: Vectors, name: str, rows: str, metric: str) -> None:
    gaussians, stored = [], []
    for part in ("sample", "ref"):
        moments = Moments(io[f"{rows}_{part}"].shape[1])
        for batch in io[f"{rows}_{part}"].split(64):
            moments.add(batch)
        gaussians.append(moments.gaussian())
        mean, cov = gaussians[-1].mean, gaussians[-1].cov
        io.check(f"{name}_mu_{part}", mean)
        io.check(f"{name}_sigma_{part}", cov)
        mean = io.get(f"{name}_mu_{part}", mean)  # float32
        stored.append(Gaussian(mean, io.get(f"{name}_sigma_{part}", cov)))
    traces = sum(g.cov.trace().item() for g in gaussians)
    ours = distance(*gaussians).item()
    io.numbers(f"{metric}_f64", ours, 1e-9, traces)
    io.numbers(f"{metric}_torchfidelity", ours, 1e-5, ours + 0.1 * traces)
    for value in (ours, distance(*stored).item()):
        io.numbers(f"{metric}_adm", value, 1e-5, ours + 0.1 * traces)


def inception(io: Vectors, options: dict[str, Any]) -> None:
    logits = io["is_pool"] @ io["fc_weight"].T
    io.check("logits_unbiased", logits)
    io.check("softmax_adm", logits.softmax(1))
    for split in options["is_split_sizes"]:
        io.numbers(f"is_adm_split{split}", inception_score(logits, split), 1e-5)
    exact = io["is_pool"].double() @ io["fc_weight"].double().T
    split = options["is_split_sizes"][0]
    io.check("is_f64_scores", split_scores(exact.split(split)))
    if "fc_bias" in io:
        io.numbers("is_f64_withbias", inception_score(exact + io["fc_bias"], split))
    io.numbers("is_onesplit_1dtokenizer", inception_score(logits, len(logits)), 1e-5)

    splits, seed = options["isc_splits"], options["rng_seed"]
    logits = io.get("logits_unbiased", logits)
    shuffled = inception_score_fidelity(logits, splits, seed=seed)
    io.numbers("isc_tf_shuffled", shuffled, 1e-6)
    if "isc_tf_permutation" in io:
        rows = logits[io["isc_tf_permutation"]]
        again = inception_score_fidelity(rows, splits, shuffle=False)
        assert again == pytest.approx(shuffled, rel=1e-12)
    io.numbers("isc_tf_unshuffled", inception_score_fidelity(logits, splits, shuffle=False), 1e-6)


def precision_and_recall(io: Vectors, k: int) -> None:
    reference, samples = io["act_ref"], io["act_sample"]
    p, r = precision_recall(reference, samples, k)
    io.numbers("pr_f64", (p, r), 0)
    io.check("pr_f64_radii2_ref", radii(reference, k))
    io.check("pr_f64_radii2_sample", radii(samples, k))
    both = 2 * p * r / (p + r) if p + r else 0.0
    io.numbers("prc_tf", (p, r, both), 1 / min(len(reference), len(samples)), 1)


def half_precision(io: Vectors, k: int) -> None:
    reference, samples = io["act_ref"], io["act_sample"]
    sample_step = 1 / min(len(reference), len(samples))
    if "pr_adm_dist2_ref_sample" in io:  # all that follows from ADM's own distances is exact
        own = (io[f"pr_adm_dist2_{part}"].float() for part in ("ref_ref", "sample_sample"))
        limits = [kth_nearest(d.split(70, 1), k) for d in own]
        io.check("pr_adm_radii2_ref", limits[0], 0)
        io.check("pr_adm_radii2_sample", limits[1], 0)
        recalled, precise = within(io["pr_adm_dist2_ref_sample"].float(), *limits)
        io.numbers("pr_adm", [part.double().mean().item() for part in (precise, recalled)], 0)
    half = precision_recall(reference, samples, k, half=True)
    for name in ("pr_fp16emu", "pr_adm"):
        io.numbers(name, half, 2 * sample_step, 1)
    for n in io.runs(r"pr_fp16emu_dist2_ref_sample_(\d+)x\1"):
        corner = squared_distances(reference[: int(n)], samples[: int(n)], half=True)
        stored = io[f"pr_fp16emu_dist2_ref_sample_{n}x{n}"]
        ulp = torch.finfo(torch.float16).eps * 2 ** stored.log2().floor()
        assert ((corner - stored).abs() <= 2 * ulp).all()
    if "big_scale" in io:
        big = reference * io["big_scale"], samples * io["big_scale"]
        io.numbers("pr_adm_big", precision_recall(*big, k, half=True), sample_step, 1)
        for n in io.runs(r"pr_adm_big_dist2_(\d+)x\1"):
            corner = squared_distances(*(rows[: int(n)] for rows in big), half=True)
            io.check(f"pr_adm_big_dist2_{n}x{n}", corner)


def kernel(io: Vectors, options: dict[str, Any]) -> None:
    sets = io["act_sample"], io["act_ref"]
    numbers = options["kid_subsets"], options["kid_subset_size"], options["rng_seed"]
    drawn = zip(*subset_rows(*(len(rows) for rows in sets), *numbers), strict=True)
    for rows, name in zip(drawn, ("kid_idx_sample", "kid_idx_ref"), strict=True):
        io.check(name, torch.stack(rows))
    ours, size = kid(*sets, *numbers), kernel_mean(*sets)
    io.numbers("kid_tf_f64", ours, 1e-9, size)
    io.numbers("kid_tf", ours, 1e-5, ours[0] + 0.1 * size)


def kernel_mean(a: Tensor, b: Tensor) -> float:
    return ((a.double() @ b.double().T / a.shape[1] + 1) ** 3).mean().item()
