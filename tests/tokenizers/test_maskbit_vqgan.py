"""What is special about MaskBit's tokenizer: how the encoder halves, and that a code is signs."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from builders import build
from smalti.tokenizers import maskgit_vqgan
from smalti.tokenizers.maskbit import MaskBitVQGAN, f16, tiny
from smalti.tokenizers.maskgit_vqgan import MaskGITVQGAN


@pytest.mark.parametrize("bits", [10, 18])
def test_published_sizes(bits):
    """The published MaskGIT-VQGAN has 54,515,587 parameters (`test_maskgit.py`)."""
    with torch.device("meta"):
        ours, theirs = MaskBitVQGAN(f16(bits)), MaskGITVQGAN(maskgit_vqgan.f16())
    codes = theirs.config.dim - bits
    less = 1024 * 256 + codes * (512 + 1) + codes * 512 * 9  # table, and both ends of the latent
    strided = sum(9 * c * c + c for c in (128, 128, 256, 256))
    found, wanted = (sum(p.numel() for p in m.parameters()) for m in (ours, theirs))
    assert found == wanted - less + strided
    assert not list(ours.quantize.parameters())


@torch.no_grad()
def test_averages_halve_as_in_maskgit():
    """Without its convolutions the network is MaskGIT's, with signs in place of a table."""
    config = replace(tiny(), strided=False)
    ours = build(MaskBitVQGAN, config)
    theirs = MaskGITVQGAN(
        maskgit_vqgan.MaskGITVQGANConfig(
            config.size, config.channels, config.multipliers, config.blocks, 4, config.bits
        )
    ).eval()
    state = ours.state_dict()
    theirs.load_state_dict(state | {"quantize.embedding.weight": torch.ones(4, config.bits)})
    images = torch.rand(2, 3, *config.size) * 2 - 1
    latent = ours.latent(images)
    torch.testing.assert_close(latent, theirs.latent(images))
    signs = torch.where(latent > 0, 1.0, -1.0)
    torch.testing.assert_close(ours.decode(ours.encode(images)), theirs.render(signs))


@torch.no_grad()
def test_a_convolution_pads_at_the_right_and_bottom():
    model = build(MaskBitVQGAN, tiny())
    x = torch.randn(1, 8, 6, 4)
    halve = model.encoder.halve[0]
    weight, bias = halve.conv.weight, halve.conv.bias
    for row, column in ((0, 0), (2, 1)):  # the last one reads zeros
        patch = F.pad(x, (0, 1, 0, 1))[:, :, 2 * row : 2 * row + 3, 2 * column : 2 * column + 3]
        wanted = (patch[0] * weight).sum((1, 2, 3)) + bias
        torch.testing.assert_close(halve(x)[0, :, row, column], wanted)


def test_a_latent_of_0_is_a_bit_of_0():
    quantize = MaskBitVQGAN(tiny()).quantize
    z = torch.zeros(1, 6, 1, 1)
    z[0, 2], z[0, 3] = 1e-30, -1e-30
    assert quantize.encode(z).flatten().tolist() == [0, 0, 1, 0, 0, 0]
    assert quantize(z).latent.flatten().tolist() == [-1, -1, 1, -1, -1, -1]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"channels": 0}, "channels must be at least 1, got 0"),
        ({"blocks": 0}, "blocks must be at least 1, got 0"),
        ({"decoder_blocks": -1}, "decoder_blocks must be 0 or more, got -1"),
        ({"bits": 0}, "bits must be at least 1, got 0"),
        ({"temperature": 0.0}, "temperature must be a positive number, got 0.0"),
        ({"entropy_rate": -1.0}, "entropy_rate must be 0 or more, got -1.0"),
        ({"entropy_group": 0}, "entropy_group must be at least 1, got 0"),
        ({"multipliers": ()}, r"multipliers must be one or more positive integers, got \(\)"),
        ({"size": (16, 18)}, r"size must be multiples of 4 pixels, got \(16, 18\)"),
    ],
)
def test_bad_configs(bad, message):
    with pytest.raises(ValueError, match=message):
        replace(tiny(), **bad)
