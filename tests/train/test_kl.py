"""The objective of the KL-VAE: its losses, which of them reaches what, and its noise."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from builders import build
from smalti.data.transforms import to_float
from smalti.tokenizers.kl_vae import KLVAE, tiny
from smalti.train.gan import generator_loss
from smalti.train.kl import KLConfig, KLObjective

PLAIN = KLConfig(perceptual="none", gan_weight=0.0)
GAN = KLConfig(perceptual="none", gan_start=3, gan_channels=8, gan_layers=1)


def objective(config: KLConfig) -> KLObjective:
    return KLObjective(build(KLVAE, tiny()), config).train()


def pictures(count: int = 4) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {"images": torch.randint(256, (count, 3, 16, 16), generator=generator).byte()}


@pytest.mark.parametrize("pixel", ["l1", "l2"])
def test_the_divergence_weighs_as_nats_beside_sums_over_an_image(pixel):
    trained = objective(replace(PLAIN, pixel=pixel, pixel_weight=2.0, kl_weight=0.3))
    images = to_float(pictures()["images"])
    torch.manual_seed(7)
    losses = trained(pictures(), 0)
    torch.manual_seed(7)
    out, posterior = trained.model(images)
    error = F.l1_loss if pixel == "l1" else F.mse_loss
    summed = 2 * error(out, images, reduction="sum") / 4 + 0.3 * posterior.kl().mean()
    assert losses.totals["model"].item() == pytest.approx(summed.item() / images[0].numel())
    assert losses.logs["kl"].item() == pytest.approx(posterior.kl().mean().item())
    assert losses.logs["std"].item() == pytest.approx(posterior.std.mean().item())
    assert losses.logs["loss"].item() == losses.totals["model"].item()


def test_the_noise_is_that_of_the_steps_seed():
    trained = objective(PLAIN)
    found = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        found.append(trained(pictures(), 5).totals["model"].item())
    assert found[0] == found[1] != found[2]


def test_the_discriminator_sets_in_and_reaches_its_own_weights_alone():
    trained = objective(GAN)
    assert trained.optimized().keys() == {"model", "discriminator"}
    assert trained(pictures(), 2).totals.keys() == {"model"}
    totals = trained(pictures(), 3).totals
    assert totals.keys() == {"model", "discriminator"}
    for name, module in trained.optimized().items():
        given = {
            total: torch.autograd.grad(
                value, list(module.parameters()), retain_graph=True, allow_unused=True
            )
            for total, value in totals.items()
        }
        (other,) = totals.keys() - {name}
        assert all(g is not None for g in given[name])
        assert all(g is None for g in given[other])


def test_the_adaptive_weight_leaves_the_divergence_out():
    """As latent diffusion: it compares gradients of pictures alone."""
    found = []
    for weight in (0.0, 1e3):
        trained = objective(replace(GAN, kl_weight=weight))
        torch.manual_seed(0)
        found.append(trained(pictures(), 3))
    plain, heavy = found
    assert plain.logs["adversarial_weight"] == heavy.logs["adversarial_weight"]
    trained = objective(GAN)
    torch.manual_seed(0)
    images = to_float(pictures()["images"])
    out = trained.model(images).images
    judged = generator_loss("hinge", trained.discriminator(out))
    last = trained.model.decoder.conv_out.weight
    norms = [
        torch.autograd.grad(v, last, retain_graph=True)[0].norm()
        for v in ((out - images).abs().mean(), judged)
    ]
    wanted = norms[0] / (norms[1] + 1e-4)
    assert plain.logs["adversarial_weight"].item() == pytest.approx(wanted.item(), rel=1e-3)


@pytest.mark.slow
def test_the_loss_falls_and_the_weight_of_the_divergence_pulls():
    found = {}
    for weight in (0.0, 1.0):
        trained = objective(replace(PLAIN, pixel="l2", kl_weight=weight))
        optimizer = torch.optim.Adam(trained.parameters(), lr=1e-2)
        losses = []
        for step in range(40):
            torch.manual_seed(step)
            total = trained(pictures(), step)
            losses.append(total.logs["loss"].item())
            optimizer.zero_grad()
            total.totals["model"].backward()
            nn.utils.clip_grad_norm_(trained.parameters(), 1.0)
            optimizer.step()
        assert losses[-1] < 0.9 * losses[0]
        found[weight] = total.logs["kl"].item()
    assert found[1.0] < 0.2 * found[0.0]
