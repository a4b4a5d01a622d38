"""LPIPS from files with the names of the released ones, against its formula written out."""

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from smalti.train import perceptual as module
from smalti.train.perceptual import FACTORS, LPIPS, STAGES, TRUNK, perceptual

LAYERS = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
"""Places of VGG-16's convolutions in torchvision's `features`."""
TAPS = (2, 7, 14, 21, 28)
"""The last convolution of each stage."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The two files with random weights."""
    path, generator = tmp_path_factory.mktemp("lpips"), torch.Generator().manual_seed(0)
    widths, tensors = [3, *(w for stage in STAGES for w in stage)], {}
    for layer, a, b in zip(LAYERS, widths, widths[1:], strict=False):
        weight = torch.randn(b, a, 3, 3, generator=generator)
        tensors[f"features.{layer}.weight"] = weight * (2 / (9 * a)) ** 0.5
        tensors[f"features.{layer}.bias"] = 0.1 * torch.randn(b, generator=generator)
    tensors["head.fc.weight"] = torch.zeros(2, 2)  # released files hold the classifier too
    save_file(tensors, path / TRUNK[1])
    factors = {
        f"{i}.weight": torch.rand(1, stage[-1], 1, 1, generator=generator)
        for i, stage in enumerate(STAGES)
    }
    save_file(factors, path / FACTORS[1])
    return path, tensors, factors


def slow(x, y, tensors, factors) -> torch.Tensor:
    """The distance of two images (3, H, W), channel by channel, in float64."""
    shift = torch.tensor([-0.030, -0.088, -0.188]).double().view(3, 1, 1)
    scale = torch.tensor([0.458, 0.448, 0.450]).double().view(3, 1, 1)
    x, y = ((v.double() - shift) / scale for v in (x, y))
    total, stage = torch.tensor(0.0).double(), 0
    for layer in range(30):
        name = f"features.{layer}"
        if layer in (4, 9, 16, 23):
            x, y = (F.max_pool2d(v[None], 2)[0] for v in (x, y))
        if layer not in LAYERS:
            continue
        weight, bias = tensors[f"{name}.weight"].double(), tensors[f"{name}.bias"].double()
        x, y = (F.conv2d(v[None], weight, bias, padding=1)[0].clamp(min=0) for v in (x, y))
        if layer in TAPS:
            a, b = (v / ((v**2).sum(0) ** 0.5 + 1e-10) for v in (x, y))
            factor = factors[f"{stage}.weight"].double()
            for channel in range(len(a)):
                difference = (a[channel] - b[channel]) ** 2
                total += factor[0, channel, 0, 0] * difference.mean()
            stage += 1
    return total


@torch.no_grad()
def test_equals_the_formula_and_is_zero_for_equal_images(folder):
    path, tensors, factors = folder
    net = LPIPS.from_files(path / TRUNK[1], path / FACTORS[1])
    assert not any(p.requires_grad for p in net.parameters())
    torch.manual_seed(0)
    x, y = torch.rand(2, 2, 3, 32, 32) * 2 - 1
    expected = torch.stack([slow(a, b, tensors, factors) for a, b in zip(x, y, strict=True)])
    found = net(x, y)
    assert found.shape == (2,)
    assert torch.allclose(found.double(), expected, rtol=1e-4)
    assert expected.min() > 0.01
    assert net(x, x).tolist() == [0.0, 0.0]


def test_names(folder, tmp_path):
    assert perceptual("none") is None
    net = perceptual(str(folder[0]))
    assert isinstance(net, LPIPS)
    assert torch.equal(net.factors[1], folder[2]["1.weight"].flatten())
    with pytest.raises(ValueError, match="none, lpips or a folder, got '.*missing'"):
        perceptual(str(tmp_path / "missing"))


def test_files_of_another_network(folder, tmp_path):
    tensors = {k: v for k, v in folder[1].items() if not k.startswith("features.28.")}
    save_file(tensors, tmp_path / TRUNK[1])
    with pytest.raises(ValueError, match="has 12 convolutions, VGG-16 has 13"):
        LPIPS.from_files(tmp_path / TRUNK[1], folder[0] / FACTORS[1])


def test_without_the_hub_training_goes_on_with_a_warning(monkeypatch):
    def fail(*args):
        raise OSError("no network")

    monkeypatch.setattr(module, "_fetch", fail)
    with pytest.warns(UserWarning, match="goes on without the perceptual loss"):
        assert perceptual("lpips") is None


def test_a_file_with_another_hash_is_refused(folder, monkeypatch):
    import huggingface_hub

    path = folder[0] / FACTORS[1]
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda repo, name: str(path))
    with pytest.raises(ValueError, match="vivym/lpips.*expected 0c6387"):
        module._fetch(*FACTORS)
