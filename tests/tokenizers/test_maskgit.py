"""What is MaskGIT-VQGAN's own: sizes, ranges, the shortcut, and training past the clamp."""

from dataclasses import replace

import pytest
import torch

from builders import build
from smalti.tokenizers.maskgit_vqgan import Block, MaskGITVQGAN, f16, tiny
from smalti.train.codebook_care import CodebookConfig
from smalti.train.objectives import ReconstructionConfig, ReconstructionObjective


def test_the_published_size():
    with torch.device("meta"):
        model = MaskGITVQGAN(f16())
    parts = [model, model.encoder, model.decoder, model.quantize]
    counts = [sum(p.numel() for p in part.parameters()) for part in parts]
    assert counts == [54_515_587, 23_775_104, 30_478_339, 262_144]
    assert model.spec.grids == ((16, 16),) and model.config.factor == 16
    assert f16(512).spec.grids == ((32, 32),)


@torch.no_grad()
@pytest.mark.parametrize(("before", "after"), [(8, 8), (8, 16)])
def test_the_shortcut_is_of_the_output_where_the_width_changes(before, after):
    torch.manual_seed(0)
    block, x = Block(before, after, 0.0), torch.randn(2, before, 4, 4)
    h = block.conv1(torch.nn.functional.silu(block.norm1(x)))
    h = block.conv2(torch.nn.functional.silu(block.norm2(h)))
    if before == after:
        wanted = h + x
    else:
        assert block.nin_shortcut.weight.shape == (after, after, 1, 1)
        wanted = h + torch.einsum("oi,bihw->bohw", block.nin_shortcut.weight[..., 0, 0], h)
    torch.testing.assert_close(block(x), wanted, rtol=0, atol=1e-5)
    biases = {name for name, _ in block.named_parameters() if name.endswith("bias")}
    assert biases == {"norm1.bias", "norm2.bias"}


@torch.no_grad()
def test_the_networks_see_images_from_0_to_1():
    model = build(MaskGITVQGAN, replace(tiny(), size=(8, 12)))
    unit = torch.rand(2, 3, 8, 12)
    torch.testing.assert_close(model.latent(unit * 2 - 1), model.encoder(unit), rtol=0, atol=1e-5)
    z = model.encoder(unit)
    torch.testing.assert_close((model.render(z) + 1) / 2, model.decoder(z), rtol=0, atol=1e-5)


def test_decode_clamps_and_training_does_not():
    model = build(MaskGITVQGAN, tiny())
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    out = model(images)
    assert out.images.abs().max() > 1.1, "the test needs pixels outside the range"
    pixels = model.decode(model.encode(images))
    assert pixels.abs().max() == 1
    outside = out.images.abs() > 1
    gradient = torch.autograd.grad(out.images[outside].sum(), model.last_layer)[0]
    assert gradient.abs().max() > 1e-3


def test_it_trains():
    """Plain autoencoding, k-means and the quantized loss, through the objective of all VQGANs."""
    torch.manual_seed(0)
    config = ReconstructionConfig(
        perceptual="none",
        gan_weight=0.0,
        quantizer_weight=0.25,
        commitment=1.0,
        codebook=CodebookConfig(warmup=5),
    )
    objective = ReconstructionObjective(MaskGITVQGAN(tiny()), config)
    ramp = torch.linspace(0, 255, 16).byte().expand(16, 16)
    images = torch.stack([ramp, ramp.T, ramp.flip(1), ramp.T.flip(0)])[:, None].expand(
        -1, 3, -1, -1
    )
    optimizer = torch.optim.AdamW(objective.parameters(), 1e-2)
    errors = []
    for step in range(60):
        losses = objective({"images": images}, step)
        optimizer.zero_grad()
        losses.totals["model"].backward()
        optimizer.step()
        errors.append(losses.logs["pixel"].item())
    assert errors[-1] < 0.2 * errors[0] and losses.logs["usage"] > 0
