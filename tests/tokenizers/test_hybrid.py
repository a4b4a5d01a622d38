"""The hybrid quantizer and HART's tokenizer beyond the contract of tokenizers."""

from dataclasses import replace

import pytest
import torch

from builders import build
from smalti.tokenizers import hart_vae
from smalti.tokenizers.hart_vae import HARTVAE, HARTVAEConfig, hart1024
from smalti.tokenizers.quantize.hybrid import HybridQuantizer
from smalti.tokenizers.quantize.multiscale import MultiScaleQuantizer, pyramid

SCALES = pyramid(1, 2, 4)


@pytest.fixture
def quantizer() -> HybridQuantizer:
    torch.manual_seed(0)
    made = HybridQuantizer(SCALES, 32, 4, phis=0)
    for weight in made.parameters():
        weight.data.normal_(std=0.3)
    return made.eval()


def latents(seed: int = 0) -> torch.Tensor:
    return torch.randn(3, 4, 4, 4, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def test_vectors_lose_nothing_and_hold_the_codes_of_scales(quantizer):
    plain = MultiScaleQuantizer(SCALES, 32, 4, phis=0).eval()
    plain.load_state_dict(quantizer.state_dict(), strict=False)
    z = latents()
    vectors, codes = quantizer.encode(z), plain.encode(z)
    assert vectors.shape == (3, 21, 4) and vectors.dtype == torch.float32
    torch.testing.assert_close(quantizer.decode(vectors), z, rtol=0, atol=1e-6)
    assert torch.equal(quantizer.codes(vectors), codes)
    assert torch.equal(vectors[:, :5], plain.embed(codes[:, :5])), "coarse scales have no rest"
    assert (vectors[:, 5:] - plain.embed(codes[:, 5:])).abs().amin((0, 1)).max() > 1e-6
    for scales in (0, 1, 2, 3, None):
        assert torch.equal(quantizer.decode(codes, scales), plain.decode(codes, scales))
    for scales in (0, 1, 2):
        assert torch.equal(quantizer.decode(vectors, scales), plain.decode(codes, scales))
    assert torch.equal(quantizer.inputs(vectors), plain.inputs(codes))


def test_training_shows_a_share_of_pictures_without_the_rest(quantizer):
    z = torch.cat([latents(i) for i in range(100)])
    quantizer.train().discrete = 0.25
    torch.manual_seed(0)
    found = quantizer(z)
    whole = (found.latent == z).all((1, 2, 3))
    assert 0.7 < whole.float().mean() < 0.8
    alone = MultiScaleQuantizer.decode(quantizer, found.codes)
    torch.testing.assert_close(found.latent[~whole], alone[~whole], rtol=0, atol=1e-5)
    quantizer.discrete = 0.0
    assert torch.equal(quantizer(z).latent, z)
    quantizer.eval().discrete = 1.0
    assert torch.equal(quantizer(z).latent, z), "in evaluation the rest is always there"


def test_training_measures_the_rest(quantizer):
    z = latents()
    vectors = quantizer.encode(z)[:, -16:]
    rest = vectors - quantizer.embed(quantizer.codes(vectors))
    quantizer(z)
    assert quantizer.rest_std == 1, "evaluation measures nothing"
    quantizer.train()
    for _ in range(400):
        quantizer(z)
    torch.testing.assert_close(quantizer.rest_std, rest.square().mean().sqrt(), rtol=1e-2, atol=0)


@torch.no_grad()
def test_a_picture_without_its_rest_is_another_one():
    tokenizer = build(HARTVAE, hart_vae.tiny())
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    vectors = tokenizer.encode(images)
    whole, alone = tokenizer.decode(vectors), tokenizer.decode(tokenizer.discrete(vectors))
    assert (whole - tokenizer.render(tokenizer.latent(images))).abs().max() < 1e-4
    assert (whole - alone).abs().max() > 1e-2


def test_the_published_sizes():
    config = hart1024()
    assert config.spec.positions == 9451 and config.spec.channels == 32
    assert config.spec.grids[-1] == (64, 64) and not config.spec.discrete
    with torch.device("meta"):
        count = sum(p.numel() for p in HARTVAE(config).parameters())
    assert count == pytest.approx(108.9e6, rel=1e-3)


def test_a_share_that_cannot_be():
    with pytest.raises(ValueError, match=r"discrete must be .*, got 1.5"):
        replace(HARTVAEConfig(), discrete=1.5)
