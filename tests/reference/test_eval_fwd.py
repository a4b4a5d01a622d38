"""The Fréchet wavelet distance against pytorchfwd, and against its exact value."""

import pytest
import torch
from golden import folders, load

from smalti.eval.frechet import distance
from smalti.eval.wavelet import Wavelets, fwd, packets


@pytest.mark.parametrize("folder", folders("eval_fwd"))
def test_fwd(folder):
    config, _, io = load(folder)
    block = packets(io["block2x2_in"], 1).flatten()
    torch.testing.assert_close(block, io["block2x2_packets"], rtol=0, atol=1e-12)
    for name, case in config["cases"].items():
        check(io, name, case)
    io.done()


def check(io, name, case):
    size, level, number = case["resolution"], case["level"], case["stored_packet"]
    sets = io[f"imgs{size}_1"], io[f"imgs{size}_2"]
    assert [len(images) for images in sets] == [case["N"], case["M"]]
    found = packets(sets[0], level)  # (N, P, D)
    assert found.shape[1:] == (case["packets"], case["features_per_packet"])
    stored = io[f"{name}.packets_img0_1"].flatten(1)
    torch.testing.assert_close(found[0], stored, rtol=0, atol=1e-12)
    single = packets(sets[0][:1].float() / 255, level)[0]
    torch.testing.assert_close(single, stored.float(), rtol=0, atol=1e-5)
    logs = (found[:8, number].abs() + 1e-6).log().mean(0)
    want = io[f"{name}.packet{number}_mu_log_first8"]  # the logarithm enlarges rounding near 0
    torch.testing.assert_close(logs, want, rtol=0, atol=1e-9)

    gaussians = []
    for images in sets:
        wavelets = Wavelets(level)
        for part in images.split(7):
            wavelets.add(part)
        gaussians.append(wavelets.gaussian())
    mean, cov = gaussians[0].mean[number], gaussians[0].cov[number]
    torch.testing.assert_close(mean, io[f"{name}.packet{number}_mu_1"], rtol=0, atol=1e-12)
    torch.testing.assert_close(cov, io[f"{name}.packet{number}_sigma_1"], rtol=0, atol=1e-12)
    distances = distance(*gaussians)
    torch.testing.assert_close(distances, io[f"{name}.packet_fd_exact"], rtol=1e-8, atol=0)
    noise = 2 * case["package_vs_exact_max_abs"]
    torch.testing.assert_close(
        distances, io[f"{name}.packet_fd_package"], rtol=1e-6 * case["full_rank"], atol=noise
    )
    whole = fwd(*([images] for images in sets), level)
    assert whole == pytest.approx(io[f"{name}.fwd_exact"].item(), rel=1e-8)
    assert whole == pytest.approx(io[f"{name}.fwd_package"].item(), rel=1e-6, abs=noise)
