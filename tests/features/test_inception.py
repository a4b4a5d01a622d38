"""The FID Inception with weights made by a hash: what is around the numbers of the golden tests."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch.nn import functional as F

import hashed
from smalti.features import inception
from smalti.features.inception import EPS, InceptionFID, load_inception, resize_tf1

KINDS = {
    "*.conv.weight": "sqrt(6 / (Cin*kh*kw)) * s",
    "*.bn.running_var": "0.75 + 0.5*u",
    "*.bn.weight": "1 + 0.2*s",
    "*.bn.*": "0.2*s",
    "fc.*": "0.05*s",
}


@pytest.fixture(scope="module")
def state():
    with torch.device("meta"):
        shapes = inception._published(InceptionFID())
    return hashed.weights(shapes, KINDS)


@pytest.fixture(scope="module")
def path(state, tmp_path_factory):
    path = tmp_path_factory.mktemp("inception") / "inception.safetensors"
    save_file(state, path)
    return path


@pytest.fixture(scope="module")
def net(path):
    return load_inception(path)


def pictures(n: int, size: int = 32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(n)
    return torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8, generator=generator)


def slow_resize(image: np.ndarray, size: int) -> np.ndarray:
    """One channel (H, W), pixel by pixel, in float32 as TensorFlow 1 does."""
    h, w = image.shape
    out = np.zeros((size, size), np.float32)
    for row in range(size):
        for column in range(size):
            y = np.float32(row) * (np.float32(h) / np.float32(size))
            x = np.float32(column) * (np.float32(w) / np.float32(size))
            top, left = math.floor(y), math.floor(x)
            bottom, right = min(top + 1, h - 1), min(left + 1, w - 1)
            dy, dx = y - np.float32(top), x - np.float32(left)
            upper = image[top, left] + (image[top, right] - image[top, left]) * dx
            lower = image[bottom, left] + (image[bottom, right] - image[bottom, left]) * dx
            out[row, column] = upper + (lower - upper) * dy
    return out


@given(h=st.integers(1, 12), w=st.integers(1, 12), size=st.integers(1, 9), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_resize_equals_the_formula_bit_for_bit(h, w, size, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (h, w), np.uint8)
    found = resize_tf1(torch.from_numpy(pixels)[None, None], size)
    assert found.dtype == torch.float32
    assert np.array_equal(found[0, 0].numpy(), slow_resize(pixels.astype(np.float32), size))


def test_resize_leaves_the_size_and_flat_pictures_alone():
    images = pictures(2, 299)
    assert torch.equal(resize_tf1(images), images.float())
    assert resize_tf1(torch.full((1, 3, 5, 700), 7, dtype=torch.uint8)).unique().tolist() == [7]


def test_features(net):
    images = pictures(3)
    found = net(images)
    assert [tuple(part.shape) for part in found] == [(3, 2048), (3, 2023), (3, 1008)]
    assert {part.dtype for part in found} == {torch.float32}
    assert found.spatial.min() == 0 < found.spatial.max()
    torch.testing.assert_close(found.logits, found.pool @ net.fc.weight.T)
    alone = net(images[1:2])
    for part, whole in zip(alone, found, strict=True):
        torch.testing.assert_close(part[0], whole[1], rtol=1e-4, atol=1e-5)


def test_spatial_features_are_row_by_row_and_channels_last(net):
    seen = []
    unit = net.Mixed_6d.get_submodule("branch1x1")
    hook = unit.register_forward_hook(lambda module, inputs, output: seen.append(output))
    found = net(pictures(1)).spatial
    hook.remove()
    (grid,) = seen[0]  # (192, 17, 17)
    for h, w, c in ((0, 0, 0), (0, 0, 6), (0, 1, 2), (9, 16, 5), (16, 16, 6)):
        assert found[0, (h * 17 + w) * 7 + c] == grid[c, h, w]


def test_a_folded_convolution_equals_convolution_norm_and_relu(net, state):
    name = "Mixed_7b.branch3x3_2a"
    weight, scale, shift, mean, variance = (state[f"{name}.{part}"] for part in inception.PARTS)
    x = torch.rand(2, 384, 5, 6, generator=torch.Generator().manual_seed(0))
    raw = F.conv2d(x, weight, padding=(0, 1))
    expected = F.batch_norm(raw, mean, variance, scale, shift, eps=EPS).clamp(min=0)
    torch.testing.assert_close(net.get_submodule(name)(x), expected, rtol=1e-4, atol=1e-5)


def test_bfloat16_stays_close(net, path):
    exact, rough = net(pictures(1)), load_inception(path, torch.bfloat16)(pictures(1))
    for a, b in zip(exact, rough, strict=True):
        assert b.dtype == torch.float32
        assert 0 < (a - b).norm() < 0.05 * a.norm()


@pytest.mark.gpu
def test_cuda_gives_the_same(net, path):
    before = torch.backends.cudnn.conv.fp32_precision
    for a, b in zip(net(pictures(2)), load_inception(path).cuda()(pictures(2)), strict=True):
        torch.testing.assert_close(b.cpu(), a, rtol=1e-4, atol=1e-4 * a.max().item())
    assert torch.backends.cudnn.conv.fp32_precision == before


def test_convolutions_are_exact_within_the_network_alone(net):
    conv, seen = torch.backends.cudnn.conv, []
    before = conv.fp32_precision
    hook = net.fc.register_forward_hook(lambda *_: seen.append(conv.fp32_precision))
    net(pictures(1))
    hook.remove()
    assert (seen, conv.fp32_precision) == (["ieee"], before)


def test_the_hash_is_of_the_weights_and_not_of_the_file(net, state, tmp_path):
    counted = state | {"fc.bias": state["fc.bias"]}
    counted["Conv2d_1a_3x3.bn.num_batches_tracked"] = torch.tensor(0)
    torch.save(counted, tmp_path / "again.pth")
    again = load_inception(tmp_path / "again.pth")
    assert again.hash == net.hash and len(net.hash) == 16
    torch.save(state | {"fc.bias": state["fc.bias"] + 1}, tmp_path / "other.pth")
    assert load_inception(tmp_path / "other.pth").hash != net.hash


def test_weights_of_another_network(state, tmp_path):
    torchvision = state | {"fc.weight": torch.zeros(1000, 2048), "fc.bias": torch.zeros(1000)}
    torchvision["AuxLogits.fc.weight"] = torch.zeros(1000, 768)
    torch.save(torchvision, tmp_path / "torchvision.pth")
    with pytest.raises(ValueError) as error:
        load_inception(tmp_path / "torchvision.pth")
    line = str(error.value)
    assert "torchvision.pth does not hold the Inception of 2015-12-05" in line
    assert "(this seems to be torchvision's Inception): it also has AuxLogits.fc.weight; " in line
    assert "fc.weight is (1000, 2048) and not (1008, 2048)" in line and "\n" not in line
    torch.save({"layer1.0.conv1.weight": torch.zeros(1)}, tmp_path / "resnet.pth")
    with pytest.raises(ValueError, match="seems to be a ResNet.*it lacks fc.weight.*469 more"):
        load_inception(tmp_path / "resnet.pth")


def test_without_a_path_the_published_file_is_loaded(net, path, monkeypatch):
    asked = []
    monkeypatch.setattr(inception, "fetch", lambda file: asked.append(file) or path)
    assert load_inception().hash == net.hash
    assert asked[0].sha256.startswith("6726825d") and "6726825d" in asked[0].name


@pytest.mark.parametrize(
    "images",
    [torch.zeros(1, 3, 8, 8), torch.zeros(3, 8, 8).byte(), torch.zeros(1, 8, 8, 3).byte()],
)
def test_images_must_be_bytes_with_channels_first(net, images):
    with pytest.raises(ValueError, match=r"must be uint8 \(B, 3, H, W\), got torch"):
        net(images)
