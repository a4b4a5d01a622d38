"""MAR's and KL-16's files: from tensors back to the config, random ones and published."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from builders import build
from official import official
from smalti.heads.diffusion import DiffusionConfig
from smalti.interop.pickles import Checkpoint
from smalti.interop.projects.mar import group, kl_state, mar_sizes, mar_state, sampling, vae_sizes
from smalti.models.mar import MAR, SIZES, MARConfig, tiny
from smalti.modules import assemble
from smalti.pipeline.sampling import Sampling
from smalti.tokenizers import kl_vae
from smalti.tokenizers.kl_vae import KLVAE, KLVAEConfig, kl16


def checkpoint(module, config, **args):
    """A checkpoint without numbers: shapes are all that sizes are found from."""
    with torch.device("meta"):
        return Checkpoint(Path("x.pth"), official(module(config)), args)


@st.composite
def tokenizers(draw) -> KLVAEConfig:
    levels = draw(st.integers(1, 4))
    widths = st.tuples(*[st.integers(1, 4)] * levels)
    encoder, decoder = draw(widths), draw(widths)
    return KLVAEConfig(
        size=(2 ** (levels - 1), 2 ** (levels - 1)),
        channels=draw(st.integers(1, 6)),
        multipliers=encoder,
        decoder_multipliers=() if decoder == encoder else decoder,
        blocks=draw(st.integers(1, 3)),
        latent=draw(st.integers(1, 9)),
        scale=draw(st.floats(0.01, 100)),
        attention_at=tuple(2**i for i in sorted(draw(st.sets(st.integers(0, levels - 1))))),
    )


@settings(max_examples=20)
@given(config=tokenizers())
def test_tokenizers_come_back(config):
    stored = checkpoint(KLVAE, config)
    assert vae_sizes(stored, config.scale) == config
    state = kl_state(stored.state)
    assert assemble(KLVAE, config, state, "x.pth").config == config
    with pytest.raises(ValueError, match="x.pth does not hold the scale of its latents: give --sc"):
        vae_sizes(stored)


def test_weights_of_a_tokenizer_come_back():
    model = build(KLVAE, kl_vae.tiny())
    losses = {"loss.discriminator.main.0.weight": torch.ones(2), "loss.logvar": torch.ones(1)}
    state, ours = kl_state(official(model) | losses), model.state_dict()
    assert state.keys() == ours.keys() and all(torch.equal(state[k], ours[k]) for k in ours)


def test_the_published_tokenizer():
    stored = checkpoint(KLVAE, kl16())
    assert len(stored.state) == 312  # as the published file
    assert replace(vae_sizes(stored), size=(256, 256)) == kl16()
    assert vae_sizes(stored, 0.5).scale == 0.5
    names = {
        "encoder.down.4.attn.1.proj_out.weight", "decoder.up.0.block.2.conv2.bias",
        "decoder.up.4.upsample.conv.weight", "encoder.mid.attn_1.q.weight", "quant_conv.bias",
    }  # fmt: skip
    assert names <= stored.state.keys() and "decoder.up.0.upsample.conv.weight" not in stored.state


@pytest.mark.parametrize(
    "change",
    [{"latent": 8}, {"channels": 64}, {"multipliers": (1, 1, 2, 2, 2)}, {"blocks": 1}],
    ids=str,
)
def test_the_scale_is_known_of_the_published_tokenizer_alone(change):
    stored = checkpoint(KLVAE, replace(kl16(), **change))
    with pytest.raises(ValueError, match=r"give --scale, .* published KL-16 it is 0.2325\)"):
        vae_sizes(stored)
    for scale in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=f"scale must be a positive number, got {scale}"):
            vae_sizes(stored, scale)


@st.composite
def generators(draw) -> MARConfig:
    heads, decoder_heads, side = (draw(st.integers(1, 4)) for _ in range(3))
    dim = heads * decoder_heads * draw(st.integers(1, 6))
    decoder_dim = heads * decoder_heads * draw(st.integers(1, 6))
    return MARConfig(
        grid=(side, side),
        channels=draw(st.integers(1, 9)),
        classes=draw(st.integers(1, 12)),
        encoder_layers=draw(st.integers(1, 3)),
        decoder_layers=draw(st.integers(1, 3)),
        heads=heads,
        dim=dim,
        decoder_heads=0 if decoder_heads == heads else decoder_heads,
        decoder_dim=0 if decoder_dim == dim else decoder_dim,
        mlp_ratio=draw(st.sampled_from([0.5, 1.0, 3.0, 4.0])) if dim % 2 == 0 else 4.0,
        buffer=draw(st.integers(1, 5)),
        head=DiffusionConfig(depth=draw(st.integers(1, 3)), width=draw(st.integers(1, 20))),
    )


@settings(max_examples=20)
@given(config=generators())
def test_generators_come_back(config):
    stored = checkpoint(MAR, config)
    found = mar_sizes(stored, config.heads, config.decoder_heads or config.heads)
    assert found == config
    assert assemble(MAR, found, mar_state(stored.state), "x.pth").config == config


def test_weights_come_back():
    model = build(MAR, tiny())
    state, ours = mar_state(official(model)), model.state_dict()
    assert state.keys() == ours.keys() and all(torch.equal(state[k], ours[k]) for k in ours)


@pytest.mark.parametrize(
    ("size", "stored_bytes", "guidance"),
    [("B", 831_736_456, 2.9), ("L", 1_913_355_128, 3.0), ("H", 3_769_676_360, 3.2)],
)
def test_published_generators(size, stored_bytes, guidance):
    """As many weights as copies of the published files hold, which are .safetensors."""
    config = MARConfig(**SIZES[size])
    stored = checkpoint(MAR, config)
    assert mar_sizes(stored) == config
    header = stored_bytes - 4 * sum(t.numel() for t in stored.state.values())
    assert 100 < header / len(stored.state) < 110  # bytes to name a tensor, its type and shape
    wanted = Sampling.of(guidance=guidance, schedule="linear", steps=256)
    assert sampling(config) == wanted


def test_other_sizes_draw_as_large_ones_in_no_more_steps_than_positions():
    wanted = Sampling.of(guidance=3.0, schedule="linear", steps=16)
    assert sampling(replace(tiny(), grid=(4, 4))) == wanted
    b = MARConfig(**SIZES["B"])
    assert sampling(replace(b, grid=(8, 8))) == wanted.changed(guidance=2.9, steps=64)
    assert sampling(replace(b, encoder_layers=11)) == wanted.changed(steps=256)


def test_options_of_the_script():
    args = {"attn_dropout": 0, "proj_dropout": 0.3, "diffusion_batch_mul": 2, "cfg": 2.9}
    stored = checkpoint(MAR, MARConfig(**SIZES["B"]), **args)
    found = mar_sizes(stored)
    assert (found.attention_dropout, found.dropout, found.head.repeat) == (0.0, 0.3, 2)
    bad = Checkpoint(stored.path, stored.state, {"diffusion_batch_mul": "4"})
    with pytest.raises(ValueError, match="diffusion_batch_mul must be int, got '4'"):
        mar_sizes(bad)


def test_heads_of_widths_that_were_never_published():
    config = replace(MARConfig(**SIZES["B"]), encoder_layers=1, decoder_layers=1)
    other = checkpoint(MAR, replace(config, dim=96, heads=4))
    with pytest.raises(ValueError, match="no published model is 96 wide; give --heads"):
        mar_sizes(other)
    assert mar_sizes(other, 4) == replace(config, dim=96, heads=4)
    narrow = checkpoint(MAR, replace(config, decoder_dim=96, decoder_heads=4))
    with pytest.raises(ValueError, match="no published model is 96 wide; give --decoder-heads"):
        mar_sizes(narrow)
    assert mar_sizes(narrow, None, 4) == replace(config, decoder_dim=96, decoder_heads=4)
    large = replace(config, decoder_dim=1024, decoder_heads=16)
    assert mar_sizes(checkpoint(MAR, large)) == large


@pytest.mark.parametrize(("channels", "latent", "wanted"), [(16, 16, 1), (64, 16, 2), (36, 4, 3)])
def test_groups(channels, latent, wanted):
    stored = Checkpoint(Path("x.pth"), {}, {})
    assert group(stored, channels, latent) == wanted
    for bad in (channels + 1, channels - 1, latent * 2):
        with pytest.raises(
            ValueError, match=f"codes of {bad} channels, the tokenizer has {latent}"
        ):
            group(stored, bad, latent)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"diffusion_pos_embed_learned": (1, 15, 32)}, "x.pth has 15 codes, which are no square"),
        ({"z_proj.weight": (32,)}, r"no such file of MAR: it has shape \(32,\) in z_proj.weight"),
        ({"class_emb.weight": None}, "no such file of MAR: it has no class_emb.weight"),
        ({"encoder_pos_embed_learned": (1, 16, 32)}, "buffer must be at least 1, got 0"),
    ],
)
def test_tensors_that_do_not_fit(change, message):
    stored = checkpoint(MAR, tiny())
    for name, shape in change.items():
        del stored.state[name]
        if shape:
            stored.state[name] = torch.empty(shape, device="meta")
    with pytest.raises(ValueError, match=message):
        mar_sizes(stored, 2)
