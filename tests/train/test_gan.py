import math

import pytest
import torch

from smalti.train.gan import PatchGAN, adaptive_weight, discriminator_loss, generator_loss

REAL, FAKE = torch.tensor([2.0, 0.5]), torch.tensor([-3.0, 1.0])


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def test_hinge():
    assert discriminator_loss("hinge", REAL, FAKE).item() == pytest.approx(
        0.5 * ((0 + 0.5) / 2 + (0 + 2) / 2)
    )
    assert generator_loss("hinge", FAKE).item() == pytest.approx(1.0)


@pytest.mark.parametrize("kind", ["vanilla", "non-saturating"])
def test_logistic(kind):
    expected = 0.5 * ((softplus(-2) + softplus(-0.5)) / 2 + (softplus(-3) + softplus(1)) / 2)
    assert discriminator_loss(kind, REAL, FAKE).item() == pytest.approx(expected)
    plain = -(-3 + 1) / 2
    saturated = (softplus(3) + softplus(-1)) / 2
    wanted = saturated if kind == "non-saturating" else plain
    assert generator_loss(kind, FAKE).item() == pytest.approx(wanted)


def test_adaptive_weight_balances_gradients_at_the_last_layer():
    weight = torch.tensor([1.0, 2.0], requires_grad=True)
    reconstruction, adversarial = (weight * torch.tensor([3.0, 4.0])).sum(), 10 * weight[0]
    found = adaptive_weight(reconstruction, adversarial, weight)
    assert found.item() == pytest.approx(5 / 10, rel=1e-4)
    assert not found.requires_grad
    assert adaptive_weight(1e9 * weight.sum(), 0 * weight.sum(), weight).item() == 1e4


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_smallest_image(layers):
    net = PatchGAN(8, layers).eval()
    assert net(torch.zeros(1, 3, net.smallest, net.smallest)).shape == (1, 1, 1, 1)
    with pytest.raises(RuntimeError):
        net(torch.zeros(1, 3, net.smallest - 1, net.smallest - 1))
    maps = PatchGAN(8, layers, planes=5).eval()
    assert maps(torch.zeros(1, 5, net.smallest, net.smallest)).shape == (1, 1, 1, 1)
