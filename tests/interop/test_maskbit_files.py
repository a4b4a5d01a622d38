"""MaskBit's files: from tensors back to the config, random ones and published; mistakes."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import smalti
from builders import build
from official import official, official_maskbit_vqgan, write
from smalti import modules
from smalti.cli.main import main
from smalti.interop.hub import find
from smalti.interop.pickles import Checkpoint
from smalti.interop.projects.maskbit import (
    PROJECT,
    bert_sizes,
    bert_state,
    lfq_sizes,
    lfq_state,
)
from smalti.models import maskbit
from smalti.models.maskbit import MaskBit, MaskBitConfig, published
from smalti.modules import assemble, load_module
from smalti.pipeline.sampling import Sampling
from smalti.tokenizers import maskbit as maskbit_vqgan
from smalti.tokenizers.maskbit import MaskBitVQGAN, MaskBitVQGANConfig, f16

SMALL = replace(maskbit_vqgan.tiny(), size=(4, 4))
BERT = replace(maskbit.tiny(), dropout=0.1)


def checkpoint(module: type, config, **changes) -> Checkpoint:
    """A checkpoint without numbers but those of the constants."""
    with torch.device("meta"):
        made = module(config)
    return Checkpoint(Path("x.bin"), official(made) | changes, {})


@st.composite
def tokenizers(draw) -> MaskBitVQGANConfig:
    levels = draw(st.integers(1, 4))
    blocks = draw(st.integers(1, 2))
    return MaskBitVQGANConfig(
        size=(2 ** (levels - 1), 2 ** (levels - 1)),
        channels=draw(st.integers(1, 6)),
        multipliers=draw(st.tuples(*[st.integers(1, 4)] * levels)),
        blocks=blocks,
        decoder_blocks=draw(st.sampled_from([0, 3])),
        strided=levels == 1 or draw(st.booleans()),
        bits=draw(st.integers(1, 9)),
    )


@settings(max_examples=20)
@given(config=tokenizers())
def test_tokenizers_come_back(config):
    stored = checkpoint(MaskBitVQGAN, config)
    found = lfq_sizes(stored)
    assert found == config
    assert assemble(MaskBitVQGAN, found, lfq_state(stored.state), "x.bin").config == config


@st.composite
def generators(draw) -> MaskBitConfig:
    side, groups, heads = (draw(st.integers(1, 4)) for _ in range(3))
    return MaskBitConfig(
        grid=(side, side),
        channels=groups * draw(st.integers(1, 4)),
        groups=groups,
        classes=draw(st.integers(1, 5)),
        layers=draw(st.integers(1, 3)),
        heads=heads,
        dim=8 * heads,
        ffn_dim=draw(st.integers(1, 9)),
        prenorm=draw(st.booleans()),
    )


@settings(max_examples=20)
@given(config=generators())
def test_generators_come_back(config):
    stored = checkpoint(MaskBit, config)
    found = bert_sizes(stored, config.heads)
    assert found == config
    assert assemble(MaskBit, found, bert_state(stored.state), "x.bin").config == config


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("change", [{}, {"strided": False}, {"multipliers": (3,), "size": (1, 1)}])
def test_weights_come_back_whichever_way_levels_are_stored(change, legacy):
    config = replace(SMALL, **change)
    model = build(MaskBitVQGAN, config)
    stored = official_maskbit_vqgan(model.state_dict(), config.bits, legacy)
    ours, found = model.state_dict(), lfq_state(stored)
    assert found.keys() == ours.keys() and all(torch.equal(found[k], ours[k]) for k in ours)


@pytest.mark.parametrize("bits", [10, 12, 14, 16, 18])
def test_the_published_files(bits):
    found = lfq_sizes(checkpoint(MaskBitVQGAN, f16(bits)))
    assert found == replace(f16(bits), size=(16, 16))
    assert bert_sizes(checkpoint(MaskBit, published(bits))) == published(bits)
    released = find(f"markweber/maskbit_generator_{bits}bit/maskbit_generator_{bits}bit.bin")
    assert released is not None and released.project is PROJECT
    assert released.home == f"markweber/maskbit_tokenizer_{bits}bit"
    assert released.tokenizer == f"maskbit_tokenizer_{bits}bit.bin"


@pytest.mark.parametrize(
    ("bits", "scale", "noise", "power"),
    [(10, 6.4, 10.5, 2.5), (12, 7.1, 8.2, 3), (14, 7.1, 7.8, 3), (16, 6.5, 7.5, 2.5),
     (18, 5.7, 8.5, 2.5)],
)  # fmt: skip
def test_they_are_drawn_as_published(bits, scale, noise, power):
    assert PROJECT.sampling(published(bits)) == Sampling.of(
        guidance=1 + scale,
        schedule="power-cosine",
        power=power,
        steps=64,
        reveal="arccos",
        confidence=noise,
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"decoder.conv_in.weight": torch.ones(16, 7, 3, 3)},
            "x.bin has 6 bits, but 7 in decoder.conv_in.weight",
        ),
        (
            {"quantize.bits_to_indices": 2 ** torch.arange(7)},
            "x.bin has 6 bits, but 7 in quantize.bits_to_indices",
        ),
        (
            {"quantize.bits_to_indices": torch.tensor([32, 16, 8, 4, 2, 1])},
            "x.bin: quantize.bits_to_indices does not have the values of codes of 6 bits",
        ),
        (
            {"quantize.codebook": torch.ones(64, 6)},
            "x.bin: quantize.codebook does not have the values of codes of 6 bits",
        ),
        (
            {"quantize.codebook": torch.ones(32, 6)},
            "x.bin: quantize.codebook does not have the values of codes of 6 bits",
        ),
        (
            {"quantize.embedding.weight": torch.ones(64, 6)},
            "x.bin is no tokenizer of bits: it has a table of 64 codes, quantize.embedding.weight",
        ),
    ],
)
def test_tokenizers_whose_tensors_do_not_agree(changes, message):
    with pytest.raises(ValueError, match=message):
        lfq_sizes(checkpoint(MaskBitVQGAN, SMALL, **changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"prediction_layer.weight": torch.ones(18, 32)},
            "x.bin reads codes of 6 bits, in groups of 3, and predicts 18 ids of all groups",
        ),
        (
            {"bits_to_indices": 2 ** torch.arange(4)},
            "x.bin reads codes of 6 bits, in groups of 4, and predicts 16 ids of all groups",
        ),
        ({"bits_to_indices": torch.ones(3)}, "x.bin: bits_to_indices does not have the values"),
        ({"pos_emb": torch.ones(1, 16, 32)}, "x.bin: pictures must be squares .* 15 positions"),
        ({}, "x.bin: no published model has width 32; give --heads"),
    ],
)
def test_generators_whose_tensors_do_not_agree(changes, message):
    with pytest.raises(ValueError, match=message):
        bert_sizes(checkpoint(MaskBit, BERT, **changes))


@pytest.mark.parametrize("name", ["input_proj.weight", "pos_emb", "bits_to_indices"])
def test_tensors_that_are_missing(name):
    stored = checkpoint(MaskBit, BERT)
    del stored.state[name]
    with pytest.raises(ValueError, match=f"x.bin is no such file of MaskBit: it has no {name}"):
        bert_sizes(stored, 2)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    write(official(build(MaskBitVQGAN, SMALL)), folder / "tokenizer.bin")
    write(official(build(MaskBit, BERT)), folder / "generator.bin")
    write(official(build(MaskBit, replace(BERT, channels=8))), folder / "other.bin")
    return folder


def command(files: Path, out: Path, *options: str, model: str = "generator.bin") -> list[str]:
    given = ["--tokenizer", str(files / "tokenizer.bin")]
    if model:
        given += ["--model", str(files / model), "--heads", "2"]
    return ["convert", "maskbit", *given, "--out", str(out), *options]


def test_a_pipeline_is_drawn_as_published(files, tmp_path):
    main(command(files, tmp_path / "p", "--bits", "6"))
    pipe = smalti.load(tmp_path / "p", "cpu", torch.float32)
    assert pipe.model.config == BERT and pipe.tokenizer.config == replace(SMALL, size=(16, 16))
    assert pipe.sampling.guidance.scale == 8.1 and pipe.sampling.reveal.schedule == "arccos"
    assert len(pipe(n=2, seed=1, steps=4)) == 2


def test_a_tokenizer_alone_has_the_size_that_is_asked_for(files, tmp_path):
    main(command(files, tmp_path / "t", "--size", "8x12", model=""))
    tokenizer, info = load_module(tmp_path / "t", modules.TOKENIZERS)
    assert tokenizer.config == replace(SMALL, size=(8, 12))
    assert list(info["files"]) == ["tokenizer.bin"]


@pytest.mark.parametrize(
    ("model", "options", "words"),
    [
        ("", ["--bits", "14"], "tokenizer.bin has 6 bits, got --bits 14"),
        ("other.bin", [], "other.bin draws codes of 8 bits; the tokenizer has 6"),
        ("generator.bin", ["--heads", "5"], "dim must be a multiple of heads, got 32, 5"),
        ("", ["--size", "18"], "--size must be a number or HEIGHTxWIDTH, multiples of 4"),
    ],
)
def test_options_that_do_not_fit(files, tmp_path, capsys, model, options, words):
    with pytest.raises(SystemExit) as stop:
        main(command(files, tmp_path / "p", *options, model=model))
    output = capsys.readouterr()
    (line,) = output.err.splitlines()
    assert stop.value.code == 2 and not output.out and words in line
    assert not list(tmp_path.iterdir())
