"""The Fréchet wavelet distance against pytorchfwd, and against its exact value."""

from typing import Any

import pytest
import torch
from golden import Vectors, close, folders, load

from smalti.eval.frechet import distance
from smalti.eval.wavelet import Wavelets, fwd, packets


@pytest.mark.parametrize("folder", folders("eval_fwd"))
def test_fwd(folder):
    config, _, io = load(folder)
    if "block2x2_in" in io:
        io.check("block2x2_packets", packets(io["block2x2_in"], 1).flatten(), 1e-12)
    for name, case in config["cases"].items():
        check(io, name, case)
    io.done()


def check(io: Vectors, name: str, case: dict[str, Any]) -> None:
    resolution, level, number = case["resolution"], case["level"], case["stored_packet"]
    sets = io[f"imgs{resolution}_1"], io[f"imgs{resolution}_2"]
    assert [len(images) for images in sets] == [case["N"], case["M"]]
    ours = packets(sets[0], level)  # (N, P, D)
    assert ours.shape[1:] == (case["packets"], case["features_per_packet"])
    io.check(f"{name}.packets_img0_1", ours[0], 1e-12)
    single = packets(sets[0][:1].float() / 255, level)[0]
    close(single.double(), ours[0], 1e-5)
    for count in io.runs(rf"{name}\.packet{number}_mu_log_first(\d+)"):
        logs = (ours[: int(count), number].abs() + 1e-6).log().mean(0)
        # the logarithm enlarges rounding near 0
        io.check(f"{name}.packet{number}_mu_log_first{count}", logs, 1e-9, 2.0**level)

    gaussians = []
    for images in sets:
        wavelets = Wavelets(level)
        for part in images.split(7):
            wavelets.add(part)
        gaussians.append(wavelets.gaussian())
    mean, cov = gaussians[0].mean[number], gaussians[0].cov[number]
    io.check(f"{name}.packet{number}_mu_1", mean, 1e-12, 2.0**level)
    io.check(f"{name}.packet{number}_sigma_1", cov, 1e-12, 4.0**level)
    distances = distance(*gaussians)  # differences of traces
    traces = sum(g.cov.diagonal(dim1=-2, dim2=-1).sum(-1) for g in gaussians)
    assert isinstance(traces, torch.Tensor)
    size = (distances + 0.1 * traces).max().item()
    io.check(f"{name}.packet_fd_exact", distances, 1e-8, size)
    noise = 2 * case["package_vs_exact_max_abs"] + 1e-6 * case["full_rank"] * size
    io.check(f"{name}.packet_fd_package", distances, 1, noise)
    whole = fwd(*([images] for images in sets), level)
    io.numbers(f"{name}.fwd_exact", whole, 1e-8)
    io.numbers(f"{name}.fwd_package", whole, 1, max(1e-6 * whole, noise))
