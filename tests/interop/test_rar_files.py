"""RAR's and MaskGIT-VQGAN's files: from tensors back to the config, random ones and published."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from builders import build
from official import official
from official_settings import maskgit_config, rar_config
from smalti.interop.convert import build as build_part
from smalti.interop.pickles import Checkpoint
from smalti.interop.project import sized
from smalti.interop.projects.maskgit_vqgan import TOKENIZER, maskgit_sizes, maskgit_state
from smalti.interop.projects.rar import rar_sizes, rar_state, sampling
from smalti.models.rar import RAR, SIZES, RARConfig, tiny
from smalti.modules import assemble
from smalti.pipeline.sampling import Sampling
from smalti.tokenizers import maskgit_vqgan
from smalti.tokenizers.maskgit_vqgan import MaskGITVQGAN, MaskGITVQGANConfig


def checkpoint(module, config, name="x.bin"):
    """A checkpoint without numbers: shapes are all that sizes are found from."""
    with torch.device("meta"):
        return Checkpoint(Path(name), official(module(config)), {})


@st.composite
def generators(draw) -> RARConfig:
    heads = draw(st.integers(1, 4))
    return RARConfig(
        grid=(draw(st.integers(1, 6)), draw(st.integers(1, 6))),
        vocab=draw(st.integers(2, 40)),
        classes=draw(st.integers(1, 12)),
        layers=draw(st.integers(1, 3)),
        heads=heads,
        dim=heads * draw(st.integers(1, 9)),
        ffn_dim=draw(st.integers(1, 50)),
    )


@settings(max_examples=30)
@given(config=generators())
def test_generators_come_back(config):
    stored = checkpoint(RAR, config)
    found = rar_sizes(stored, config.grid)
    assert found == config
    assert assemble(RAR, found, rar_state(stored.state, found), "x.bin").config == config


def test_weights_come_back():
    model = build(RAR, tiny())
    state = rar_state(official(model), tiny())
    ours = model.state_dict()
    assert state.keys() == ours.keys() and all(torch.equal(state[k], ours[k]) for k in ours)


@pytest.mark.parametrize(
    ("size", "parameters", "drawn"),
    [
        ("B", 260_923_648, Sampling.of(guidance=16.0, schedule="power-cosine", power=2.75)),
        (
            "L",
            461_668_352,
            Sampling.of(guidance=15.5, schedule="power-cosine", power=2.5, temperature=1.02),
        ),
        (
            "XL",
            955_425_024,
            Sampling.of(guidance=6.9, schedule="power-cosine", power=1.5, temperature=1.02),
        ),
        (
            "XXL",
            1_498_520_704,
            Sampling.of(guidance=8.0, schedule="power-cosine", power=1.2, temperature=1.02),
        ),
    ],
)
def test_published_generators(size, parameters, drawn):
    config = RARConfig(**SIZES[size])
    stored = checkpoint(RAR, config)
    assert rar_sizes(stored) == config and sampling(config) == drawn
    assert sum(t.numel() for t in stored.state.values()) == parameters
    # nothing reads 2 * 1,022 + 2 positions, 99 steps and the embedding of the mask: ours has none
    with torch.device("meta"):
        ours = sum(p.numel() for p in RAR(config).parameters())
    assert ours == parameters - (2 * 1022 + 2 + 99 + 1) * config.dim


def test_other_sizes_draw_as_the_demo():
    assert sampling(tiny()) == Sampling.of(guidance=4.0)
    assert sampling(RARConfig(**SIZES["B"] | {"layers": 23})) == Sampling.of(guidance=4.0)


def test_settings():
    generator = {
        "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
        "intermediate_size": 192, "image_seq_len": 36, "condition_num_classes": 10, "dropout": 0.2,
    }  # fmt: skip
    given = {"generator": generator, "vq_model": {"codebook_size": 96}}
    assert rar_config(given) == RARConfig((6, 6), 96, 0, 0, 10, 3, 4, 64, 192, 0.2)
    with pytest.raises(ValueError, match="image_seq_len is 35, a grid of 5x5 is not: give grid"):
        rar_config(given | {"generator": generator | {"image_seq_len": 35}})
    wide = rar_config(given | {"generator": generator | {"image_seq_len": 35}}, (5, 7))
    assert wide.grid == (5, 7)


@pytest.mark.parametrize(
    ("grid", "change", "message"),
    [
        ((4, 5), {}, "x.bin has 16 codes, a grid of 4x5 does not: give --grid"),
        (None, {"timesteps_embeddings": (1, 118, 32)}, "of 16 codes, timesteps_embeddings of 18"),
        (None, {"target_aware_pos_embed": (1, 1041, 32)}, "target_aware_pos_embed of 17"),
        (None, {"pos_embed": (1, 300, 32)}, "pos_embed is of -724 codes"),
        (None, {"cls_token": (32,)}, r"no such file of RAR: it has shape \(32,\) in cls_token"),
        (None, {"lm_head.weight": None}, "no such file of RAR: it has no lm_head.weight"),
        (None, {"blocks.0.attn.q_norm.weight": None}, "has no blocks.0.attn.q_norm.weight"),
    ],
)
def test_tensors_that_do_not_fit(grid, change, message):
    stored = checkpoint(RAR, tiny())
    for name, shape in change.items():
        del stored.state[name]
        if shape:
            stored.state[name] = torch.empty(shape, device="meta")
    with pytest.raises(ValueError, match=message):
        rar_sizes(stored, grid)


def test_a_number_of_codes_that_is_no_square_needs_the_grid():
    stored = checkpoint(RAR, replace(tiny(), grid=(3, 5)))
    assert rar_sizes(stored, (5, 3)).grid == (5, 3)
    with pytest.raises(ValueError, match="has 15 codes, a grid of 3x3 does not: give --grid"):
        rar_sizes(stored)


@st.composite
def tokenizers(draw) -> MaskGITVQGANConfig:
    config = MaskGITVQGANConfig(
        channels=draw(st.integers(1, 6)),
        multipliers=draw(st.tuples(*[st.integers(1, 4)] * draw(st.integers(1, 4)))),
        blocks=draw(st.integers(1, 3)),
        vocab=draw(st.integers(2, 40)),
        dim=draw(st.integers(1, 9)),
    )
    return replace(config, size=(config.factor, config.factor))


@settings(max_examples=30)
@given(config=tokenizers())
def test_tokenizers_come_back(config):
    stored = checkpoint(MaskGITVQGAN, config)
    assert maskgit_sizes(stored) == config
    found = build_part(TOKENIZER, stored, sized(config, (3, 5)))
    assert found.config == replace(config, size=(3 * config.factor, 5 * config.factor))


def test_the_published_tokenizer():
    stored = checkpoint(MaskGITVQGAN, maskgit_vqgan.f16())
    assert replace(maskgit_sizes(stored), size=(256, 256)) == maskgit_vqgan.f16()
    names = {"decoder.up.4.upsample_conv.weight", "encoder.down.2.block.0.nin_shortcut.weight"}
    assert names <= stored.state.keys() and "decoder.up.0.upsample_conv.weight" not in stored.state
    assert stored.state.keys() - maskgit_state(stored.state).keys() == {
        f"decoder.up.{i}.upsample_conv.{part}" for i in range(1, 5) for part in ("weight", "bias")
    }


def test_tokenizer_settings():
    conf = {
        "channel_mult": [1, 2], "num_resolutions": 2, "dropout": 0.1, "hidden_channels": 8,
        "num_channels": 3, "num_res_blocks": 1, "resolution": 64, "z_channels": 12,
    }  # fmt: skip
    quantizer = {"num_embeddings": 20, "embedding_dim": 12, "commitment_cost": 0.25}
    wanted = MaskGITVQGANConfig((64, 64), 8, (1, 2), 1, 20, 12, 0.1)
    assert maskgit_config(conf, quantizer) == wanted
    assert maskgit_config(conf, quantizer, (4, 8)) == replace(wanted, size=(4, 8))
    for name, bad, needed in (
        ("num_channels", 1, 3), ("num_resolutions", 3, 2), ("z_channels", 13, 12)
    ):  # fmt: skip
        with pytest.raises(ValueError, match=f"{name} must be {needed}, got {bad}"):
            maskgit_config(conf | {name: bad}, quantizer)
