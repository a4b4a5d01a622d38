"""LPIPS from files with the names of the released ones, against its formula written out."""

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from smalti.features.lpips import FILES, LPIPS, load_lpips

PLACES = {
    "alex": {0: (64, 11, 4, 2), 3: (192, 5, 1, 2), 6: (384, 3, 1, 1)}
    | {8: (256, 3, 1, 1), 10: (256, 3, 1, 1)},
    "vgg": {0: (64, 3, 1, 1), 2: (64, 3, 1, 1), 5: (128, 3, 1, 1), 7: (128, 3, 1, 1)}
    | {place: (256, 3, 1, 1) for place in (10, 12, 14)}
    | {place: (512, 3, 1, 1) for place in (17, 19, 21, 24, 26, 28)},
}
"""Width, kernel, stride and padding of the convolutions in torchvision's `features`."""
POOLS = {"alex": {2: 3, 5: 3}, "vgg": {4: 2, 9: 2, 16: 2, 23: 2}}
"""Sizes of the max pools, all of stride 2."""
TAPS = {"alex": (0, 3, 6, 8, 10), "vgg": (2, 7, 14, 21, 28)}
"""The convolutions whose rectified outputs are compared."""


@pytest.fixture(scope="module", params=["alex", "vgg"])
def files(request, tmp_path_factory):
    """(name, folder, weights, factors): the two files with random weights."""
    net = request.param
    folder, generator = tmp_path_factory.mktemp("lpips"), torch.Generator().manual_seed(0)
    tensors, width = {}, 3
    for place, (out, kernel, _, _) in PLACES[net].items():
        weight = torch.randn(out, width, kernel, kernel, generator=generator)
        tensors[f"features.{place}.weight"] = weight * (2 / (kernel * kernel * width)) ** 0.5
        tensors[f"features.{place}.bias"] = 0.1 * torch.randn(out, generator=generator)
        width = out
    widths = [PLACES[net][tap][0] for tap in TAPS[net]]
    factors = [torch.rand(1, w, 1, 1, generator=generator) for w in widths]
    whole = tensors | {"classifier.1.weight": torch.zeros(2, 2)}  # released files hold it too
    trunk, linear = (folder / file.name for file in FILES[net])
    if net == "alex":
        torch.save(whole, trunk)
        torch.save({f"lin{i}.model.1.weight": f for i, f in enumerate(factors)}, linear)
    else:
        save_file(whole, trunk)
        save_file({f"{i}.weight": f for i, f in enumerate(factors)}, linear)
    return net, folder, tensors, factors


def slow(net, x, y, tensors, factors) -> torch.Tensor:
    """The distance of two images (3, H, W), channel by channel, in float64."""
    shift = torch.tensor([-0.030, -0.088, -0.188]).double().view(3, 1, 1)
    scale = torch.tensor([0.458, 0.448, 0.450]).double().view(3, 1, 1)
    x, y = ((v.double() - shift) / scale for v in (x, y))
    total, layer = torch.tensor(0.0).double(), 0
    for place in range(29):
        if place in POOLS[net]:
            x, y = (F.max_pool2d(v[None], POOLS[net][place], 2)[0] for v in (x, y))
        if place not in PLACES[net]:
            continue
        _, _, stride, padding = PLACES[net][place]
        weight, bias = (tensors[f"features.{place}.{k}"].double() for k in ("weight", "bias"))
        x, y = (F.conv2d(v[None], weight, bias, stride, padding)[0].clamp(min=0) for v in (x, y))
        if place in TAPS[net]:
            a, b = (v / ((v**2).sum(0) ** 0.5 + 1e-10) for v in (x, y))
            factor = factors[layer].double()
            for channel in range(len(a)):
                total += factor[0, channel, 0, 0] * ((a[channel] - b[channel]) ** 2).mean()
            layer += 1
    return total


@torch.no_grad()
def test_equals_the_formula_and_is_zero_for_equal_images(files):
    net, folder, tensors, factors = files
    model = load_lpips(net, folder)
    assert not any(p.requires_grad for p in model.parameters()) and not model.training
    torch.manual_seed(0)
    x, y = torch.rand(2, 2, 3, 48, 40) * 2 - 1
    expected = torch.stack([slow(net, a, b, tensors, factors) for a, b in zip(x, y, strict=True)])
    found = model(x, y)
    assert found.shape == (2,)
    assert torch.allclose(found.double(), expected, rtol=1e-4)
    assert expected.min() > 0.01
    assert model(x, x).tolist() == [0.0, 0.0]
    assert torch.allclose(model(y, x), found)
    parts = model.layers(x, y)
    assert parts.shape == (5, 2) and torch.equal(parts.sum(0), found) and parts.min() > 0


def test_the_hash_is_of_network_and_factors(files, tmp_path):
    net, folder, _, factors = files
    model = load_lpips(net, folder)
    assert len(model.hash) == 16 and LPIPS(net).hash == ""
    trunk, linear = (file.name for file in FILES[net])
    (tmp_path / trunk).write_bytes((folder / trunk).read_bytes())
    for factor in (1, 2):
        others = {f"{i}.weight": factor * f for i, f in enumerate(factors)}
        (torch.save if net == "alex" else save_file)(others, tmp_path / linear)
        assert (load_lpips(net, tmp_path).hash == model.hash) == (factor == 1)


def test_gradients_reach_the_images(files):
    net, folder, *_ = files
    x = (torch.rand(1, 3, 40, 40) * 2 - 1).requires_grad_()
    load_lpips(net, folder)(x, torch.zeros(1, 3, 40, 40)).sum().backward()
    assert x.grad is not None and x.grad.abs().sum() > 0


def test_files_of_another_network(files, tmp_path):
    net, folder, tensors, _ = files
    trunk, linear = (file.name for file in FILES[net])
    last = max(PLACES[net])
    less = {k: v for k, v in tensors.items() if not k.startswith(f"features.{last}.")}
    (torch.save if net == "alex" else save_file)(less, tmp_path / trunk)
    with pytest.raises(ValueError, match=rf"(AlexNet|VGG-16): it lacks features.{last}.weight, "):
        load_lpips(net, tmp_path)
    (tmp_path / trunk).write_bytes((folder / trunk).read_bytes())
    with pytest.raises(FileNotFoundError, match=f"there is no file .*{linear}"):
        load_lpips(net, tmp_path)
    wrong = {f"{i}.weight": torch.ones(1, 8, 1, 1) for i in range(5)}
    (torch.save if net == "alex" else save_file)(wrong, tmp_path / linear)
    with pytest.raises(ValueError, match=rf"LPIPS \({net}\): 0.weight is \(1, 8, 1, 1\) and not"):
        load_lpips(net, tmp_path)


def test_networks_that_there_are():
    with pytest.raises(ValueError, match="must be alex or vgg, got 'squeeze'"):
        LPIPS("squeeze")  # type: ignore
