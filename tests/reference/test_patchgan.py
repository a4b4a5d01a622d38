"""The discriminator and every adversarial loss against LlamaGen's tokenizer training."""

from pathlib import Path

import pytest
import torch
from golden import Vectors, close, folders, load
from torch import Tensor
from torch.nn import functional as F

from smalti.train.gan import PatchGAN, adaptive_weight, discriminator_loss, generator_loss


@pytest.mark.parametrize("folder", folders("llamagen_patchgan"))
def test_llamagen_patchgan(folder: Path):
    config, weights, io = load(folder)
    arguments = config["constructor"]
    planes = arguments.get("input_nc", 3)
    model = PatchGAN(arguments.get("ndf", 64), arguments.get("n_layers", 3), planes)
    model.load_state_dict(weights)
    real, fake = io["real"], io["fake"]
    io.check("logits_real_eval", model.eval()(real))
    model.train()
    on_real, on_fake = model(real), model(fake)
    io.check("logits_real_train", on_real)
    io.check("logits_fake_train", on_fake)
    check_losses(on_real, on_fake, io)
    if "feat" in io:
        last = io["last_layer"].clone().requires_grad_()
        image = F.conv2d(io["feat"], last, padding=1)
        adversarial = generator_loss("hinge", model(image))
        weight = adaptive_weight(F.mse_loss(image, real), adversarial, last)
        io.check("adaptive_weight", weight, 1e-4)
        assert not weight.requires_grad
    io.done()


def check_losses(on_real: Tensor, on_fake: Tensor, io: Vectors) -> None:
    size = max(on_real.abs().max().item(), on_fake.abs().max().item())
    ours = {
        "hinge_d": discriminator_loss("hinge", on_real, on_fake),
        "vanilla_d": discriminator_loss("vanilla", on_real, on_fake),
        "hinge_g": generator_loss("hinge", on_fake),
    }
    # Upstream exchanges target and logits of the non-saturating losses. The stored values show
    # that we read it right; smalti's own losses take them in the right order, as checked below.
    ones, zeros = torch.ones_like(on_fake), torch.zeros_like(on_fake)
    bce = F.binary_cross_entropy_with_logits
    ours["nonsat_d_official_bug"] = 0.5 * (bce(ones, on_real) + bce(zeros, on_fake))
    ours["nonsat_g_official_bug"] = bce(ones, on_fake)
    for name, loss in ours.items():
        io.check(name, loss, size=size)
    right = 0.5 * (bce(on_real, ones) + bce(on_fake, zeros))
    close(discriminator_loss("non-saturating", on_real, on_fake), right)
    close(generator_loss("non-saturating", on_fake), bce(on_fake, ones))
