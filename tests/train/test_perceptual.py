"""What a perceptual loss may be called, and what happens without the hub."""

import pytest
import torch
from safetensors.torch import save_file

from smalti.features.lpips import FILES, LPIPS
from smalti.train import perceptual as module
from smalti.train.perceptual import perceptual


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The two files of a VGG-16 with the weights that it begins with, and some factors."""
    path, net = tmp_path_factory.mktemp("lpips"), LPIPS("vgg")
    trunk, linear = (path / file.name for file in FILES["vgg"])
    save_file({f"features.{k}": v for k, v in net.features.state_dict().items()}, trunk)
    factors = {f"{i}.weight": (f + i).view(1, -1, 1, 1) for i, f in enumerate(net.factors)}
    save_file(factors, linear)
    return path


def test_names(folder, tmp_path):
    assert perceptual("none") is None
    net = perceptual(str(folder))
    assert isinstance(net, LPIPS)
    assert torch.equal(net.factors[1], torch.full((128,), 2.0))
    with pytest.raises(ValueError, match="none, lpips or a folder, got '.*missing'"):
        perceptual(str(tmp_path / "missing"))


def test_without_the_hub_training_goes_on_with_a_warning(monkeypatch):
    def fail(*args):
        raise OSError("no network")

    monkeypatch.setattr(module, "load_lpips", fail)
    with pytest.warns(UserWarning, match="no network.*goes on without the perceptual loss"):
        assert perceptual("lpips") is None
