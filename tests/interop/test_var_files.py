"""VAR's files: from tensors back to the config, random ones and published; scales and heads."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from builders import build
from official import official
from smalti.interop.pickles import Checkpoint
from smalti.interop.projects.var import scales_of, vae_sizes, vae_state, var_sizes, var_state
from smalti.models import var
from smalti.models.var import VAR, VARConfig
from smalti.modules import assemble
from smalti.tokenizers import multiscale_vqvae
from smalti.tokenizers.multiscale_vqvae import VAR256, VAR512, MultiScaleConfig, MultiScaleVQVAE
from smalti.tokenizers.quantize.multiscale import pyramid

SMALL = replace(var.tiny(), drop_path=0.1 * var.tiny().layers / 24)


def checkpoint(module, config, name="x.pth"):
    """A checkpoint without numbers but those of the levels."""
    with torch.device("meta"):
        made = module(config)
    return Checkpoint(Path(name), official(made), {})


@st.composite
def transformers(draw) -> VARConfig:
    heads, layers = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    sides = sorted(draw(st.sets(st.integers(1, 6), min_size=1, max_size=4)))
    return VARConfig(
        scales=pyramid(*sides),
        vocab=draw(st.integers(2, 40)),
        latent=draw(st.integers(1, 9)),
        classes=draw(st.integers(1, 12)),
        layers=layers,
        heads=heads,
        dim=heads * draw(st.integers(1, 9)),
        mlp_ratio=float(draw(st.integers(1, 4))),
        shared_adaln=draw(st.booleans()),
        l2_norm=draw(st.booleans()),
        drop_path=0.1 * layers / 24,
    )


@settings(max_examples=30)
@given(config=transformers())
def test_transformers_come_back(config):
    stored = checkpoint(VAR, config)
    assert scales_of(stored) == config.scales
    found = var_sizes(stored, config.scales, None if config.l2_norm else config.heads)
    assert found == config
    with torch.device("meta"):
        quantizer = {f"quantize.{k}": t for k, t in VAR(config).quantize.state_dict().items()}
    assert assemble(VAR, found, var_state(stored.state, quantizer), "x.pth").config == config


@pytest.mark.parametrize("change", [{}, {"shared_adaln": True}, {"l2_norm": False}])
def test_weights_come_back(change):
    model = build(VAR, replace(var.tiny(), **change))
    ours = model.state_dict()
    state = var_state(official(model), ours)
    assert state.keys() == ours.keys() and all(torch.equal(state[k], ours[k]) for k in ours)


def count(module, config) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in module(config).parameters() if p.requires_grad)


@pytest.mark.parametrize(
    ("depth", "scales", "shared", "parameters"),
    [
        (16, VAR256, False, 310_283_520),
        (20, VAR256, False, 600_917_136),
        (24, VAR256, False, 1_033_399_360),
        (30, VAR256, False, 2_010_020_356),
        (36, VAR512, True, 2_353_893_904),
    ],
)
def test_published_transformers(depth, scales, shared, parameters):
    config = VARConfig(
        scales=scales, layers=depth, heads=depth, dim=64 * depth, shared_adaln=shared,
        drop_path=0.1 * depth / 24,
    )  # fmt: skip
    stored = checkpoint(VAR, config, f"var_d{depth}.pth")
    assert var_sizes(stored, scales_of(stored)) == config
    assert count(VAR, config) == parameters
    buffers = ("lvl_1L", "attn_bias_for_masking", "zero_k_bias")
    held = {k: t.numel() for k, t in stored.state.items() if not k.endswith(buffers)}
    assert sum(held.values()) == parameters
    del stored.state["lvl_1L"]
    assert scales_of(stored) == scales


@st.composite
def tokenizers(draw) -> MultiScaleConfig:
    multipliers = draw(st.tuples(*[st.integers(1, 4)] * draw(st.integers(1, 4))))
    scales = pyramid(*sorted(draw(st.sets(st.integers(1, 6), min_size=1, max_size=4))))
    side = scales[-1][0] * 2 ** (len(multipliers) - 1)
    return MultiScaleConfig(
        size=(side, side),
        channels=draw(st.integers(1, 6)),
        multipliers=multipliers,
        blocks=draw(st.integers(1, 2)),
        scales=scales,
        vocab=draw(st.integers(2, 40)),
        dim=draw(st.integers(1, 9)),
        phis=draw(st.integers(1, 4)),
        kernel=draw(st.sampled_from([1, 3])),
        attention=draw(st.booleans()),
    )


@settings(max_examples=30)
@given(config=tokenizers())
def test_tokenizers_come_back(config):
    stored = checkpoint(MultiScaleVQVAE, config)
    found = vae_sizes(stored, config.scales)
    assert found == config
    state = vae_state(stored.state)
    assert assemble(MultiScaleVQVAE, found, state, "x.pth").config == config


@pytest.mark.parametrize(("phis", "name"), [(1, "qresi"), (2, "0 1")])
def test_other_ways_to_share_the_convolutions(phis, name):
    """One for all scales, and one for each, have other names upstream."""
    model = build(MultiScaleVQVAE, replace(multiscale_vqvae.tiny(), phis=phis))
    names = name.split()
    state = official(model)
    for i in range(phis):
        for part in ("weight", "bias"):
            tensor = state.pop(f"quantize.quant_resi.qresi_ls.{i}.{part}")
            state[f"quantize.quant_resi.{names[i]}.{part}"] = tensor
    stored = Checkpoint(Path("x.pth"), state, {})
    assert vae_sizes(stored, model.config.scales) == model.config
    ours, found = model.state_dict(), vae_state(state)
    assert found.keys() == ours.keys() and all(torch.equal(found[k], ours[k]) for k in ours)


def test_the_published_tokenizer():
    for config, scales in (
        (multiscale_vqvae.var256(), VAR256),
        (multiscale_vqvae.var512(), VAR512),
    ):
        assert vae_sizes(checkpoint(MultiScaleVQVAE, config), scales) == config


def test_scales_are_given_or_told():
    stored = checkpoint(VAR, replace(SMALL, scales=pyramid(1, 2, 4)))
    assert scales_of(stored) == pyramid(1, 2, 4) == scales_of(stored, (1, 2, 4))
    with pytest.raises(ValueError, match="x.pth has 21 codes, scales of sides 1 2 3 have 14"):
        scales_of(stored, (1, 2, 3))
    del stored.state["lvl_1L"]
    assert scales_of(stored, (1, 2, 4)) == pyramid(1, 2, 4)
    with pytest.raises(ValueError, match="x.pth does not say the scales of its codes: give --scal"):
        scales_of(stored)
    stored.state["lvl_1L"] = torch.tensor([[0, 1, 1, 1]])
    with pytest.raises(ValueError, match=r"scales of \[1, 3\] codes are no squares"):
        scales_of(stored)
    stored.state["lvl_1L"] = torch.tensor([[0, 1, 1, 1, 1]])
    with pytest.raises(ValueError, match="has 21 codes, scales of sides 1 2 have 5"):
        scales_of(stored)


def test_heads_are_given_or_told():
    stored = checkpoint(VAR, SMALL)
    assert var_sizes(stored, SMALL.scales) == SMALL == var_sizes(stored, SMALL.scales, SMALL.heads)
    with pytest.raises(ValueError, match=f"has {SMALL.heads} heads, got --heads 8"):
        var_sizes(stored, SMALL.scales, 8)
    plain = replace(SMALL, l2_norm=False)
    stored = checkpoint(VAR, plain)
    assert var_sizes(stored, plain.scales, plain.heads) == plain
    with pytest.raises(ValueError, match="x.pth does not say its heads: give --heads"):
        var_sizes(stored, plain.scales)
    ruled = replace(plain, layers=2, dim=128, heads=2, drop_path=0.1 * 2 / 24)
    assert var_sizes(checkpoint(VAR, ruled), ruled.scales) == ruled


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("class_emb.weight", "no such file of VAR: it has no class_emb.weight"),
        ("head.weight", "it has no head.weight"),
        ("blocks.0.ffn.fc1.weight", "it has no blocks.0.ffn.fc1.weight"),
    ],
)
def test_tensors_that_are_missing(name, message):
    stored = checkpoint(VAR, SMALL)
    del stored.state[name]
    with pytest.raises(ValueError, match=message):
        var_sizes(stored, SMALL.scales)
