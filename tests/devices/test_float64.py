"""Numbers of devices that have no float64, of which one is played here: nothing asks it for any."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from builders import build, models, random_codes, tokenizers
from smalti.devices.float64 import wide
from smalti.eval.frechet import Moments
from smalti.eval.gathered import gather
from smalti.eval.likelihood import losses
from smalti.eval.metrics import How
from smalti.eval.reconstruction import latent_std, reconstruction
from smalti.sampling.noise import Noise
from smalti.train.masked_loss import MaskedConfig

MPS = torch.device("mps")


def is_place(value) -> bool:
    return isinstance(value, str | torch.device) and str(value) in ("mps", "cpu")


class Apple(Tensor):
    """What lies on the device, in the memory of the CPU."""


class Device(TorchFunctionMode):
    """Takes tensors to the device and back, and raises what torch does for float64 there."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func is torch.device:
            return func(*args, **kwargs)
        there = bool(args) and isinstance(args[0], Apple)
        if func == Tensor.device.__get__:  # pyright: ignore[reportAttributeAccessIssue]
            return MPS if there else func(*args)
        if func == Tensor.is_cpu.__get__:  # pyright: ignore[reportAttributeAccessIssue]
            return not there
        goes = [str(a) for a in (*args, *kwargs.values()) if is_place(a)] + [""]
        args = tuple(a for a in args if not is_place(a))
        kwargs = {k: v for k, v in kwargs.items() if not is_place(v)}
        if func == Tensor.cpu or goes[0] == "cpu":
            args = tuple(a.as_subclass(Tensor) if isinstance(a, Apple) else a for a in args)
        alone = func == Tensor.to and not args[1:] and not kwargs
        found = args[0] if alone else func(*args, **kwargs)
        if goes[0] == "mps":
            found = found.as_subclass(Apple)
        if isinstance(found, Apple) and found.dtype == torch.float64:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        return found


@pytest.fixture
def device():
    with Device():
        yield MPS


def test_the_device_that_is_played(device):
    x = torch.arange(3, device=device)
    assert x.device == MPS and (x + 1).device == MPS and x.cpu().device.type == "cpu"
    with pytest.raises(TypeError, match="float64"):
        x.double()
    assert wide(x).dtype == torch.float64 and wide(x).device.type == "cpu"
    assert wide(x.cpu()).tolist() == [0, 1, 2]


@torch.no_grad()
def test_normal_numbers_are_the_same(device):
    here, there = (Noise.request(3, 2, device=d) for d in ("cpu", MPS))
    slots = torch.arange(4)
    found = there.normal(slots.to(MPS), 3)
    assert found.device == MPS and torch.equal(found.cpu(), here.normal(slots, 3))
    counts = MaskedConfig().counts(there.uniform(slots.to(MPS)), 9)
    assert torch.equal(counts, MaskedConfig().counts(here.uniform(slots), 9))


@pytest.mark.parametrize("kind", ["vqgan", "kl_vae"])
def test_reconstructions_are_measured(device, kind):
    module, config = tokenizers()[kind]
    tokenizer = build(module, config)
    images = torch.randint(0, 256, (2, 3, *tokenizer.size), dtype=torch.uint8)
    batches = [{"images": images}]
    for measure in (reconstruction, latent_std)[: 1 if kind == "vqgan" else 2]:
        assert measure(tokenizer, batches, MPS) == measure(tokenizer, batches, "cpu")


@pytest.mark.parametrize("name", ["llamagen", "maskgit", "mar"])
def test_likelihoods_are_measured(device, name):
    model = build(*models()[name])
    batches = [{"codes": random_codes(model.spec, 2), "labels": torch.tensor([0, 1])}]
    assert torch.equal(losses(model, batches, MPS), losses(model, batches, "cpu"))


def test_moments_of_features(device):
    rows = torch.rand(6, 4)
    how = How(("fid",), lambda images: SimpleNamespace(pool=images[:, 0, 0].to(MPS)), draws=0)
    found = gather([rows.view(6, 1, 1, 4)], how, {"pool"})
    plain = Moments(4)
    plain.add(rows)
    assert torch.equal(found.gaussian("pool").cov, plain.gaussian().cov)
