"""PSNR, SSIM, L1 and LPIPS against scikit-image and the lpips package.

Tolerances: 8-bit pixels are exact; metrics 1e-9 in float64; LPIPS 1e-4 in float32. Contrasts (what
other projects compute instead) are made from our own pieces, which shows what they differ in.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden import Vectors, folders, load
from safetensors.torch import save_file
from torch import Tensor

import hashed
from smalti.data.transforms import to_float, to_uint8
from smalti.eval.lpips import FILES, LPIPS, Net, load_lpips
from smalti.eval.reconstruction import l1, psnr, ssim, ssim_map

TRUNKS = {"alex": "alexnet", "vgg": "vgg16"}


def close(ours: Tensor, golden: Tensor, rtol: float = 1e-9) -> None:
    torch.testing.assert_close(ours.reshape(golden.shape), golden, rtol=rtol, atol=0)


@pytest.mark.parametrize("folder", folders("eval_reconstruction"))
def test_pixels(folder: Path, tmp_path: Path):
    config, weights, io = load(folder)
    images, given = io["ref_uint8"], io["rec_float"]
    clamped = given.clamp(0, 1) * 255
    rounded = io["rec_uint8_round"]
    assert torch.equal(clamped.round().byte(), rounded)
    assert torch.equal(clamped.byte(), io["rec_uint8_trunc"])
    assert torch.equal(to_uint8(2 * given - 1), io["rec_uint8_llamagen"])

    decibels = psnr(images, rounded)
    close(decibels, io["psnr"])
    close(decibels.mean(), io["psnr_mean"])
    close(-10 * (10 ** (-decibels / 10)).mean().log10(), io["psnr_pooled"])
    close(psnr(images, given.double().clamp(0, 1) * 255), io["psnr_unrounded"])
    close(l1(images, rounded), io["l1"])
    close(l1(images, rounded).mean(), io["l1_mean"])
    check_ssim(images, rounded, io)
    for net in TRUNKS:
        check_lpips(net, config, weights, io, tmp_path)
    io.done()


def check_ssim(images: Tensor, rounded: Tensor, io: Vectors) -> None:
    close(ssim(images, rounded), io["ssim_uniform7"])
    close(ssim(images, rounded).mean(), io["ssim_uniform7_mean"])
    close(ssim(images, rounded, "gauss11"), io["ssim_gauss11"])
    close(ssim(images, rounded, "gauss11_sample"), io["ssim_gauss11_samplecov"])
    x, y = images.double() / 255, rounded.double() / 255
    wide = ssim_map(x, y, "uniform7", span=2.0)
    close(wide.mean((1, 2, 3)), io["ssim_uniform7_range2"])
    whole = ssim_map(padded(x[:1], "symmetric"), padded(y[:1], "symmetric"), "gauss11")
    close(whole, io["ssim_gauss11_map0"])
    whole = ssim_map(padded(x, "reflect"), padded(y, "reflect"), "gauss11")
    close(whole.mean((1, 2, 3)), io["ssim_torchmetrics"])


def padded(x: Tensor, mode: Any, width: int = 5) -> Tensor:
    sides = ((0, 0), (0, 0), (width, width), (width, width))
    return torch.from_numpy(np.pad(x.numpy(), sides, mode=mode))


@torch.no_grad()
def check_lpips(
    net: Net, config: dict[str, Any], weights: dict[str, Tensor], io: Vectors, folder: Path
) -> None:
    model = released(net, config, weights, folder)
    crop = config["lpips_crop"]
    x, y = (to_float(io[name])[..., :crop, :crop] for name in ("ref_uint8", "rec_uint8_round"))
    close(model(x, y), io[f"lpips_{net}"], 1e-4)
    close(model.layers(x, y).T, io[f"lpips_{net}_layers"], 1e-4)
    means = torch.stack([a.double().mean((1, 2, 3)) for a in model.activations(x)], 1)
    close(means, io[f"lpips_{net}_feat_mean"], 1e-6)
    close(model.double()(x.double(), y.double()), io[f"lpips_{net}_f64"])


def released(net: Net, config: dict[str, Any], weights: dict[str, Tensor], folder: Path) -> LPIPS:
    """LPIPS from files as they are published, with the weights that the configuration describes."""
    about = config["backbone_checksums"][net]["backbone_tensors"]
    kinds = config["weights_kinds"]
    state = {
        name: hashed.weight(
            f"{config['salt']}{TRUNKS[net]}.{name}",
            tensor["shape"],
            kinds["conv weight" if name.endswith(".weight") else "conv bias"],
        )
        for name, tensor in about.items()
    }
    for name, tensor in about.items():
        assert hashed.crc(state[name]) == tensor["crc32_le_f32_bytes"]
        assert state[name].flatten()[:3].tolist() == tensor["first3"]
        assert state[name].double().sum().item() == pytest.approx(tensor["sum"], rel=1e-9)
        assert state[name].double().abs().sum().item() == pytest.approx(tensor["abs_sum"], rel=1e-9)
    heads = {name.split(".")[1]: v for name, v in weights.items() if name.startswith(f"{net}.")}
    trunk, factors = (folder / file.name for file in FILES[net])
    if net == "alex":  # pickles, and the names of the lpips package
        torch.save(state, trunk)
        torch.save({f"{lin}.model.1.weight": v for lin, v in heads.items()}, factors)
    else:
        save_file(state, trunk)
        save_file({f"{lin.removeprefix('lin')}.weight": v for lin, v in heads.items()}, factors)
    return load_lpips(net, folder)
