"""FID, sFID, Inception Score, precision/recall, KID from features against ADM's evaluator
(TensorFlow), torch-fidelity, and float64 values."""

import pytest
import torch
from golden import folders, load

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
    frechet(io, "pool", "act")
    frechet(io, "spatial", "sp")
    inception(io, options)
    precision_and_recall(io, options["k"])
    kernel(io, options)
    io.done()


def frechet(io, name, rows):
    gaussians = []
    for part in ("sample", "ref"):
        moments = Moments(io[f"{rows}_{part}"].shape[1])
        for batch in io[f"{rows}_{part}"].split(64):
            moments.add(batch)
        gaussians.append(moments.gaussian())
        mean, cov = io[f"{name}_mu_{part}"], io[f"{name}_sigma_{part}"]
        torch.testing.assert_close(gaussians[-1].mean.float(), mean, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(gaussians[-1].cov, cov, rtol=1e-10, atol=1e-12)
    metric = "fid" if name == "pool" else "sfid"
    found = distance(*gaussians).item()
    assert found == pytest.approx(io[f"{metric}_f64"].item(), rel=1e-9)
    assert found == pytest.approx(io[f"{metric}_adm"].item(), rel=1e-5)
    if metric == "fid":
        assert found == pytest.approx(io["fid_torchfidelity"].item(), rel=1e-5)
    stored = [Gaussian(io[f"{name}_mu_{p}"], io[f"{name}_sigma_{p}"]) for p in ("sample", "ref")]
    assert distance(*stored).item() == pytest.approx(io[f"{metric}_adm"].item(), rel=1e-5)


def inception(io, options):
    logits = io["is_pool"] @ io["fc_weight"].T
    torch.testing.assert_close(logits, io["logits_unbiased"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(logits.softmax(1), io["softmax_adm"], rtol=1e-5, atol=1e-7)
    for split in options["is_split_sizes"]:
        found = inception_score(logits, split)
        assert found == pytest.approx(io[f"is_adm_split{split}"].item(), rel=2e-6)
    exact = io["is_pool"].double() @ io["fc_weight"].double().T
    split = options["is_split_sizes"][0]
    found = split_scores(exact.split(split))
    torch.testing.assert_close(found, io["is_f64_scores"], rtol=1e-10, atol=0)
    biased = inception_score(exact + io["fc_bias"], split)
    assert biased == pytest.approx(io["is_f64_withbias"].item(), rel=1e-10)
    whole = inception_score(logits, len(logits))
    assert whole == pytest.approx(io["is_onesplit_1dtokenizer"].item(), rel=2e-6)

    splits, seed = options["isc_splits"], options["rng_seed"]
    shuffled = inception_score_fidelity(io["logits_unbiased"], splits, seed=seed)
    assert shuffled == pytest.approx(io["isc_tf_shuffled"].tolist(), rel=1e-6)
    rows = io["logits_unbiased"][io["isc_tf_permutation"]]
    found = inception_score_fidelity(rows, splits, shuffle=False)
    assert found == pytest.approx(shuffled, rel=1e-12)
    found = inception_score_fidelity(io["logits_unbiased"], splits, shuffle=False)
    assert found == pytest.approx(io["isc_tf_unshuffled"].tolist(), rel=1e-6)


def precision_and_recall(io, k):
    reference, samples = io["act_ref"], io["act_sample"]
    fewest = min(len(reference), len(samples))
    found = precision_recall(reference, samples, k)
    assert found == tuple(io["pr_f64"].tolist())
    torch.testing.assert_close(radii(reference, k), io["pr_f64_radii2_ref"], rtol=1e-10, atol=0)
    torch.testing.assert_close(radii(samples, k), io["pr_f64_radii2_sample"], rtol=1e-10, atol=0)
    p, r = found
    triple = [p, r, 2 * p * r / (p + r)]
    assert triple == pytest.approx(io["prc_tf"].tolist(), abs=1 / fewest)

    # ADM's own float16 distances: all that follows from them is exact
    own = io["pr_adm_dist2_ref_ref"].float(), io["pr_adm_dist2_sample_sample"].float()
    limits = [kth_nearest(d.split(70, 1), k) for d in own]
    assert torch.equal(limits[0], io["pr_adm_radii2_ref"])
    assert torch.equal(limits[1], io["pr_adm_radii2_sample"])
    recalled, precise = within(io["pr_adm_dist2_ref_sample"].float(), *limits)
    shares = [part.double().mean().item() for part in (precise, recalled)]
    assert shares == io["pr_adm"].tolist()

    half = precision_recall(reference, samples, k, half=True)
    assert half == pytest.approx(io["pr_fp16emu"].tolist(), abs=2 / fewest)
    assert half == pytest.approx(io["pr_adm"].tolist(), abs=2 / fewest)
    corner = squared_distances(reference[:8], samples[:8], half=True)
    stored = io["pr_fp16emu_dist2_ref_sample_8x8"]
    ulp = torch.finfo(torch.float16).eps * 2 ** stored.log2().floor()
    assert ((corner - stored).abs() <= 2 * ulp).all()

    scale = io["big_scale"]
    big = precision_recall(reference * scale, samples * scale, k, half=True)
    assert big == pytest.approx(io["pr_adm_big"].tolist(), abs=1 / fewest)
    corner = squared_distances(reference[:8] * scale, samples[:8] * scale, half=True)
    torch.testing.assert_close(corner, io["pr_adm_big_dist2_8x8"], rtol=1e-5, atol=0)


def kernel(io, options):
    sets = io["act_sample"], io["act_ref"]
    numbers = options["kid_subsets"], options["kid_subset_size"], options["rng_seed"]
    drawn = zip(*subset_rows(*(len(rows) for rows in sets), *numbers), strict=True)
    for rows, name in zip(drawn, ("kid_idx_sample", "kid_idx_ref"), strict=True):
        assert torch.equal(torch.stack(rows).int(), io[name])
    found = kid(*sets, *numbers)
    assert found == pytest.approx(io["kid_tf_f64"].tolist(), rel=1e-9)
    assert found == pytest.approx(io["kid_tf"].tolist(), rel=1e-5)
