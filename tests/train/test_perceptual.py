"""What a perceptual loss may be called, and what happens without the hub."""

from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from smalti.data.transforms import to_float
from smalti.features.lpips import FILES, LPIPS
from smalti.tokenizers import vqgan
from smalti.train import checkpoint
from smalti.train import perceptual as module
from smalti.train.codebook_care import CodebookConfig
from smalti.train.objectives import ReconstructionConfig, ReconstructionObjective
from smalti.train.parallel import World
from smalti.train.perceptual import perceptual
from smalti.train.settings import TrainConfig
from smalti.train.trainer import Trainer


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


class Pixels:
    """Two pictures, another two at each step."""

    def batch(self, step: int) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(step)
        return {"images": torch.randint(256, (2, 3, 16, 16), generator=generator).byte()}

    def names(self, step: int) -> list[str]:
        return ["a", "b"]


def objective(folder, weight: float, seed: int = 0) -> ReconstructionObjective:
    """A small tokenizer's, without a discriminator."""
    torch.manual_seed(seed)
    care = CodebookConfig(kmeans=False, patience=0)
    config = ReconstructionConfig(
        perceptual=str(folder), perceptual_weight=weight, gan_weight=0.0, codebook=care
    )
    return ReconstructionObjective(vqgan.VQGAN(vqgan.tiny()), config).train()


def test_the_distance_is_weighed_and_reaches_the_tokenizer(folder):
    plain, trained = objective(folder, 0.0), objective(folder, 0.7)
    assert plain.perceptual is None and trained.perceptual is not None
    assert trained.model.training and not trained.perceptual.training
    batch = Pixels().batch(0)
    images, last = to_float(batch["images"]), trained.model.last_layer
    distance = trained.perceptual(trained.model(images).images, images).mean()
    losses, without = trained(batch, 0), plain(batch, 0).totals["model"]
    assert losses.logs["perceptual"].item() == pytest.approx(distance.item()) and distance > 0
    more = losses.totals["model"] - without
    assert more.item() == pytest.approx(0.7 * distance.item(), rel=1e-3)
    assert losses.logs["loss"] == losses.totals["model"]
    found, wanted = (torch.autograd.grad(v, last)[0] for v in (losses.totals["model"], distance))
    (apart,) = torch.autograd.grad(without, plain.model.last_layer)
    torch.testing.assert_close(found, apart + 0.7 * wanted, rtol=1e-3, atol=1e-5)


def test_checkpoints_are_without_its_network_and_are_gone_on_from(folder, tmp_path):
    more: dict[str, Any] = {"log_every": 1, "eval_every": 0, "preview_every": 0, "save_every": 1}
    trained = list[Trainer]()
    for run, steps, seed in (("whole", 2, 0), ("cut", 1, 0), ("cut", 2, 1)):
        config = TrainConfig(steps=steps, batch=2, precision="fp32", device="cpu", **more)
        world = World(0, 1, torch.device("cpu"))
        goal = objective(folder, 0.7, seed)
        trained.append(Trainer(goal, Pixels(), config, tmp_path / run, world))
        trained[-1].fit()
    for path in checkpoint.found(tmp_path / "cut" / "checkpoints"):
        names = checkpoint.load(path)["objective"].keys()
        assert names and not [name for name in names if name.startswith("perceptual.")]
    whole, _, resumed = (goal.objective.model.state_dict() for goal in trained)
    assert all(torch.equal(resumed[name], value) for name, value in whole.items())
