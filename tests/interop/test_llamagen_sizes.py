"""From a checkpoint's tensors back to the config: random small models, and every published one."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from official import official
from smalti.interop.pickles import Checkpoint
from smalti.interop.projects.llamagen import (
    PROJECT,
    PUBLISHED,
    ffn_settings,
    gpt_sizes,
    gpt_state,
    grid_of,
    vq_sizes,
    vq_state,
)
from smalti.models.llamagen import LlamaGen, LlamaGenConfig, tiny
from smalti.modules import assemble
from smalti.tokenizers import vqgan
from smalti.tokenizers.vqgan import VQGAN, VQGANConfig


def checkpoint(module: type[torch.nn.Module], config: Any, name: str = "x.pt", **args: Any):
    """A checkpoint without numbers: shapes are all that sizes are found from."""
    with torch.device("meta"):
        return Checkpoint(Path(name), official(module(config)), args)


@st.composite
def generators(draw) -> LlamaGenConfig:
    heads = draw(st.integers(1, 6))
    texts = draw(st.booleans())
    return LlamaGenConfig(
        grid=(draw(st.integers(1, 6)), draw(st.integers(1, 6))),
        vocab=draw(st.integers(2, 40)),
        classes=0 if texts else draw(st.integers(1, 12)),
        text_length=draw(st.integers(1, 9)) if texts else 0,
        text_dim=draw(st.integers(1, 9)) if texts else 2048,
        layers=draw(st.integers(1, 2)),
        heads=heads,
        kv_heads=draw(st.sampled_from([0] + [k for k in range(1, heads) if heads % k == 0])),
        dim=heads * draw(st.sampled_from([4, 8, 12, 16, 64])),
        multiple_of=draw(st.sampled_from([1, 3, 8, 32, 100, 256])),
        ffn_multiplier=draw(st.one_of(st.just(1.0), st.floats(0.3, 3.0))),
    )


@settings(max_examples=30)
@given(config=generators())
def test_generators_come_back(config):
    stored = checkpoint(LlamaGen, config)
    found = gpt_sizes(stored, config.grid, config.heads)
    assert found.ffn_dim == config.ffn_dim
    ffn = {"multiple_of": config.multiple_of, "ffn_multiplier": config.ffn_multiplier}
    assert replace(found, **ffn) == config
    model = assemble(LlamaGen, found, gpt_state(stored.state, found), "x.pt")
    assert model.config == found


@given(dim=st.integers(1, 300).map(lambda n: 4 * n), width=st.integers(1, 5000))
def test_any_feed_forward_width_is_met(dim, width):
    multiple_of, multiplier = ffn_settings(dim, width)
    config = LlamaGenConfig(heads=1, dim=dim, multiple_of=multiple_of, ffn_multiplier=multiplier)
    assert config.ffn_dim == width


@st.composite
def tokenizers(draw) -> VQGANConfig:
    levels = draw(st.integers(1, 4))
    multipliers = st.tuples(*[st.integers(1, 4)] * levels)
    encoder, decoder = draw(multipliers), draw(multipliers)
    config = VQGANConfig(
        size=(256, 256),
        patch=draw(st.sampled_from([1, 2, 4])),
        channels=draw(st.integers(1, 6)),
        multipliers=encoder,
        decoder_multipliers=() if decoder == encoder else decoder,
        blocks=draw(st.integers(1, 2)),
        latent=draw(st.integers(1, 9)),
        vocab=draw(st.integers(2, 40)),
        dim=draw(st.integers(1, 9)),
        attention=draw(st.booleans()),
        l2_norm=draw(st.booleans()),
    )
    return replace(config, size=(config.factor, config.factor))


@settings(max_examples=30)
@given(config=tokenizers())
def test_tokenizers_come_back(config):
    stored = checkpoint(VQGAN, config)
    stored.state["quantize.codebook_used"] = torch.zeros(3)
    found = vq_sizes(stored, config.l2_norm)
    assert found == config
    assert assemble(VQGAN, found, vq_state(stored.state), "x.pt").config == config


@pytest.mark.parametrize("size", PUBLISHED)
def test_published_generators(size):
    config = LlamaGenConfig(**PUBLISHED[size])
    assert gpt_sizes(checkpoint(LlamaGen, config), (16, 16)) == config
    text = replace(config, classes=0, text_length=120, grid=(32, 32))
    assert gpt_sizes(checkpoint(LlamaGen, text), (32, 32)) == text


def test_heads_of_the_sizes_that_are_no_multiple_of_64():
    assert {n: s["dim"] // s["heads"] for n, s in PUBLISHED.items()} == {
        "B": 64, "L": 64, "XL": 64, "XXL": 64, "XXXL": 64, "1B": 64, "3B": 100, "7B": 128,
    }  # fmt: skip


@pytest.mark.parametrize("config", [vqgan.vq16(), vqgan.vq8()])
def test_published_tokenizers(config):
    found = vq_sizes(checkpoint(VQGAN, config))
    assert replace(found, size=config.size) == config


def test_grids_of_published_names():
    sides = {256: 16, 384: 24, 512: 32}
    names = [name for found in PROJECT.repositories.values() for name in found.models]
    assert len(names) == 9
    for name in names:
        side = sides[int(name[-6:-3])]
        assert grid_of(Checkpoint(Path(name), {}, {}), 16) == (side, side)
        assert grid_of(Checkpoint(Path(name), {}, {}), 8) == (2 * side, 2 * side)


@pytest.mark.parametrize("name", ["model.pt", "c2i_B_2560.pt", "c2i_256B.pt", "c2i_B256.pt"])
def test_names_that_tell_no_size(name):
    with pytest.raises(ValueError, match=f"{name} does not say .*: give --size or --grid"):
        grid_of(Checkpoint(Path(name), {}, {}), 16)


def test_stored_options_tell_the_grid():
    args = {"image_size": 384, "downsample_size": 16}
    assert grid_of(Checkpoint(Path("c2i_B_256.pt"), {}, args), 16) == (24, 24)
    with pytest.raises(ValueError, match="learned codes of 16 pixels a side, the tokenizer's .* 8"):
        grid_of(Checkpoint(Path("x.pt"), {}, args), 8)
    with pytest.raises(ValueError, match="option image_size must be int, got '384'"):
        grid_of(Checkpoint(Path("x.pt"), {}, {"image_size": "384"}), 16)
    with pytest.raises(ValueError, match="give --size or --grid"):
        grid_of(Checkpoint(Path("x.pt"), {}, {"image_size": 380}), 16)


@pytest.mark.parametrize("config", [tiny(), replace(tiny(), classes=0, text_length=6, text_dim=12)])
def test_the_rotary_table_tells_grid_and_heads(config):
    config = replace(config, multiple_of=256)
    stored = checkpoint(LlamaGen, config)
    stored.state["freqs_cis"] = LlamaGen(config).rope_table()
    assert grid_of(stored, 16) == config.grid
    assert replace(gpt_sizes(stored, config.grid), dropout=0.0) == config


def test_stored_options_tell_what_tensors_cannot():
    small = replace(tiny(), multiple_of=256)
    stored = checkpoint(
        LlamaGen, small, dropout_p=0.3, gpt_model="GPT-B", num_classes=5, vocab_size=32
    )
    with pytest.raises(ValueError, match="x.pt says GPT-B, but has 2 layers of 32"):
        gpt_sizes(stored, (4, 4))
    assert gpt_sizes(stored, (4, 4), heads=2) == replace(small, dropout=0.3)
    dropped = checkpoint(LlamaGen, small, dropout_p=0.3, drop_path_rate=0.1)
    assert gpt_sizes(dropped, (4, 4), 2) == replace(small, dropout=0.0, drop_path=0.1)
    vq = checkpoint(VQGAN, vqgan.tiny(), codebook_l2_norm=False, dropout_p=0.25)
    wanted = replace(vqgan.tiny(), size=(4, 4), l2_norm=False, dropout=0.25)
    assert vq_sizes(vq) == vq_sizes(vq, l2_norm=False) == wanted


@pytest.mark.parametrize(
    ("args", "heads", "message"),
    [
        ({}, None, "no published model has 2 layers of width 32; give --heads"),
        ({}, 3, "3 heads do not divide width 32 and wqkv's 96 rows"),
        ({}, -2, "-2 heads do not divide"),
        ({}, 16, "dim must be a multiple of 4"),
        ({"num_classes": 6}, 2, "trained without dropping classes: its table of 6 classes"),
        ({"num_classes": 7}, 2, "num_classes is 7, its table has 6 rows"),
        ({"vocab_size": 33}, 2, "vocab_size is 33, its tensors say 32"),
        ({"cls_token_num": 4}, 2, "cls_token_num is 4, its tensors say 1"),
        ({"dropout_p": "no"}, 2, "option dropout_p must be float, got 'no'"),
    ],
)
def test_contradictions(args, heads, message):
    with pytest.raises(ValueError, match=message):
        gpt_sizes(checkpoint(LlamaGen, tiny(), **args), (4, 4), heads)


def test_another_kind_of_file():
    vq, gpt = checkpoint(VQGAN, vqgan.tiny()), checkpoint(LlamaGen, tiny())
    with pytest.raises(ValueError, match="no such file of LlamaGen: it has no tok_embeddings.weig"):
        gpt_sizes(vq, (4, 4), 2)
    with pytest.raises(ValueError, match="it has no encoder.conv_in.weight"):
        vq_sizes(gpt)
    del gpt.state["layers.0.feed_forward.w1.weight"]
    with pytest.raises(ValueError, match="it has no layers.0.feed_forward.w1.weight"):
        gpt_sizes(gpt, (4, 4), 2)
    vq.state["encoder.conv_in.weight"] = torch.zeros(3)
    with pytest.raises(ValueError, match=r"it has shape \(3,\) in encoder.conv_in.weight"):
        vq_sizes(vq)
