"""Infinity's files: from tensors back to the config, random ones and published; mistakes."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from builders import build
from official import official, write
from smalti import modules
from smalti.cli.main import main
from smalti.interop.pickles import Checkpoint
from smalti.interop.projects.infinity import vae_sizes, vae_state
from smalti.modules import assemble, load_module
from smalti.tokenizers import infinity
from smalti.tokenizers.infinity import (
    InfinityVAE,
    InfinityVAEConfig,
    at,
    published,
    published_d56,
    schedule,
)

ONE = ((1, 1),)
SMALL = at(infinity.tiny(), ONE)


def checkpoint(config: InfinityVAEConfig) -> Checkpoint:
    """A checkpoint without numbers but those of the constant."""
    with torch.device("meta"):
        made = InfinityVAE(config)
    return Checkpoint(Path("x.pth"), official(made), {})


@st.composite
def tokenizers(draw) -> InfinityVAEConfig:
    levels = draw(st.integers(1, 4))
    down, up = (draw(st.tuples(*[st.integers(1, 4)] * levels)) for _ in range(2))
    cells = draw(st.integers(1, 3))
    side = cells * 2 ** (levels - 1)
    return InfinityVAEConfig(
        size=(side, side),
        channels=draw(st.integers(1, 6)),
        multipliers=down,
        decoder_multipliers=() if up == down else up,
        blocks=draw(st.integers(1, 2)),
        scales=ONE,
        bits=draw(st.integers(1, 9)),
        cells=cells,
    )


@settings(max_examples=20)
@given(config=tokenizers())
def test_tokenizers_come_back(config):
    stored = checkpoint(config)
    found = vae_sizes(stored, config.cells)
    assert found == config
    assert assemble(InfinityVAE, found, vae_state(stored.state), "x.pth").config == config


@pytest.mark.parametrize("change", [{}, {"decoder_multipliers": (2, 1, 3)}, {"channels": 24}])
def test_weights_come_back(change):
    model = build(InfinityVAE, replace(SMALL, **change))
    ours, found = model.state_dict(), vae_state(official(model))
    assert found.keys() == ours.keys() and all(torch.equal(found[k], ours[k]) for k in ours)


@pytest.mark.parametrize(
    "config", [published(16), published(24), published(32), published(64), published_d56()]
)
def test_the_published_tokenizers(config):
    found = vae_sizes(checkpoint(config))
    assert found == at(config, ONE) and found.factor == 16
    assert at(found, schedule(1.0, "1M")) == config


@pytest.mark.parametrize(
    ("name", "axis", "message"),
    [
        ("decoder.conv_in.conv.weight", 1, "x.pth has 6 bits, but 7 in decoder.conv_in.conv.we"),
        ("quantizer.lfq.mask", 0, "x.pth has 6 bits, but 7 in quantizer.lfq.mask"),
        ("quantize.lfq.mask", 0, "x.pth has 6 bits, but 7 in quantize.lfq.mask"),
    ],
)
def test_tensors_that_do_not_agree_in_their_bits(name, axis, message):
    stored = checkpoint(SMALL)
    shape = list(stored.state[name].shape)
    shape[axis] = 7
    stored.state[name] = torch.empty(shape)
    with pytest.raises(ValueError, match=message):
        vae_sizes(stored)


@pytest.mark.parametrize(
    "name", ["encoder.conv_in.conv.weight", "encoder.conv_out.conv.weight", "decoder.conv_in.conv."
             "weight", "decoder.up.1.block.0.conv1.conv.weight"],
)  # fmt: skip
def test_tensors_that_are_missing(name):
    stored = checkpoint(SMALL)
    del stored.state[name]
    with pytest.raises(ValueError, match=f"x.pth is no such file of Infinity: it has no {name}"):
        vae_sizes(stored)


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    model = build(InfinityVAE, SMALL)
    return write({"vae": official(model)}, tmp_path_factory.mktemp("files") / "infinity_vae.pth")


def command(file: Path, out: Path, *options: str) -> list[str]:
    return ["convert", "infinity", "--tokenizer", str(file), "--out", str(out), *options]


def test_schedules_and_cells_that_are_given(file, tmp_path):
    main(command(file, tmp_path / "a", "--ratio", "0.75", "--budget", "0.06M", "--bits", "6"))
    tokenizer, _ = load_module(tmp_path / "a", modules.TOKENIZERS)
    assert tokenizer.config == at(replace(SMALL, size=(16, 16), cells=4), schedule(0.75, "0.06M"))
    main(command(file, tmp_path / "b", "--cells", "1"))
    tokenizer, _ = load_module(tmp_path / "b", modules.TOKENIZERS)
    assert tokenizer.config == at(SMALL, schedule(1.0, "1M"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--bits", "16"], "infinity_vae.pth has 6 bits, got --bits 16"),
        (["--ratio", "1.1"], "ratio (height / width) must be one of 0.333, 0.4, 0.5, 0.571, "),
        (["--budget", "2M"], "2M"),
        (["--cells", "0"], "cells must be at least 1, got 0"),
    ],
)
def test_options_that_do_not_fit(file, tmp_path, capsys, options, words):
    with pytest.raises(SystemExit) as stop:
        main(command(file, tmp_path / "t", *options))
    output = capsys.readouterr()
    (line,) = output.err.splitlines()
    assert stop.value.code == 2 and not output.out and words in line
    assert not list(tmp_path.iterdir())
