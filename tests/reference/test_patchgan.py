"""The discriminator and every adversarial loss against LlamaGen's tokenizer training."""

from pathlib import Path

import pytest
import torch
from golden import folders, load
from torch.nn import functional as F

from smalti.train.gan import PatchGAN, adaptive_weight, discriminator_loss, generator_loss


def close(ours: torch.Tensor, golden: torch.Tensor, atol: float = 1e-5) -> None:
    torch.testing.assert_close(ours.detach().reshape(golden.shape), golden, rtol=0, atol=atol)


@pytest.mark.parametrize("folder", folders("llamagen_patchgan"))
def test_llamagen_patchgan(folder: Path):
    config, weights, io = load(folder)
    arguments = config["constructor"]
    assert arguments["input_nc"] == 3
    model = PatchGAN(arguments["ndf"], arguments["n_layers"])
    model.load_state_dict(weights)
    real, fake = io["real"], io["fake"]
    close(model.eval()(real), io["logits_real_eval"])
    model.train()
    on_real, on_fake = model(real), model(fake)
    close(on_real, io["logits_real_train"])
    close(on_fake, io["logits_fake_train"])

    close(discriminator_loss("hinge", on_real, on_fake), io["hinge_d"])
    close(discriminator_loss("vanilla", on_real, on_fake), io["vanilla_d"])
    close(generator_loss("hinge", on_fake), io["hinge_g"])
    # Upstream exchanges target and logits of the non-saturating losses. The stored values show
    # that we read it right; smalti's own losses take them in the right order, as checked below.
    ones, zeros = torch.ones_like(on_fake), torch.zeros_like(on_fake)
    bce = F.binary_cross_entropy_with_logits
    close(0.5 * (bce(ones, on_real) + bce(zeros, on_fake)), io["nonsat_d_official_bug"])
    close(bce(ones, on_fake), io["nonsat_g_official_bug"])
    right = 0.5 * (bce(on_real, ones) + bce(on_fake, zeros))
    close(discriminator_loss("non-saturating", on_real, on_fake), right.detach(), 1e-6)
    close(generator_loss("non-saturating", on_fake), bce(on_fake, ones).detach(), 1e-6)

    last = io["last_layer"].clone().requires_grad_()
    image = F.conv2d(io["feat"], last, padding=1)
    adversarial = generator_loss("hinge", model(image))
    weight = adaptive_weight(F.mse_loss(image, real), adversarial, last)
    golden = io["adaptive_weight"]
    close(weight, golden, 1e-4 * float(golden))
    assert not weight.requires_grad
    io.done()
