"""The KL-VAE: its distributions, the scale and the grouping of its codes, where it attends."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Normal, kl_divergence

from builders import build, tokenizers
from smalti.tokenizers.kl_vae import KLVAE, Posterior, kl16, tiny

CASES = {name: case for name, case in tokenizers().items() if case[0] is KLVAE}
cases = pytest.mark.parametrize("name", CASES)


def pictures(model: KLVAE, count: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(count, 3, *model.config.size, generator=generator) * 2 - 1


def test_divergence_and_samples_of_a_posterior():
    generator = torch.Generator().manual_seed(0)
    mean, logvar, noise = torch.randn(3, 2, 4, 3, 5, generator=generator)
    posterior = Posterior(mean, logvar)
    normal = Normal(mean, posterior.std)
    wanted = kl_divergence(normal, Normal(0.0, 1.0)).sum((1, 2, 3))
    torch.testing.assert_close(posterior.kl(), wanted)
    torch.testing.assert_close(posterior.sample(noise), mean + noise * (logvar / 2).exp())
    assert torch.equal(posterior.sample(torch.zeros_like(noise)), mean)
    standard = Posterior(torch.zeros(2, 4, 3, 5), torch.zeros(2, 4, 3, 5))
    assert standard.kl().tolist() == [0, 0]


@torch.no_grad()
def test_log_variances_are_kept_in_bounds():
    model = build(KLVAE, tiny())
    model.quant_conv.weight[4:] = 0
    model.quant_conv.bias[4:] = torch.tensor([-100.0, -30, 20, 100])
    found = model.posterior(pictures(model)).logvar
    assert found[0, :, 0, 0].tolist() == [-30, -30, 20, 20]


@cases
@torch.no_grad()
def test_moments_are_those_of_the_codes_of_samples(name):
    model = build(*CASES[name])
    images, channels = pictures(model), model.spec.channels
    mean, std = model.moments(images).split(channels, -1)
    assert mean.shape == std.shape == model.spec.shape(2) and std.min() > 0
    assert torch.equal(model.encode(images), mean)
    posterior = model.posterior(images)
    noise = torch.randn_like(posterior.mean)
    codes = model.codes(posterior.sample(noise))
    plain = replace(model.config, scale=1.0)
    model.config = plain
    torch.testing.assert_close(codes, mean + std * model.codes(noise), rtol=1e-5, atol=1e-5)


@cases
@torch.no_grad()
def test_decode_is_the_inverse_of_codes(name):
    model = build(*CASES[name])
    config = model.config
    height, width = (s // config.factor * config.group for s in config.size)
    latent = torch.randn(2, config.latent, height, width)
    pixels = model.render(latent)
    torch.testing.assert_close(model.decode(model.codes(latent)), pixels, rtol=0, atol=1e-5)


@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 3), st.integers(1, 3))
@torch.no_grad()
def test_codes_group_neighbours_channel_by_channel(group, latent, rows, columns):
    """As MAR's patchify: channels, then rows and columns inside a group."""
    config = replace(
        tiny(),
        size=(4 * group * rows, 4 * group * columns),
        group=group,
        latent=latent,
        attention=False,
        scale=2.0,
    )
    with torch.device("meta"):
        model = KLVAE(config)
    maps = torch.randn(2, latent, group * rows, group * columns)
    parts = maps.reshape(2, latent, rows, group, columns, group)
    wanted = torch.einsum("nchpwq->nhwcpq", parts).reshape(2, rows * columns, latent * group**2)
    assert torch.equal(model.codes(maps), 2 * wanted)
    assert model.spec.shape(2) == wanted.shape


@torch.no_grad()
def test_the_scale_changes_codes_and_no_picture():
    model = build(KLVAE, tiny())
    images = pictures(model)
    codes, pixels = model.encode(images), model.decode(model.encode(images))
    model.config = replace(model.config, scale=1.25)
    torch.testing.assert_close(model.encode(images), codes * 2.5)
    torch.testing.assert_close(model.decode(model.encode(images)), pixels, rtol=0, atol=1e-5)


@torch.no_grad()
def test_training_draws_with_the_seed_and_sees_the_unscaled_latent():
    model = build(KLVAE, tiny())
    images = pictures(model)
    runs = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        runs.append(model(images).images)
    assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])
    torch.manual_seed(0)
    posterior = model.posterior(images)
    latent = posterior.sample(torch.randn_like(posterior.mean))
    assert torch.equal(model.render(latent), runs[0])


@pytest.mark.parametrize(
    ("at", "encoder"), [((4,), {2}), ((1, 2), {0, 1}), ((8, 16), set()), ((), set())]
)
def test_where_it_attends(at, encoder):
    with torch.device("meta"):
        model = KLVAE(replace(tiny(), attention_at=at))
        bare = KLVAE(replace(tiny(), attention_at=at, attention=False))
    names = {n.split(".attn.")[0] for n in model.state_dict() if ".attn." in n}
    assert names == {f"encoder.conv_blocks.{i}" for i in encoder}, "none in the decoder's levels"
    middle = {n.split(".")[0] for n in model.state_dict() if ".mid.1.q." in n}
    assert middle == {"encoder", "decoder"}
    assert not [n for n in bare.state_dict() if ".q." in n]


def test_the_published_size():
    assert kl16().spec.shape(1) == (1, 256, 16) and kl16().scale == 0.2325
    assert kl16(512).spec.positions == 1024
    assert math.isinf(kl16().spec.bits)
