"""PSNR, SSIM, L1 and LPIPS against scikit-image and the lpips package.

8-bit pixels are exact; LPIPS 1e-4 in float32. Contrasts (what other projects compute instead) are
made from our own pieces, which shows what they differ in.
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
from smalti.eval.reconstruction import l1, psnr, ssim, ssim_map
from smalti.features.lpips import FILES, LPIPS, Net, load_lpips

TRUNKS = {"alex": "alexnet", "vgg": "vgg16"}


@pytest.mark.parametrize("folder", folders("eval_reconstruction"))
def test_pixels(folder: Path, tmp_path: Path):
    config, weights, io = load(folder)
    images, unrounded = io["ref_uint8"], io["rec_float"]
    clamped = unrounded.clamp(0, 1) * 255
    rounded = clamped.round().byte()
    io.check("rec_uint8_round", rounded)
    io.check("rec_uint8_trunc", clamped.byte())
    io.check("rec_uint8_llamagen", to_uint8(2 * unrounded - 1))

    decibels = psnr(images, rounded)
    io.check("psnr", decibels)
    io.check("psnr_mean", decibels.mean())
    io.check("psnr_pooled", -10 * (10 ** (-decibels / 10)).mean().log10())
    io.check("psnr_unrounded", psnr(images, unrounded.double().clamp(0, 1) * 255))
    io.check("l1", l1(images, rounded))
    io.check("l1_mean", l1(images, rounded).mean())
    check_ssim(images, rounded, io)
    for net in TRUNKS:
        if io.runs(f"(lpips_{net}.*)"):
            check_lpips(net, config, weights, io, tmp_path)
    io.done()


def check_ssim(images: Tensor, rounded: Tensor, io: Vectors) -> None:
    io.check("ssim_uniform7", ssim(images, rounded))
    io.check("ssim_uniform7_mean", ssim(images, rounded).mean())
    io.check("ssim_gauss11", ssim(images, rounded, "gauss11"))
    io.check("ssim_gauss11_samplecov", ssim(images, rounded, "gauss11_sample"))
    x, y = images.double() / 255, rounded.double() / 255
    wide = ssim_map(x, y, "uniform7", span=2.0)
    io.check("ssim_uniform7_range2", wide.mean((1, 2, 3)))
    whole = ssim_map(padded(x[:1], "symmetric"), padded(y[:1], "symmetric"), "gauss11")
    io.check("ssim_gauss11_map0", whole)
    whole = ssim_map(padded(x, "reflect"), padded(y, "reflect"), "gauss11")
    io.check("ssim_torchmetrics", whole.mean((1, 2, 3)))


def padded(x: Tensor, mode: Any, width: int = 5) -> Tensor:
    sides = ((0, 0), (0, 0), (width, width), (width, width))
    return torch.from_numpy(np.pad(x.numpy(), sides, mode=mode))


@torch.no_grad()
def check_lpips(
    net: Net, config: dict[str, Any], weights: dict[str, Tensor], io: Vectors, folder: Path
) -> None:
    model = released(net, config, weights, folder)
    crop = config["lpips_crop"]
    rounded = (io["rec_float"].clamp(0, 1) * 255).round().byte()
    x, y = (to_float(images)[..., :crop, :crop] for images in (io["ref_uint8"], rounded))
    io.check(f"lpips_{net}", model(x, y), 1e-4)
    io.check(f"lpips_{net}_layers", model.layers(x, y).T, 1e-4)
    means = torch.stack([a.double().mean((1, 2, 3)) for a in model.activations(x)], 1)
    io.check(f"lpips_{net}_feat_mean", means, 1e-6)
    io.check(f"lpips_{net}_f64", model.double()(x.double(), y.double()), 1e-9)


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
